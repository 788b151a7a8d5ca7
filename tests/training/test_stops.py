"""Runs on a fake clock that stop at any event: once resumed, they have written what an uninterrupted run writes."""

import signal
from typing import Any

import pytest

from homespun.engine.base import StepResult
from homespun.errors import UserError
from homespun.records.events import Advice, Event, Sample, Step, StopRun
from homespun.training.checkpointing.position import Position
from homespun.training.interrupts import Interrupts
from homespun.training.run import Run
from tests.training.fake_run import Story, Work

OFTEN = {
    "max_steps": 6,
    "save_interval": 4,
    "eval_interval": 2,
    "sample_interval": 3,
    "eval_tokens": 24,
    "sample_prompts": ("a", "b", "c"),
}


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that the fake model has continued; each time with another text would be a difference."""
    prompts: list[str] = []

    def sample_text(run: Run, prompt: str) -> str:
        prompts.append(prompt)
        return f"{prompt} and so on"

    monkeypatch.setattr("homespun.training.loop.sample_text", sample_text)
    return prompts


def untimed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in record.items() if k not in ("tokens_per_second", "seconds")}
        for record in records
    ]


def resumed(monkeypatch: pytest.MonkeyPatch, stopped: Story, **settings: Any) -> tuple[Any, ...]:
    """All records and the last position of a run that was stopped, after it has been resumed."""
    saved = stopped.checkpoint
    assert saved
    position = Position.restored(saved["position"])
    again = Story(monkeypatch, Work(waits=False), position=position, **settings)
    kept = stopped.records[: saved["metrics_length"]]
    return untimed(kept + again.records), measured_at(again.position)


def measured_at(position: Position) -> tuple[Any, ...]:
    return position.step, position.evaluated_at, position.sampled_at, position.guard


@pytest.mark.parametrize(
    "settings",
    [OFTEN, {**OFTEN, "max_steps": 40, "eval_interval": None, "sample_interval": None}],
    ids=["intervals", "recipe"],
)
def test_a_run_stopped_at_any_event_writes_what_an_uninterrupted_one_writes(
    monkeypatch: pytest.MonkeyPatch, writes: list[str], settings: dict[str, Any]
) -> None:
    """Also where evaluation and samples of the last step were still due, or half of the samples were written."""
    monkeypatch.setattr("homespun.training.timing.due.SAMPLING_COST", 0.01)
    control = Story(monkeypatch, Work(waits=False), **settings)
    assert control.steps_with("val_loss")
    assert control.steps_with("text")
    expected = untimed(control.records), measured_at(control.position)
    first_step = next(n for n, event in enumerate(control.events) if isinstance(event, Step))
    for number in range(first_step, len(control.events) - 1):
        left = number

        def stop(event: Event) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise StopRun

        stopped = Story(monkeypatch, Work(waits=False), on_event=stop, **settings)
        assert resumed(monkeypatch, stopped, **settings) == expected, control.events[number]


def test_a_stop_waits_for_no_evaluation_and_for_one_sample_at_most(
    monkeypatch: pytest.MonkeyPatch, writes: list[str]
) -> None:
    settings = {**OFTEN, "max_steps": 2, "sample_interval": 2, "eval_tokens": 96}
    control = Story(monkeypatch, Work(waits=False), **settings)
    expected = untimed(control.records), measured_at(control.position)

    work, interrupts, batches = Work(waits=False), Interrupts(), []

    def stop() -> None:
        batches.append(1)
        interrupts.stopped_by = signal.SIGTERM

    work.before_loss = stop
    stopped = Story(monkeypatch, work, interrupts=interrupts, **settings)
    assert (len(batches), stopped.ended_by, stopped.saved) == (1, "SIGTERM", [2])
    assert stopped.steps_with("val_loss") == stopped.steps_with("text") == []
    assert resumed(monkeypatch, stopped, **settings) == expected

    def stop_at_sample(event: Event) -> None:
        if isinstance(event, Sample):
            raise StopRun

    writes.clear()
    stopped = Story(monkeypatch, Work(waits=False), on_event=stop_at_sample, **settings)
    assert writes == ["a"]
    assert resumed(monkeypatch, stopped, **settings) == expected
    assert writes == ["a", "b", "c"]


def test_a_round_that_another_interval_cancels_is_not_continued_at_a_later_step(
    monkeypatch: pytest.MonkeyPatch, writes: list[str]
) -> None:
    position = Position(step=3, prompts_done=2)
    settings = {**OFTEN, "max_steps": 8, "sample_interval": 4, "eval_interval": 100}
    run = Story(monkeypatch, Work(waits=True), position=position, **settings)
    assert writes == ["a", "b", "c"] * 2
    assert run.steps_with("text") == [4, 4, 4, 8, 8, 8]


def test_a_signal_in_the_last_evaluation_leaves_it_to_the_resumed_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {**OFTEN, "eval_interval": 100, "sample_prompts": ()}
    work, interrupts = Work(waits=True), Interrupts()
    work.before_loss = lambda: setattr(interrupts, "stopped_by", signal.SIGINT)
    stopped = Story(monkeypatch, work, interrupts=interrupts, **settings, batch_size=1)
    assert (stopped.ended_by, stopped.saved) == ("SIGINT", [4, 6])
    records, (step, evaluated_at, *_) = resumed(monkeypatch, stopped, **settings, batch_size=1)
    assert (step, evaluated_at) == (6, 6)
    assert "val_loss" in records[-1]


@pytest.mark.parametrize("waits", [True, False], ids=["cpu", "gpu"])
@pytest.mark.parametrize("cause", ["spike", "standstill"])
def test_message_record_and_checkpoint_of_a_step_that_ends_a_run_agree(
    monkeypatch: pytest.MonkeyPatch, waits: bool, cause: str
) -> None:
    """Also on a device that computes a step while the one before it is read."""
    bad = 60 if cause == "spike" else 51  # the first of a standstill, which has ten
    last = 60

    def results(step: int) -> StepResult:
        jumped = step == bad if cause == "spike" else step >= bad
        return StepResult(9.0 if jumped else 1.0, 1.0, clipped=False, applied=not jumped)

    work = Work(waits)
    work.results = results
    on_spike = "stop" if cause == "spike" else "skip"
    settings = {"max_steps": 99, "save_interval": 7, "eval_interval": 100, "sample_prompts": ()}
    events: list[Event] = []
    with pytest.raises(UserError, match=f"in step {last}[ ,]") as raised:
        Story(
            monkeypatch, work, on_event=events.append, on_spike=on_spike, log_interval=1, **settings
        )
    assert str(raised.value).startswith(f"{cause}: ")
    said = [event for event in events if isinstance(event, Advice) and event.ends_run]
    assert [event.step for event in said] == [last]
    if cause == "spike":
        assert work.steps[-1] == last - 1  # no later step was begun
        assert work.saved[-1] == 56  # after a refused step nothing is saved
        assert [event.step for event in events if isinstance(event, Step)][-1] == last
