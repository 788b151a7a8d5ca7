"""Batches flow in, finished optimizer steps come out. A step is dispatched before the one before it is read, so that a
GPU never waits for the loop.
"""

import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from homespun.data.batch import Batch
from homespun.engine.base import StepHandle, StepResult
from homespun.records.events import LoggedSteps, Router
from homespun.training.checkpointing.position import Position, Window
from homespun.training.diagnostics.experts import added, means
from homespun.training.diagnostics.step_guard import Finding, Limits
from homespun.training.run import Run
from homespun.training.timing.clock import Clock
from homespun.training.timing.pace import Pace


@dataclass(frozen=True)
class StepInputs:
    """The inputs of a step that its reports need."""

    rates: dict[str, float]
    """Learning rate by optimizer, of those in use."""
    limits: Limits
    batch: str
    """Fingerprint of the tokens."""


class Steps:
    """The optimizer steps of a run, in order; advances the position."""

    def __init__(self, run: Run, position: Position, clock: Clock) -> None:
        self._run, self._position, self._clock = run, position, clock
        self._batches = run.dataset.batches(run.config.seed)
        self._count_passes()  # a checkpoint of an earlier version has none
        self._rate_curve = run.rate_curve
        self._pending: tuple[StepHandle, StepInputs] | None = None
        self._mark = 0.0
        """The time from which the next step to be read is measured."""
        self._processor_mark = 0.0
        """The same of the time of all processors."""
        c = run.config
        self._pace = Pace(
            c.tokens_per_step,
            on_cpu="cpu" in run.engine.facts["device"].lower(),
            has_budget=c.time_budget is not None,
        )
        self.notice: str | None = None
        """About the speed of the machine, for the reader of the console."""

    def _count_passes(self) -> None:
        self._position.epoch = self._position.next_sample / self._run.dataset.samples_per_pass

    def next_batch(self) -> list[Batch]:
        """The micro-batches of the next step, [batch_size, seq_len] each."""
        if self._pending is None:  # the time since the last step was not training time
            self._mark = self._clock.now()
            self._processor_mark = time.process_time()
        return self._microbatches()

    def _microbatches(self) -> list[Batch]:
        c = self._run.config
        return self._batches.microbatches(
            self._position.next_sample, c.batch_size, c.grad_accumulation_steps
        )

    def take(self, microbatches: Sequence[Batch]) -> Iterator[tuple[StepResult, StepInputs]]:
        """Dispatch a step, yield the one before it, and this one too if it is done already, or if it may end the run
        by a spike: then no later step has changed the weights that are saved."""
        c, position = self._run.config, self._position
        limits = position.guard.limits(position.step + 1)
        rates = self._rates()
        enforced = Limits() if c.on_spike == "warn" else limits
        handle = self._dispatch(microbatches, rates, enforced)
        yield from self.finish()
        position.step += 1
        position.next_sample += c.sequences_per_step
        position.tokens += sum(batch.n_targets for batch in microbatches)
        self._count_passes()
        self._pending = handle, StepInputs(rates, limits, _fingerprint(microbatches))
        if handle.ready() or c.on_spike == "stop":
            yield from self.finish()

    def _dispatch(
        self, microbatches: Sequence[Batch], rates: dict[str, float], enforced: Limits
    ) -> StepHandle:
        return self._run.engine.train_step(
            microbatches,
            rates,
            self._position.step,
            loss_limit=enforced.loss,
            norm_limit=enforced.norm,
        )

    def finish(self) -> Iterator[tuple[StepResult, StepInputs]]:
        """Wait for the dispatched step, if there is one, and yield it."""
        if self._pending is None:
            return
        handle, inputs = self._pending
        self._pending = None
        result = handle.result()
        position, window = self._position, self._position.window
        now = self._clock.now()
        processor_time = time.process_time()
        self.notice = self._pace.observe(now - self._mark, processor_time - self._processor_mark)
        self._processor_mark = processor_time
        position.training_seconds += now - self._mark
        window.seconds += now - self._mark
        self._mark = now
        window.steps += 1
        window.clipped += result.clipped
        if result.applied:  # the loss of a refused step may be no number
            window.loss += result.loss
            window.applied += 1
        if result.applied and result.routers:
            window.experts = added(window.experts, result.routers)
            window.with_experts += 1
        yield result, inputs

    def logged(self, last: StepResult) -> LoggedSteps:
        """The steps since the last call, up to this one, for a line of the log."""
        position, window, engine = self._position, self._position.window, self._run.engine
        uses, c = means(window.experts, window.with_experts), self._run.config
        position.window = Window()
        return LoggedSteps(
            loss=window.loss / window.applied if window.applied else last.loss,
            clipped=window.clipped / window.steps,
            refused=position.guard.refused,
            tokens_per_second=window.steps * self._run.config.tokens_per_step / window.seconds,
            memory_bytes=engine.peak_memory(),
            active_memory_bytes=engine.active_memory(),
            training_seconds=position.training_seconds,
            routers=[Router(use.balance_loss, use.z_loss, use.entropy, use.load) for use in uses],
            auxiliary_loss=None
            if c.lora_rank is not None
            else sum(c.aux_loss * use.balance_loss + c.z_loss * use.z_loss for use in uses),
        )

    def _rates(self) -> dict[str, float]:
        """The learning rates of the next step."""
        c, step = self._run.config, self._position.step
        share = self._rate_curve(step, self._clock.progress(step + 1))
        rates = {"adamw": c.learning_rate * share}
        if c.optimizer == "muon":
            rates["muon"] = c.muon_learning_rate * share
        return rates


def _fingerprint(microbatches: Sequence[Batch]) -> str:
    """Identifies the input tokens of a step, however they are split into micro-batches."""
    value = 0
    for batch in microbatches:
        value = zlib.crc32(batch.inputs.tobytes(), value)
    return f"{value:08x}"


def findings(
    position: Position, result: StepResult, inputs: StepInputs, run: Run
) -> Iterator[Finding]:
    """Anything wrong with the step just read, or with the run."""
    step, guard, watch, config = position.step, position.guard, position.watch, run.config
    if finding := guard.observe_step(step, result, inputs.limits, inputs.batch, config):
        yield finding
    if result.applied and config.learns_text:  # other losses need not fall
        rate = inputs.rates["adamw"] / config.learning_rate
        yield from watch.observe_step(step, result, rate, config)
        per_token = run.model.experts_per_token
        yield from position.experts.observe_step(step, result, per_token, config)
