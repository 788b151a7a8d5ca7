"""The training loop on a fake clock: measured times, intervals, failed saves, and listeners."""

import math
from pathlib import Path
from typing import Any

import pytest

from homespun.engine.base import StepResult
from homespun.errors import DiskFullError, UserError
from homespun.records.events import Evaluation, Event, Saved, Step, StopRun
from homespun.training.checkpointing.position import Position
from homespun.training.timing.due import MAX_SAVING_SHARE, MAX_UNSAVED_SECONDS
from tests.training.fake_run import DISPATCH, EVALUATION, SAVE, STEP, Story, Work


@pytest.mark.parametrize("waits", [True, False], ids=["cpu", "gpu"])
@pytest.mark.parametrize("log_interval", [1, 2])
def test_only_steps_are_time_of_training(
    monkeypatch: pytest.MonkeyPatch, waits: bool, log_interval: int
) -> None:
    work = Work(waits)
    run = Story(
        monkeypatch,
        work,
        max_steps=8,
        log_interval=log_interval,
        eval_interval=2,
        save_interval=4,
        eval_tokens=8,
        sample_prompts=(),
    )
    speeds = [record["tokens_per_second"] for record in run.records if "loss" in record]
    tokens_per_record = log_interval * run.config.tokens_per_step
    assert sum(tokens_per_record / speed for speed in speeds) == pytest.approx(work.trained)
    assert run.position.training_seconds == work.trained
    # One save for the first evaluation, which is the best, and one at step 4. The last save is not yet counted.
    assert run.position.elapsed_seconds == work.trained + 4 * EVALUATION + 2 * SAVE


def test_each_step_has_a_number_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(waits=False)
    Story(monkeypatch, work, max_steps=5, sample_prompts=())
    assert work.steps == [0, 1, 2, 3, 4]


def test_a_checkpoint_is_also_saved_by_the_clock_unless_that_costs_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Story(
        monkeypatch, Work(waits=True), max_steps=1500, sample_prompts=(), eval_interval=2000
    )
    seconds_per_step = DISPATCH + STEP
    first = MAX_UNSAVED_SECONDS / seconds_per_step
    second = first + SAVE / MAX_SAVING_SHARE / seconds_per_step
    assert run.saved == [first, 1000, 1500]
    assert second > 1000


def test_evaluations_of_the_recipe_are_tenths_of_the_run_or_what_it_can_afford(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def evaluated(**settings: Any) -> list[int]:
        settings |= {"eval_interval": None, "sample_prompts": (), "log_interval": 1000}
        return Story(monkeypatch, Work(waits=True), **settings).steps_with("val_loss")

    assert evaluated(max_steps=200, eval_tokens=4) == list(range(20, 201, 20))
    assert evaluated(max_steps=205, eval_tokens=4) == [*range(21, 190, 21), 205]
    # An evaluation of 48 tokens costs as much as 3/2 of a step of 8 tokens, which is 3% of 50 steps.
    assert evaluated(max_steps=200, eval_tokens=48) == [50, 100, 150, 200]
    assert evaluated(max_steps=49, eval_tokens=48) == [49]
    # By time: the second tenth includes 100 s for the first evaluation and 50 s for saving the best weights.
    steps = evaluated(time_budget="2000s", eval_tokens=4)
    assert steps[0] == 80
    assert len(steps) in (9, 10)


def logged(run: Story) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in run.records if "loss" in record}


def with_losses(waits: bool, *losses: float) -> Work:
    """Work whose steps have these losses; one that is no number is refused."""
    work = Work(waits)
    work.results = lambda step: StepResult(
        losses[step - 1], 1.0, clipped=False, applied=math.isfinite(losses[step - 1])
    )
    return work


