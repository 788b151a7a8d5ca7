"""Progress and remaining time, on a fake clock that only the tests move."""

import time

import pytest

from homespun.training.checkpointing.position import Position
from homespun.training.timing.clock import Clock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the fake clock, as a list of one item."""
    now = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_the_nearest_limit_counts(now: list[float]) -> None:
    position = Position()
    clock = Clock(position, total_steps=10, time_budget=100.0)
    assert (clock.progress(), clock.seconds_left()) == (0.0, None)
    position.step, now[0] = 2, 1010.0
    assert clock.progress() == 0.2
    assert clock.progress(step=3) == 0.3
    assert clock.seconds_left() == pytest.approx(40.0)
    now[0] = 1050.0
    assert clock.progress() == 0.5
    now[0] = 1200.0
    assert clock.progress() == 1.0
    assert clock.out_of_time()


def test_a_resumed_run_counts_the_time_before_it_was_stopped_but_estimates_from_its_own(
    now: list[float],
) -> None:
    position = Position(step=5, elapsed_seconds=90.0)
    clock = Clock(position, total_steps=10, time_budget=None)
    position.step, now[0] = 6, 1003.0
    assert clock.elapsed() == pytest.approx(93.0)
    assert clock.seconds_left() == pytest.approx(3.0 * 4)
    assert not clock.out_of_time()


def test_the_time_left_follows_the_recent_pace(now: list[float]) -> None:
    """The machine was ten times slower for a while, for example on battery; the estimate forgets it."""
    position = Position()
    clock = Clock(position, total_steps=10_000, time_budget=None)
    for _ in range(100):
        position.step, now[0] = position.step + 1, now[0] + 10.0
        clock.seconds_left()
    assert clock.seconds_left() == pytest.approx(9900 * 10.0)
    for _ in range(600):
        position.step, now[0] = position.step + 1, now[0] + 1.0
        clock.seconds_left()
    assert clock.seconds_left() == pytest.approx(9300 * 1.0, rel=0.05)


def test_a_long_evaluation_does_not_end_the_estimate(now: list[float]) -> None:
    position = Position()
    clock = Clock(position, total_steps=100, time_budget=None)
    for _ in range(10):
        position.step, now[0] = position.step + 1, now[0] + 1.0
        clock.seconds_left()
    now[0] += 10_000.0
    left = clock.seconds_left()
    assert left is not None
    assert left == pytest.approx(10_010 / 10 * 90)
