"""The course of a run: batch, step, log, evaluate, sample, save, until a limit is reached or someone stops it.

A run that is set up flows in; events and checkpoints come out. Listeners turn the events into records and lines.
"""

import math
import shlex

from homespun.engine.base import StepResult
from homespun.errors import UserError
from homespun.records.events import Advice, Evaluation, Sample, Saved, Step
from homespun.training.checkpointing.position import Position
from homespun.training.checkpointing.saver import Saver
from homespun.training.diagnostics.step_guard import FROM_LAST, SPIKE, Finding
from homespun.training.diagnostics.trends import COUNTED_TOKENS, unigram_loss
from homespun.training.interrupts import Interrupts
from homespun.training.output.emitter import Emitter
from homespun.training.output.evaluate import evaluator_of, replay_evaluator_of
from homespun.training.output.sampling import sample_text
from homespun.training.preferences.preparation import Preferred
from homespun.training.preferences.steps import PreferenceSteps
from homespun.training.reinforcement.steps import PolicySteps
from homespun.training.run import Run
from homespun.training.steps import StepInputs, Steps, findings
from homespun.training.timing.clock import Clock
from homespun.training.timing.due import DueDates


def steps_of(run: Run, position: Position, clock: Clock) -> Steps:
    """The steps of a run of this kind."""
    if run.policy:
        return PolicySteps(run, run.policy, position, clock)
    if run.preferences:
        return PreferenceSteps(run, run.preferences, position, clock)
    return Steps(run, position, clock)


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
        self.steps = steps_of(run, position, clock)
        self.evaluator = evaluator_of(run)
        self.earlier = replay_evaluator_of(run)
        eval_tokens = self.evaluator.n_tokens + (self.earlier.n_tokens if self.earlier else 0)
        self.due = DueDates(run, position, clock, eval_tokens)
        self.val_loss: float | None = None
        self.fatal: Finding | None = None
        targets = run.dataset.targets(COUNTED_TOKENS)
        position.watch = position.watch.begin(run.config, unigram_loss(targets))

    def train(self) -> str:
        """Run to the end, evaluate and save the last step; returns the reason of the end."""
        self.settle()  # a stopped run may have left something to do
        while not (ended_by := self.ending()):
            batch = self.steps.next_batch()
            for result, inputs in self.steps.take(batch):
                self.log(result, inputs)
            self.halt_if_fatal()
            self.settle()
        self.finish_step()
        if self.position.evaluated_at != self.position.step and not self.stopped():
            self.evaluate()
            ended_by = self.stopped() or ended_by
        if self.saver.saved_at != self.position.step:
            self.save()
        self.saver.finish()
        self.tell_saved()
        if self.saver.saved_at != self.position.step:
            self.emit.message(self.not_saved())
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
            if not self.ending():
                self.emit.activity("next step")  # the files are written in the background
        self.tell_saved()

    def finish_step(self) -> None:
        """Read and log the step that the device is still computing, if there is one."""
        for result, inputs in self.steps.finish():
            self.log(result, inputs)
        self.halt_if_fatal()

    def log(self, result: StepResult, inputs: StepInputs) -> None:
        """Report a step, and any findings about it or the run."""
        fatal = None
        for finding in findings(self.position, result, inputs, self.run):
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
            log=self.steps.logged(result) if self.due.log() else None,
        )
        if self.steps.notice:
            self.emit.message(self.steps.notice)
        if fatal and not self.fatal:  # a step that was under way already may have the same finding
            self.saver.wait()
            text = fatal.text.replace(FROM_LAST, self.way_back(fatal))
            self.fatal = fatal._replace(text=text)
            self.emit(Advice, **self.fatal._asdict())

    def halt_if_fatal(self) -> None:
        """End a run that cannot or must not continue.

        Raises:
            UserError: there was a finding that ends the run.
        """
        if self.fatal:
            raise UserError(f"{self.fatal.cause}: {self.fatal.text}") from self.emit.error

    def way_back(self, finding: Finding) -> str:
        """How to continue after the run has ended with this finding: words that end with the flag to resume.

        The weights of the newest checkpoint may be the cause of a standstill. They are known to be usable if a step
        after them was applied.
        """
        recent, newest = self.position.guard.recent, self.saver.newest
        last_applied = recent[-1][0] if recent else 0
        if newest and (finding.cause == SPIKE or newest < last_applied):
            return FROM_LAST
        if earlier := self.saver.newest_before(int(last_applied)):
            return f"go back to the checkpoint before the last one with --resume {earlier}"
        if self.saver.best.exists():
            return f"go back to the best weights with --resume {shlex.quote(str(self.saver.best))}"
        return "there is no checkpoint to go back to: start again with"

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
        earlier = self.earlier and self.earlier.measure(self.run.engine, self.stopped)
        if self.earlier and earlier is None:
            return
        reward = None
        if policy := self.run.policy:
            self.emit.activity("answering the prompts that are held out")
            reward = policy.sampler.held_out_score(policy.session, self.stopped)
            if self.stopped():
                return
        self.val_loss = measured.loss
        position.evaluated_at = position.step
        self.saver.saved_at = None
        # A reward is the better the higher it is.
        figure = self.val_loss if reward is None else -reward
        best = position.guard.observe_evaluation(figure)
        found = position.watch.observe_evaluation(position.step, self.val_loss, self.config)
        advice = list(found) if self.config.learns_text else []
        if best:
            self.saver.save_best(figure, self.clock.elapsed())
        self.emit(
            Evaluation,
            loss=self.val_loss,
            bits_per_byte=None if isinstance(measured, Preferred) else measured.bits_per_byte,
            best=best,
            reward=reward,
            replay_loss=earlier.loss if earlier else None,
            replay_bits_per_byte=earlier.bits_per_byte if earlier else None,
            pairs=measured.pairs if isinstance(measured, Preferred) else None,
        )
        for finding in advice:
            self.emit(Advice, **finding._asdict())

    @property
    def best_reward(self) -> float | None:
        """In a run with a reward, the highest mean reward of an evaluation."""
        best = self.position.guard.best_val_loss
        return -best if self.run.policy and best is not None else None

    def sample(self) -> None:
        """Let the model continue the prompts. A stop leaves the last ones to the resumed run."""
        self.finish_step()
        position = self.position
        self.saver.saved_at = None
        prompts = self.config.sample_prompts
        for prompt in prompts[position.prompts_done :]:
            self.emit.activity(f"writing sample {position.prompts_done + 1} of {len(prompts)}")
            text = sample_text(self.run, prompt)
            position.prompts_done += 1
            if isinstance(text, UserError):
                self.emit.message(f'no sample after "{prompt}": {text}')
            else:
                self.emit(Sample, prompt=prompt, text=text)
            if self.stopped():
                break
        if position.prompts_done >= len(prompts):
            position.sampled_at, position.prompts_done = position.step, 0

    def save(self) -> None:
        """Begin to write a checkpoint of this moment, or of the moment when the weights are known to be usable again.

        Weights with which a step was refused may be ruined, and must not take the place of earlier ones.
        """
        self.finish_step()
        if self.refusal():
            self.interrupts.save_wanted = True
            return
        self.emit.activity("saving")
        self.interrupts.save_wanted = False
        self.saver.save(self.clock.elapsed())
        self.due.saved()

    def refusal(self) -> str | None:
        """The reason why the present weights may be unusable, if there is one."""
        position = self.position
        if position.guard.refused_in_a_row:
            return f"step {position.step:,} was refused"
        measured = self.val_loss if position.evaluated_at == position.step else None
        if measured is not None and not math.isfinite(measured):
            return "its validation loss is not finite"
        return None

    def not_saved(self) -> str:
        """The message of a run that ends with weights that may be unusable."""
        newest = self.saver.newest
        kept = f"the newest checkpoint is that of step {newest:,}" if newest else "no step is saved"
        return f"Step {self.position.step:,} is not saved, because {self.refusal()}: {kept}."

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
