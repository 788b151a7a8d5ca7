"""The course of a run: batch, step, log, evaluate, sample, save, until a limit is reached or someone stops it.

A run that is set up flows in; events and checkpoints come out. Listeners turn the events into records and lines.
"""

from homespun.engine.base import StepResult
from homespun.errors import UserError
from homespun.records.events import Advice, Evaluation, Sample, Saved, Step
from homespun.training.clock import Clock
from homespun.training.diagnostics.step_guard import SPIKE, Finding
from homespun.training.diagnostics.trends import unigram_loss
from homespun.training.due import DueDates
from homespun.training.emitter import Emitter
from homespun.training.evaluate import Evaluator
from homespun.training.interrupts import Interrupts
from homespun.training.position import Position
from homespun.training.run import Run
from homespun.training.sampling import sample_text
from homespun.training.saver import Saver
from homespun.training.steps import StepInputs, Steps, findings


class Loop:
    """One run, from its position to its end."""

    def __init__(
        self,
        run: Run,
        position: Position,
        clock: Clock,
        saver: Saver,
        emit: Emitter,
        interrupts: Interrupts,
    ) -> None:
        self.run, self.position, self.clock = run, position, clock
        self.saver, self.emit, self.interrupts = saver, emit, interrupts
        self.config = run.config
        self.steps = Steps(run, position, clock)
        self.evaluator = Evaluator.of(run)
        self.due = DueDates(run, position, clock, self.evaluator.n_tokens)
        self.val_loss: float | None = None
        self.fatal: Finding | None = None
        position.watch = position.watch.begin(run.config, unigram_loss(run.tokens.training))

    def train(self) -> str:
        """Run to the end, evaluate and save the last step; returns the reason of the end."""
        self.settle()  # a stopped run may have left something to do
        while not (ended_by := self.ending()):
            batch = self.steps.next_batch()
            for result, inputs in self.steps.take(batch):
                self.log(result, inputs)
            if self.fatal:
                self.halt(self.fatal)
            self.settle()
        if self.position.evaluated_at != self.position.step and not self.stopped():
            self.evaluate()
            ended_by = self.stopped() or ended_by
        if self.saver.saved_at != self.position.step:
            self.save()
        self.saver.finish()
        self.tell_saved()
        return ended_by

    def settle(self) -> None:
        """Do everything that is due at this step. A stop leaves evaluation and samples to the resumed run."""
        if self.due.evaluation() and not self.stopped():
            self.evaluate()
        if not self.stopped():
            if self.due.samples():
                self.sample()
            else:
                self.position.prompts_done = 0  # of a round that another interval has cancelled
        if self.saver.saved_at != self.position.step and (
            self.interrupts.save_wanted or self.due.checkpoint(self.saver.seconds_to_save)
        ):
            self.save()
        self.tell_saved()

    def finish_step(self) -> None:
        """Read and log the step that the device is still computing, if there is one."""
        for result, inputs in self.steps.finish():
            self.log(result, inputs)

    def log(self, result: StepResult, inputs: StepInputs) -> None:
        """Report a step, and any findings about it or the run."""
        fatal = None
        for finding in findings(self.position, result, inputs, self.config):
            if finding.ends_run:
                fatal = finding
            else:
                self.emit(Advice, **finding._asdict())
        self.emit(
            Step,
            loss=result.loss,
            grad_norm=result.grad_norm,
            applied=result.applied,
            rates=inputs.rates,
            batch=inputs.batch,
            log=self.steps.logged() if self.due.log() else None,
        )
        if fatal and not self.fatal:  # a step that was under way already may have the same finding
            self.fatal = fatal
            self.emit(Advice, **fatal._asdict())

    def halt(self, finding: Finding) -> None:
        """End a run that cannot or must not continue.

        Raises:
            UserError: always.
        """
        if finding.cause == SPIKE:  # the step was refused, so the weights are those before it
            self.save()
        raise UserError(f"{finding.cause}: {finding.text}") from self.emit.error

    def evaluate(self) -> None:
        """Measure the model on the validation text; save the weights if they are the best so far.

        A stop ends this early, without a result.
        """
        self.finish_step()
        self.emit.activity("evaluating")
        position = self.position
        measured = self.evaluator.measure(self.run.engine, self.stopped)
        if measured is None:
            return
        self.val_loss, bits_per_byte = measured
        position.evaluated_at = position.step
        self.saver.saved_at = None
        if best := position.guard.observe_evaluation(self.val_loss):
            self.saver.save_best(self.val_loss)
        self.emit(Evaluation, loss=self.val_loss, bits_per_byte=bits_per_byte, best=best)
        for finding in position.watch.observe_evaluation(position.step, self.val_loss, self.config):
            self.emit(Advice, **finding._asdict())

    def sample(self) -> None:
        """Let the model continue the prompts. A stop leaves the last ones to the resumed run."""
        self.finish_step()
        self.emit.activity("writing samples")
        position = self.position
        self.saver.saved_at = None
        for prompt in self.config.sample_prompts[position.prompts_done :]:
            text = sample_text(self.run, prompt)
            position.prompts_done += 1
            if isinstance(text, UserError):
                self.emit.message(f'no sample after "{prompt}": {text}')
            else:
                self.emit(Sample, prompt=prompt, text=text)
            if self.stopped():
                break
        if position.prompts_done >= len(self.config.sample_prompts):
            position.sampled_at, position.prompts_done = position.step, 0

    def save(self) -> None:
        """Begin to write a checkpoint of this moment."""
        self.finish_step()
        self.emit.activity("saving")
        self.interrupts.save_wanted = False
        self.saver.save(self.clock.elapsed())
        self.due.saved()

    def tell_saved(self) -> None:
        """Report a checkpoint that has been completed in the background."""
        if saved := self.saver.completed():
            step, path = saved
            self.emit(Saved, step=step, path=path)

    def ending(self) -> str | None:
        """The reason why the run ends at this step, if it does."""
        return self.stopped() or self.due.end()

    def stopped(self) -> str | None:
        """The signal or the listener that stops the run, if any."""
        if self.interrupts.stopped_by:
            return self.interrupts.stopped_by.name
        return self.emit.stopped_by
