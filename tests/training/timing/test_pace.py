"""The notice about a machine that is busy: once, with its figures and cause, and not for small or short changes."""

from typing import Any

from homespun.training.timing.pace import Pace


def notices(*phases: tuple[int, float, float], **changes: Any) -> list[str]:
    """Of a run whose phases have so many steps, of so many seconds and processors each."""
    pace = Pace(1000, **{"on_cpu": True, "has_budget": False} | changes)
    said = [
        pace.observe(seconds, processors * seconds)
        for steps, seconds, processors in phases
        for _ in range(steps)
    ]
    return [notice for notice in said if notice]


def test_a_machine_that_is_shared_is_named_once_with_its_figures() -> None:
    [notice] = notices((100, 0.5, 2.0), (500, 1.25, 0.8), (500, 0.5, 2.0), (500, 2.0, 0.5))
    assert notice == (
        "The machine trains 800 tokens/s now, and trained 2,000 before: other programs use the processor, of which "
        "this run gets 40% of its earlier time. The run takes longer; the result of a step is the same."
    )


def test_heat_that_costs_ten_percent_says_nothing_nor_does_a_fifth_or_a_short_pause() -> None:
    assert notices((200, 0.5, 2.0), (2000, 0.55, 2.0)) == []
    assert notices((200, 0.5, 2.0), (2000, 0.625, 2.0)) == []
    assert notices((200, 0.5, 2.0), (1, 60.0, 0.0), (200, 0.5, 2.0)) == []
    assert notices((200, 0.5, 2.0), (15, 1.5, 1.0), (200, 0.5, 2.0)) == []  # 22 seconds


def test_a_slow_first_step_is_not_the_measure_and_no_slow_machine() -> None:
    assert notices((1, 90.0, 1.0), (500, 0.5, 2.0)) == []


def test_long_steps_are_judged_by_their_number() -> None:
    assert notices((9, 60.0, 2.0), (8, 150.0, 1.0)) == []
    assert len(notices((9, 60.0, 2.0), (9, 150.0, 1.0))) == 1


def test_the_cause_is_that_which_the_figures_show() -> None:
    slower = ((100, 0.5, 2.0), (100, 1.25, 2.0))
    [on_cpu] = notices(*slower)
    [on_gpu] = notices(*slower, on_cpu=False)
    [with_budget] = notices(*slower, has_budget=True)
    assert "heat or a battery slows the processor down" in on_cpu
    assert "other programs use the GPU" in on_gpu
    assert "The run makes fewer steps in its time" in with_budget
