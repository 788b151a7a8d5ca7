"""The training loop on a fake clock: measured times, intervals, failed saves, and listeners."""

import json
import math
import signal
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from homespun.checkpoint.writer import CheckpointWriter
from homespun.config import ModelConfig
from homespun.config.checked import seconds
from homespun.data.samples import TextDataset
from homespun.engine.base import StepResult
from homespun.errors import DiskFullError, UserError
from homespun.planning.recipe import step_limits
from homespun.planning.resolved import ResolvedConfig
from homespun.records.events import Advice, Evaluation, Event, Message, Sample, Saved, Step, StopRun
from homespun.records.record import as_record
from homespun.training.checkpointing.position import Position
from homespun.training.checkpointing.saver import Saver
from homespun.training.interrupts import Interrupts
from homespun.training.loop import Loop
from homespun.training.output.emitter import Emitter
from homespun.training.run import Run
from homespun.training.timing.clock import Clock
from homespun.training.timing.due import MAX_SAVING_SHARE, MAX_UNSAVED_SECONDS

DISPATCH, STEP, EVALUATION, SAVE = 0.5, 2.0, 100.0, 50.0
"""Duration of each kind of work, in seconds of the fake clock."""


class Work:
    """A fake clock, and a fake engine that takes time on it.

    With `waits`, `train_step` returns when the step is computed, as on a CPU. Otherwise the step is computed while the
    loop continues, as on a GPU.
    """

    def __init__(self, waits: bool) -> None:
        self.waits = waits
        self.facts, self.narrow = {"device": "cpu (slow)"}, frozenset[str]()
        self.now = self.free = 0.0
        self.trained = 0.0
        self.steps: list[int] = []
        self.saved: list[int] = []
        """The saves of the run."""
        self.before_step: Callable[[], object] = lambda: None
        self.results: Callable[[int], StepResult] = lambda step: StepResult(1.0, 1.0, False, True)
        self.before_loss: Callable[[], object] = lambda: None

    def pass_by(self, seconds: float) -> None:
        self.now += seconds

    def train_step(
        self, microbatches: Any, lr: dict[str, float], step: int, **limits: float
    ) -> Any:
        self.before_step()
        self.steps.append(step)
        began = max(self.now, self.free)
        self.pass_by(DISPATCH)
        done = max(self.now, self.free) + STEP
        self.trained += done - began
        self.free = done
        if self.waits:
            self.now = done

        def result() -> StepResult:
            self.now = max(self.now, done)
            return self.results(step + 1)

        return SimpleNamespace(ready=lambda: self.now >= done, result=result)

    def loss(self, batch: Any) -> tuple[float, int]:
        self.before_loss()
        self.pass_by(EVALUATION)
        return 1.0, batch.n_targets

    def peak_memory(self) -> int:
        return 0

    def active_memory(self) -> None:
        return None

    def state(self) -> Any:
        return iter(())


class Story:
    """A run of the loop over `work`, with its events and the steps of its saves.

    With `failures`, the errors of saves by step, the run saves in the background. Each save succeeds or fails before
    the next step is computed.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        work: Work,
        failures: dict[int, UserError] | None = None,
        on_event: Callable[[Event], object] | None = None,
        position: Position | None = None,
        interrupts: Interrupts | None = None,
        **settings: Any,
    ) -> None:
        self.events: list[Event] = []
        self.saved: list[int] = []
        work.saved = self.saved
        self.checkpoint: dict[str, Any] | None = None
        """The position and the number of records that were saved last."""
        self.position = position or Position()
        self.config = ResolvedConfig(**{"seq_len": 4, "batch_size": 2} | settings)
        tokens = np.arange(100)
        run = Run(
            config=self.config,
            model=ModelConfig(architecture="qwen3", vocab_size=100, seq_len=4),
            engine=work,  # type: ignore[arg-type]
            tokenizer=SimpleNamespace(byte_lengths=np.ones(100, dtype=np.int32)),  # type: ignore[arg-type]
            tokens=SimpleNamespace(training=tokens, validation=tokens),  # type: ignore[arg-type]
            dataset=TextDataset(tokens, seq_len=4),
            header={},
            limits=step_limits(self.config, 24),
        )

        def save(step: int, *parts: Any) -> Path:
            work.pass_by(SAVE)
            if failures and step in failures:
                raise failures[step]
            self.saved.append(step)
            self.checkpoint = json.loads(json.dumps(parts[-1]))
            return Path(f"{step}.npz")

        folder: Any = SimpleNamespace(
            path=Path(),
            check_space=lambda *needed: None,
            save=save,
            save_best=lambda *parts: work.pass_by(SAVE),
        )
        monkeypatch.setattr(time, "perf_counter", lambda: work.now)
        budget = self.config.time_budget
        clock = Clock(self.position, run.total_steps, seconds(budget) if budget else None)
        self.emit = Emitter(self.position, clock, [self.events.append], on_event)
        writer = CheckpointWriter(
            folder, 0, in_background=failures is not None, report=self.emit.message
        )
        work.before_step = lambda: writer.under_way and futures.wait([writer.under_way])
        log: Any = SimpleNamespace(sync=lambda: len(self.records), sha256="")
        with writer:
            saver = Saver(run, self.position, writer, log)
            loop = Loop(run, self.position, clock, saver, self.emit, interrupts or Interrupts())
            self.ended_by = loop.train()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [dict(record) for record in map(as_record, self.events) if record]

    @property
    def messages(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Message)]

    def steps_with(self, measured: str) -> list[int]:
        return [record["step"] for record in self.records if measured in record]


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