@pytest.mark.parametrize("waits", [True, False], ids=["cpu", "gpu"])
def test_a_line_has_the_mean_loss_of_the_steps_since_the_last_one(
    monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    losses = [4.0, 3.0, 2.0, 5.0, 1.0, 1.5]
    quiet: Any = {"max_steps": 6, "sample_prompts": ()}
    run = Story(monkeypatch, with_losses(waits, *losses), log_interval=3, **quiet)
    assert logged(run) == {3: 3.0, 6: 2.5}
    each = Story(monkeypatch, with_losses(waits, *losses), log_interval=1, **quiet)
    assert list(logged(each).values()) == losses
    assert [event.loss for event in run.events if isinstance(event, Step)] == losses


def test_refused_steps_do_not_count_in_the_mean_unless_there_are_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses = [4.0, math.nan, 2.0, math.nan, math.inf, math.nan, 1.0, 1.0, math.inf]
    run = Story(
        monkeypatch,
        with_losses(True, *losses),
        max_steps=9,
        log_interval=3,
        sample_prompts=(),
    )
    found = logged(run)
    assert (found[3], found[9]) == (3.0, 1.0)
    assert math.isnan(found[6])  # all three were refused: the loss of the last one


@pytest.mark.parametrize("stored", [True, False], ids=["now", "earlier version"])
def test_a_run_that_is_resumed_between_two_lines_logs_the_mean_of_the_uninterrupted_one(
    monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    losses = [4.0, 3.1, 2.3, 5.7]
    quiet: Any = {"log_interval": 4, "sample_prompts": ()}
    whole = Story(monkeypatch, with_losses(True, *losses), max_steps=4, **quiet)
    begun = Story(monkeypatch, with_losses(True, *losses), max_steps=2, **quiet)
    assert begun.checkpoint is not None
    position = begun.checkpoint["position"]
    if not stored:
        del position["epoch"], position["window"]["loss"], position["window"]["applied"]
    resumed = Story(
        monkeypatch,
        with_losses(True, *losses),
        max_steps=4,
        position=Position.restored(position),
        **quiet,
    )
    assert logged(resumed) == (logged(whole) if stored else {4: (2.3 + 5.7) / 2})
    assert resumed.position.epoch == whole.position.epoch == 4 * 2 / 25
    complete = Story(
        monkeypatch, Work(True), max_steps=2, position=Position.restored(position), **quiet
    )
    assert complete.position.epoch == 2 * 2 / 25


STEPS = {"max_steps": 9, "save_interval": 3, "eval_interval": 100, "sample_prompts": ()}


def test_a_failed_save_ends_the_run_at_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(waits=True)
    with pytest.raises(UserError, match="the disk is gone"):
        Story(monkeypatch, work, {3: UserError("the disk is gone")}, **STEPS)
    assert len(work.steps) in (3, 4)  # the next step may have begun


def test_a_full_disk_costs_one_save_unless_it_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    full = DiskFullError("no room")
    run = Story(monkeypatch, Work(waits=True), {6: full}, **STEPS)
    assert run.saved == [3, 9, 9]  # again after the last evaluation
    complete = {(event.step, event.path) for event in run.events if isinstance(event, Saved)}
    assert complete == {(3, Path("3.npz")), (9, Path("9.npz"))}
    assert run.messages == ["Not saved: no room. The run continues, and the next save tries again."]
    with pytest.raises(DiskFullError, match="no room"):
        Story(monkeypatch, Work(waits=True), {9: full}, **STEPS)


def test_a_listener_ends_the_run_after_the_step_and_it_is_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Step) and event.step >= 4:
            raise StopRun("enough" if event.step == 4 else "too late")

    story = Story(monkeypatch, Work(waits=True), on_event=stop, **STEPS)
    assert (story.ended_by, story.saved, story.emit.error) == ("on_event: enough", [3, 4], None)
    assert story.steps_with("val_loss") == []


def test_an_error_of_a_listener_costs_no_step_and_it_is_not_called_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def fail(event: Event) -> None:
        calls.append(event)
        if isinstance(event, Step) and event.step == 4:
            raise ZeroDivisionError

    story = Story(monkeypatch, Work(waits=True), on_event=fail, **STEPS)
    assert isinstance(story.emit.error, ZeroDivisionError)
    assert (story.ended_by, story.saved) == ("on_event: ZeroDivisionError()", [3, 4])
    assert calls[-1].step == 4
    assert len(calls) < len(story.events)


def test_the_users_listener_gets_what_the_others_get_and_after_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Event] = []
    story = Story(monkeypatch, Work(waits=False), on_event=calls.append, **STEPS)
    assert calls == story.events
    assert [event.step for event in calls if isinstance(event, Step)] == list(range(1, 10))
    assert [event.step for event in calls if isinstance(event, Evaluation)] == [9]


def test_a_machine_that_becomes_busy_is_named_in_a_message_and_not_in_the_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = Work(waits=True)

    def result(step: int) -> StepResult:
        work.pass_by(6.0 if step > 40 else 0.0)
        return StepResult(1.0, 1.0, clipped=False, applied=True)

    work.results = result
    run = Story(monkeypatch, work, max_steps=120, sample_prompts=(), eval_interval=1000)
    [said] = [text for text in run.messages if "tokens/s" in text]
    assert "trains 1 tokens/s now, and trained 3 before" in said
    assert not any("advice" in record for record in run.records)
