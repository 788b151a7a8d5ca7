"""The story of a run: batch, step, log, evaluate, sample, save, until a limit is reached or someone stops it.

What a run is comes from `setup`; what happens goes into `metrics.jsonl`, from where the console shows it.
"""

import dataclasses
import math
import time
import zlib
from collections.abc import Iterator
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

from homespun.architectures.families import parameters
from homespun.checkpoint.folder import METRICS, Checkpoint, CheckpointFolder
from homespun.checkpoint.writer import CheckpointWriter
from homespun.config import SamplingConfig, TrainConfig
from homespun.config.checked import seconds
from homespun.data.batch import Batch
from homespun.data.samples import Batches
from homespun.engine.base import OutOfMemory, StepHandle, StepResult
from homespun.errors import DiskFullError, UserError
from homespun.generation.session import generate
from homespun.named_array import NamedArray
from homespun.planning.memory import out_of_memory
from homespun.planning.recipe import Plan
from homespun.records.console import Console
from homespun.records.metrics import MetricsLog
from homespun.records.plot import plot_run
from homespun.terminal import Say
from homespun.training.ending import PLOT, TrainResult, headline, what_now
from homespun.training.evaluate import Evaluator, perplexity
from homespun.training.interrupts import Interrupts
from homespun.training.position import Position, Window
from homespun.training.stages import Run, least_bytes_on_disk, set_up
from homespun.training.watch.advice import loss_of_counting
from homespun.training.watch.guard import SPIKE, Advice, Limits

SAMPLE_TOKENS = 50
LONGEST_UNSAVED = 300.0
"""Seconds of a run that a power cut may cost, however many steps they are."""
SAVING_SHARE = 0.02
"""Of the time since the last checkpoint, at most, that one by the clock may cost."""

LOOKS = 10
"""Evaluations of a run, and rounds of samples, where nobody has said how many steps apart."""
LOOKING_SHARE = 0.015
"""Of the work since the last one, at most, that an evaluation may cost; the same for a round of samples."""
EVALUATING = 0.25
"""What a token of it costs, in tokens of training; measured on CPUs, as the next."""
SAMPLING = 16
"""The same for a token that is written, alone."""


def train(config: TrainConfig, checkpoint: Checkpoint | None, say: Say) -> TrainResult:
    """Set a run up and run it; `checkpoint` is where it goes on, see `resume.find_checkpoint`.

    Raises:
        UserError: anything that the user can mend; checkpoints that were there before are still there.
    """
    folder = CheckpointFolder(Path(config.checkpoint_dir), config.keep)
    folder.check_free()  # what is wrong with it should not come out after an hour of tokenizing
    if checkpoint is None:
        folder.check_space(least_bytes_on_disk(config))
    run = set_up(config, checkpoint, say)
    folder.check_space(run.bytes_on_disk())
    if checkpoint is None and (earlier := folder.set_aside()):
        say(f"The earlier run in {folder.path} is now in {earlier}.")
    position = Position.restored(checkpoint.state.header["position"]) if checkpoint else Position()
    with (
        folder.lock(),
        Interrupts() as interrupts,
        MetricsLog(folder.path / METRICS) as log,
        Console(
            total_steps=run.total_steps,
            best_val_loss=position.guard.best_val_loss or math.inf,
            when_lost=interrupts.output_lost,
        ) as console,
        CheckpointWriter(
            folder,
            run.weights_bytes,
            in_background=run.has_room_for_copies(),
            report=console.say,
        ) as writer,
    ):
        if checkpoint:
            log.truncate(checkpoint.state.header["metrics_length"])
        loop = Loop(run, writer, position, log, console, interrupts)
        loop.doing("compiling, up to a minute" if run.config.compile == "on" else "first step")
        complete = loop.is_complete()
        if not complete:
            going_on = f"Going on at step {position.step:,}"
            console.show(going_on if checkpoint else "Training", run.description())
        try:
            result = loop.to_the_end()
        except OutOfMemory as error:
            plan = Plan(run.model, run.config)
            raise out_of_memory(plan, saved=bool(loop.saved_at)) from error
        if result.steps:
            loop.draw_curves()
        console.show(headline(result, run.config, complete), what_now(result, run.config))
    return result


