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

from homespun.checkpoint.folder import METRICS, Checkpoint, CheckpointFolder
from homespun.config import SamplingConfig, TrainConfig, seconds
from homespun.engine.base import Batch, Named, StepHandle
from homespun.errors import UserError
from homespun.generation.generate import generate
from homespun.model.spec import parameters
from homespun.monitoring.console import Console
from homespun.monitoring.metrics import MetricsLog
from homespun.monitoring.plot import plot_run
from homespun.training.data_loader import Batches, TextDataset
from homespun.training.evaluate import Evaluator, perplexity
from homespun.training.interrupts import Interrupts
from homespun.training.position import Position, TrainResult, Window
from homespun.training.schedule import learning_rate_share
from homespun.training.setup import Run, Say, set_up

SAMPLE_TOKENS = 50
PLOT = "training.png"


def train(config: TrainConfig, checkpoint: Checkpoint | None, say: Say) -> TrainResult:
    """Set a run up and run it; `checkpoint` is where it goes on, see `setup.find_checkpoint`.

    Raises:
        UserError: anything that the user can mend; checkpoints that were there before are still there.
    """
    folder = CheckpointFolder(Path(config.checkpoint_dir), config.keep)
    folder.check_free()  # that another run has it should not come out after an hour of tokenizing
    run = set_up(config, checkpoint, say)
    folder.check_space(run.bytes_on_disk())
    if checkpoint is None and (earlier := folder.set_aside()):
        say(f"The earlier run in {folder.path} is now in {earlier}.")
    with folder.lock(), Interrupts() as interrupts, MetricsLog(folder.path / METRICS) as log:
        loop = Loop(run, folder, log, interrupts)
        with Console(
            "Training" if checkpoint is None else f"Going on at step {checkpoint.step:,}",
            run.description(),
            total_steps=run.total_steps,
            best_val_loss=loop.position.guard.best_val_loss or math.inf,
        ) as console:
            result = loop(console)
    try:
        plot_run(folder.path / METRICS, folder.path / PLOT, run.config.max_grad_norm)
    except OSError as error:
        say(
            f"{folder.path / PLOT} cannot be written ({error.strerror}): the run is whole without it"
        )
    return result


class Loop:
    """One run, from where it stands to its end."""

    def __init__(
        self, run: Run, folder: CheckpointFolder, log: MetricsLog, interrupts: Interrupts
    ) -> None:
        self.run, self.folder, self.log, self.interrupts = run, folder, log, interrupts
        self.config = c = run.config
        self.engine = run.engine
        self.batch_size, self.accumulation = c.batch_size or 1, c.grad_accumulation_steps or 1
        self.batches = Batches(TextDataset(run.tokens.training, c.seq_len), c.seed)
        self.budget = seconds(c.time_budget) if c.time_budget else None
        self.evaluator = Evaluator(
            run.tokens.validation,
            run.tokenizer.byte_lengths,
            seq_len=c.seq_len,
            batch_size=self.batch_size,
            max_tokens=c.eval_tokens,
        )
        self.position = Position()
        if run.checkpoint:
            self.position = Position.restored(run.checkpoint.state.header["position"])
            self.log.truncate(run.checkpoint.state.header["metrics_length"])
        self.weight_names = {p.name for p in parameters(run.model)}
        self.val_loss: float | None = None
        self.unread: tuple[StepHandle, dict[str, Any]] | None = None
        self.saved_at: int | None = self.position.step
        self.began = self.mark = time.perf_counter()
        self.elapsed_before = self.position.elapsed_seconds
        self.progress_before = self.progress()

    def __call__(self, console: Console) -> TrainResult:
        """Run to the end, whatever ends it."""
        self.console = console
        c, position = self.config, self.position
        while not (ended_by := self.ending()):
            self.take_step()
            if position.step % c.eval_interval == 0:
                self.evaluate()
            if position.step % c.sample_interval == 0 and not self.interrupts.stopped_by:
                self.sample()
            if position.step % c.save_interval == 0 or self.interrupts.save_wanted:
                self.save()
        if position.evaluated_at != position.step and not self.interrupts.stopped_by:
            self.evaluate()
            self.saved_at = None  # what was just measured belongs into the checkpoint
        if self.saved_at != position.step:
            self.save()
        return TrainResult(
            self.folder.path,
            position.step,
            ended_by,
            self.val_loss,
            position.guard.best_val_loss,
            self.interrupts.stopped_by,
        )

    def take_step(self) -> None:
        """Dispatch a step, and report the one before it while the device computes."""
        position = self.position
        microbatches = self.batches.microbatches(
            position.next_sample, self.batch_size, self.accumulation
        )
        rates = self.rates()
        handle = self.engine.train_step(microbatches, rates)
        self.report_step()
        position.step += 1
        position.next_sample += self.batch_size * self.accumulation
        position.tokens += sum(batch.n_targets for batch in microbatches)
        facts = {
            "step": position.step,
            "tokens": position.tokens,
            **rates,
            "batch": _fingerprint(microbatches),
        }
        self.unread = handle, facts
        if handle.ready():
            self.report_step()

    def report_step(self) -> None:
        """Read the step that was dispatched last, if that has not been done, and log it when its turn has come."""
        if self.unread is None:
            return
        handle, facts = self.unread
        self.unread = None
        result = handle.result()
        position, window = self.position, self.position.window
        now = time.perf_counter()
        position.training_seconds += now - self.mark
        window.seconds += now - self.mark
        self.mark = now
        window.steps += 1
        window.clipped += result.clipped
        position.guard.stepped(facts["step"], result.applied)
        if not result.applied:
            self.console.say(
                f"step {facts['step']:,} was refused: its loss or its gradients were not finite"
            )
        if facts["step"] % (self.config.log_interval or 1) == 0:
            tokens = window.steps * self.batch_size * self.accumulation * self.config.seq_len
            record = {
                "step": facts["step"],
                "tokens": facts["tokens"],
                "loss": result.loss,
                "loss_hex": result.loss.hex(),
                "perplexity": perplexity(result.loss),
                "lr": facts["adamw"],
                **({"muon_lr": facts["muon"]} if self.config.optimizer == "muon" else {}),
                "grad_norm": result.grad_norm,
                "clipped": window.clipped / window.steps,
                "refused": position.guard.refused,
                "tokens_per_second": tokens / window.seconds,
                "memory_bytes": self.engine.memory().peak,
                "seconds": position.training_seconds,
                "batch": facts["batch"],
            }
            position.window = Window()
            self.write(record)

    def evaluate(self) -> None:
        """Measure the model on the validation text; keep the weights if they are the best so far."""
        self.report_step()
        position = self.position
        evaluation = self.evaluator(self.engine)
        self.val_loss = evaluation.loss
        position.evaluated_at = position.step
        if position.guard.evaluated(position.step, evaluation.loss):
            self.folder.save_best(
                position.step, self.weights(), {**self.run.header, "val_loss": evaluation.loss}
            )
        self.write(
            {
                "step": position.step,
                "tokens": position.tokens,
                "val_loss": evaluation.loss,
                "val_perplexity": evaluation.perplexity,
                "val_bits_per_byte": evaluation.bits_per_byte,
            }
        )
        self.mark = time.perf_counter()

    def sample(self) -> None:
        """Let the model continue the prompts, always with the same luck, so that texts compare."""
        self.report_step()
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
            self.write(
                {
                    "step": self.position.step,
                    "tokens": self.position.tokens,
                    "prompt": prompt,
                    "text": written.text,
                }
            )
        self.mark = time.perf_counter()

    def save(self) -> None:
        """Write a checkpoint."""
        self.report_step()
        self.interrupts.save_wanted = False
        position = self.position
        position.elapsed_seconds = self.elapsed()
        self.folder.save(
            position.step,
            self.weights(),
            dropwhile(self.is_weight, self.engine.state()),
            self.run.header,
            {"position": dataclasses.asdict(position), "metrics_length": self.log.sync()},
        )
        self.saved_at = position.step
        self.mark = time.perf_counter()

    def weights(self) -> Iterator[Named]:
        return takewhile(self.is_weight, self.engine.state())

    def is_weight(self, named: Named) -> bool:
        return named[0] in self.weight_names

    def write(self, record: dict[str, Any]) -> None:
        self.log.append(record)
        progress = self.progress()
        gained = progress - self.progress_before
        spent = self.elapsed() - self.elapsed_before
        self.console.record(
            record, progress, spent / gained * (1 - progress) if gained > 0 else None
        )

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
        c = self.config
        steps, share = self.run.warm_up
        height = learning_rate_share(
            c.schedule or "cosine",
            self.position.step,
            self.progress(self.position.step + 1),
            warmup_steps=steps,
            warmup_share=share,
            minimum=c.min_learning_rate_ratio or 0.0,
        )
        return {
            "adamw": (c.learning_rate or 0.0) * height,
            "muon": (c.muon_learning_rate or 0.0) * height,
        }

    def ending(self) -> str | None:
        """What ends the run here, if anything does."""
        c, position = self.config, self.position
        if self.interrupts.stopped_by:
            return self.interrupts.stopped_by.name
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