class Loop:
    """One run, from where it stands to its end."""

    def __init__(
        self,
        run: Run,
        writer: CheckpointWriter,
        position: Position,
        log: MetricsLog,
        console: Console,
        interrupts: Interrupts,
    ) -> None:
        self.run, self.writer, self.position = run, writer, position
        self.log, self.console, self.interrupts = log, console, interrupts
        self.config = c = run.config
        self.engine = run.engine
        self.batches = Batches(run.dataset, c.seed)
        self.evaluator = Evaluator(
            run.tokens.validation,
            run.tokenizer.byte_lengths,
            seq_len=c.seq_len,
            batch_size=c.batch_size,
            max_tokens=c.eval_tokens,
        )
        self.weight_names = {p.name for p in parameters(run.model)}
        self.budget = seconds(c.time_budget) if c.time_budget else None
        self.val_loss: float | None = None
        self.unread: tuple[StepHandle, dict[str, float], Limits, str] | None = None
        self.halted_by: Advice | None = None
        self.saved_at: int | None = position.step
        self.began = self.mark = self.last_save = time.perf_counter()
        self.elapsed_before = position.elapsed_seconds
        self.progress_before = self.progress()
        position.watch = position.watch.begin(c, loss_of_counting(run.tokens.training))

    def to_the_end(self) -> TrainResult:
        """Run to the end, whatever ends it."""
        position = self.position
        while not (ended_by := self.ending()):
            self.take_step()
            if self.halted_by:
                self.halt(self.halted_by)
            if self.evaluation_is_due():
                self.evaluate()
            if self.samples_are_due() and not self.interrupts.stopped_by:
                self.sample()
            if self.checkpoint_is_due():
                self.save()
        if position.evaluated_at != position.step and not self.interrupts.stopped_by:
            self.evaluate()
            self.saved_at = None  # what was just measured belongs into the checkpoint
        if self.saved_at != position.step:
            self.save()
        self.writer.finish()
        return TrainResult(
            self.writer.folder.path,
            position.step,
            ended_by,
            self.val_loss,
            position.guard.best_val_loss,
            self.interrupts.stopped_by,
        )

    def take_step(self) -> None:
        """Dispatch a step, and read the one before it while the device computes."""
        self.writer.check()
        if self.unread is None:  # nothing was under way: the time since then is not that of a step
            self.mark = time.perf_counter()
        c, position = self.config, self.position
        microbatches = self.batches.microbatches(
            position.next_sample, c.batch_size, c.grad_accumulation_steps
        )
        rates, limits = self.rates(), position.guard.limits(position.step + 1)
        refused_above = Limits() if c.on_spike == "warn" else limits
        handle = self.engine.train_step(
            microbatches,
            rates,
            position.step,
            loss_limit=refused_above.loss,
            norm_limit=refused_above.norm,
        )
        self.read_step()
        position.step += 1
        position.next_sample += c.sequences_per_step
        position.tokens += sum(batch.n_targets for batch in microbatches)
        self.unread = handle, rates, limits, _fingerprint(microbatches)
        if handle.ready():
            self.read_step()

    def read_step(self) -> None:
        """Wait for the step that was dispatched last, if that has not been done, and log it when its turn has come."""
        if self.unread is None:
            return
        handle, rates, limits, batch = self.unread
        self.unread = None
        result = handle.result()
        position, window = self.position, self.position.window
        now = time.perf_counter()
        position.training_seconds += now - self.mark
        window.seconds += now - self.mark
        self.mark = now
        window.steps += 1
        window.clipped += result.clipped
        self.watch_step(result, rates, limits, batch)
        if position.step % self.config.log_interval == 0:
            self.log_step(result, rates, batch)
        self.console.stepped(position.step, result.loss, self.progress(), self.seconds_left())

    def watch_step(
        self, result: StepResult, rates: dict[str, float], limits: Limits, batch: str
    ) -> None:
        """Look whether something is wrong, with the step or with the run."""
        c, position = self.config, self.position
        advice = position.guard.stepped(position.step, result, limits, batch, c)
        if advice and advice.ends_run:
            self.halted_by = advice
        elif advice:
            self.advise(advice)
        if result.applied:
            share = rates["adamw"] / c.learning_rate
            for advice in position.watch.stepped(position.step, result, share, c):
                self.advise(advice)

    def halt(self, advice: Advice) -> None:
        """End the run where it cannot, or shall not, go on as it is.

        Raises:
            UserError: always.
        """
        self.log.append(self.record(cause=advice.cause, advice=advice.text))
        if advice.cause == SPIKE:  # which has changed nothing: the weights are those before it
            self.save()
        raise UserError(f"{advice.cause}: {advice.text}")

    def advise(self, advice: Advice) -> None:
        """Say what is wrong, and what to do."""
        self.write(cause=advice.cause, advice=advice.text)

    def log_step(self, result: StepResult, rates: dict[str, float], batch: str) -> None:
        """Write a line about the last step and those since the last line."""
        c, position, window = self.config, self.position, self.position.window
        position.window = Window()
        active_memory = self.engine.active_memory()
        self.write(
            loss=result.loss,
            loss_hex=result.loss.hex(),
            perplexity=perplexity(result.loss),
            lr=rates["adamw"],
            **({"muon_lr": rates["muon"]} if c.optimizer == "muon" else {}),
            grad_norm=result.grad_norm,
            clipped=window.clipped / window.steps,
            refused=position.guard.refused,
            tokens_per_second=window.steps * c.tokens_per_step / window.seconds,
            memory_bytes=self.engine.peak_memory(),
            **({} if active_memory is None else {"active_memory_bytes": active_memory}),
            seconds=position.training_seconds,
            batch=batch,
        )

    def evaluate(self) -> None:
        """Measure the model on the validation text; keep the weights if they are the best so far."""
        self.read_step()
        self.doing("evaluating")
        position = self.position
        evaluation = self.evaluator(self.engine)
        self.val_loss = evaluation.loss
        position.evaluated_at = position.step
        if position.guard.evaluated(evaluation.loss):
            self.writer.save_best(
                position.step, self.weights(), {**self.run.header, "val_loss": evaluation.loss}
            )
        self.write(
            val_loss=evaluation.loss,
            val_perplexity=evaluation.perplexity,
            val_bits_per_byte=evaluation.bits_per_byte,
        )
        for advice in position.watch.evaluated(position.step, evaluation.loss, self.config):
            self.advise(advice)

    def sample(self) -> None:
        """Let the model continue the prompts, always with the same luck, so that texts compare."""
        self.read_step()
        self.doing("writing samples")
        self.position.sampled_at = self.position.step
        sampling = SamplingConfig(max_tokens=SAMPLE_TOKENS, seed=self.config.seed)
        for prompt in self.config.sample_prompts:
            try:
                [written] = generate(
                    self.engine.decoder,
                    self.run.tokenizer,
                    prompt,
                    sampling,
                    context=self.run.model.seq_len,
                )
            except UserError as error:
                self.console.say(f'no sample after "{prompt}": {error}')
                continue
            self.write(prompt=prompt, text=written.text)

    def save(self) -> None:
        """Begin to write a checkpoint of this moment."""
        self.read_step()
        self.doing("saving")
        self.interrupts.save_wanted = False
        position = self.position
        self.saved_at = position.step
        try:
            metrics_length = self.log.sync()
        except DiskFullError as error:
            self.writer.no_room(error)
        else:
            position.elapsed_seconds = self.elapsed()
            self.writer.save(
                position.step,
                self.weights(),
                dropwhile(self.is_weight, self.engine.state()),
                self.run.header,
                {"position": dataclasses.asdict(position), "metrics_length": metrics_length},
            )
        self.last_save = time.perf_counter()

    def evaluation_is_due(self) -> bool:
        cost = EVALUATING * self.evaluator.n_tokens
        return self.is_due(self.config.eval_interval, self.position.evaluated_at, cost)

    def samples_are_due(self) -> bool:
        cost = SAMPLING * SAMPLE_TOKENS * len(self.config.sample_prompts)
        return self.is_due(self.config.sample_interval, self.position.sampled_at, cost)

    def is_due(self, interval: int | None, last: int, cost: float) -> bool:
        """Whether to look at the model after this step: every `interval` steps, else every tenth of the run, but not
        before the `cost`, in tokens of training, is little beside the work since the `last` step that was looked at.
        """
        step = self.position.step
        if interval is not None:
            return step % interval == 0
        affordable = cost <= LOOKING_SHARE * (step - last) * self.config.tokens_per_step
        return affordable and LOOKS * self.progress() * (step - last) >= step

    def checkpoint_is_due(self) -> bool:
        """Every so many steps, whenever someone asks, and by the clock, which changes nothing but the files."""
        if self.position.step % self.config.save_interval == 0 or self.interrupts.save_wanted:
            return True
        unsaved = time.perf_counter() - self.last_save
        return unsaved >= max(LONGEST_UNSAVED, self.writer.seconds_to_save / SAVING_SHARE)

    def draw_curves(self) -> None:
        """Make a picture of the records."""
        self.doing("drawing the curves")
        folder = self.writer.folder.path
        picture = folder / PLOT
        try:
            plot_run(folder / METRICS, picture, self.config.max_grad_norm)
        except OSError as error:
            self.console.say(
                f"{picture} cannot be written ({error.strerror}): the run is whole without it"
            )

    def weights(self) -> Iterator[NamedArray]:
        return takewhile(self.is_weight, self.engine.state())

    def is_weight(self, named: NamedArray) -> bool:
        return named[0] in self.weight_names

    def write(self, **measured: Any) -> None:
        """Record what has been measured at this step."""
        record = self.record(**measured)
        self.log.append(record)
        self.console.record(record, self.seconds_left())

    def record(self, **measured: Any) -> dict[str, Any]:
        return {"step": self.position.step, "tokens": self.position.tokens, **measured}

    def doing(self, what: str) -> None:
        self.console.doing(what, self.progress())

    def seconds_left(self) -> float | None:
        """As it looks from what has been done since the start; None at the start."""
        gained = self.progress() - self.progress_before
        spent = self.elapsed() - self.elapsed_before
        return spent / gained * (1 - self.progress()) if gained > 0 else None

    def elapsed(self) -> float:
        """Seconds since the run began, without those in which it was not running."""
        return self.elapsed_before + time.perf_counter() - self.began

    def progress(self, step: int | None = None) -> float:
        """How much of the run is done after a step, 0 to 1, by the limit that is nearest."""
        step = self.position.step if step is None else step
        by_steps = step / self.run.total_steps if self.run.total_steps else 0.0
        by_time = self.elapsed() / self.budget if self.budget else 0.0
        return min(1.0, max(by_steps, by_time))

    def rates(self) -> dict[str, float]:
        """The learning rates of the next step."""
        c, step = self.config, self.position.step
        share = self.run.rate_curve(step, self.progress(step + 1))
        return {"adamw": c.learning_rate * share, "muon": c.muon_learning_rate * share}

    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.limit_reached()) and self.position.evaluated_at == self.position.step

    def ending(self) -> str | None:
        """What ends the run here, if anything does."""
        if self.interrupts.stopped_by:
            return self.interrupts.stopped_by.name
        return self.limit_reached()

    def limit_reached(self) -> str | None:
        """Which of its limits the run has come to, if any."""
        c, position = self.config, self.position
        if c.patience and position.guard.evaluations_without_better >= c.patience:
            return "patience"
        if self.budget and self.elapsed() >= self.budget:
            return "time_budget"
        return next(
            (name for name, limit in self.run.limits.items() if position.step >= limit), None
        )


def _fingerprint(microbatches: list[Batch]) -> str:
    """Tells which tokens a step was given, however they were divided."""
    value = 0
    for batch in microbatches:
        value = zlib.crc32(batch.inputs.tobytes(), value)
    return f"{value:08x}"
