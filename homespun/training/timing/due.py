"""The position of a run flows in; decisions come out: whether a log line, evaluation, sample, save or end is due."""

from homespun.planning.estimate import CHECKS_PER_RUN, EVALUATION_COST, MAX_EVALUATION_SHARE
from homespun.training.checkpointing.position import NEVER, Position
from homespun.training.output.sampling import SAMPLE_TOKENS
from homespun.training.run import Run
from homespun.training.timing.clock import Clock

MAX_UNSAVED_SECONDS = 300.0
"""Training time that a power cut may cost, however many steps it is."""
MAX_SAVING_SHARE = 0.02
"""A checkpoint that is due by the clock takes at most this fraction of the time since the one before."""

MAX_SAMPLING_SHARE = 0.015
"""Where no interval is given, samples cost at most this fraction of the training since the ones before."""
SAMPLING_COST = 16
"""Cost of generating a token in a batch of one, in training tokens; measured on CPUs."""


class DueDates:
    """Decides after each step which actions are due. Without a time budget, the clock affects only additional
    checkpoints, which change no result."""

    def __init__(self, run: Run, position: Position, clock: Clock, eval_tokens: int) -> None:
        self._config, self._limits = run.config, run.limits
        self._position, self._clock = position, clock
        self._evaluation_cost = EVALUATION_COST * eval_tokens
        self._samples_cost = SAMPLING_COST * SAMPLE_TOKENS * len(run.config.sample_prompts)
        self._saved = clock.now()

    def log(self) -> bool:
        return self._position.step % self._config.log_interval == 0

    def evaluation(self) -> bool:
        if self._position.evaluated_at == NEVER:  # a trained model is measured before it changes
            return True
        interval, last = self._config.eval_interval, self._position.evaluated_at
        return self._check(interval, last, self._evaluation_cost, MAX_EVALUATION_SHARE)

    def samples(self) -> bool:
        interval, last = self._config.sample_interval, self._position.sampled_at
        return self._check(interval, last, self._samples_cost, MAX_SAMPLING_SHARE)

    def _check(self, interval: int | None, last: int, cost: float, share: float) -> bool:
        """Every `interval` steps. Without one, after every tenth of the run, but not before the `cost`, in training
        tokens, is at most this `share` of the training since the `last` one. Once at a step, also if the run was
        stopped and resumed there.
        """
        step = self._position.step
        if step == last:
            return False
        if interval is not None:
            return step % interval == 0
        affordable = cost <= share * (step - last) * self._config.tokens_per_step
        return affordable and CHECKS_PER_RUN * self._clock.progress() * (step - last) >= step

    def checkpoint(self, seconds_to_save: float) -> bool:
        """Every `save_interval` steps, and after a few minutes, or later where saving takes long."""
        if self._position.step % self._config.save_interval == 0:
            return True
        unsaved = self._clock.now() - self._saved
        return unsaved >= max(MAX_UNSAVED_SECONDS, seconds_to_save / MAX_SAVING_SHARE)

    def saved(self) -> None:
        """Count the time since the last checkpoint from now."""
        self._saved = self._clock.now()

    def end(self) -> str | None:
        """The first limit that the run has reached, if any."""
        patience, step = self._config.patience, self._position.step
        if patience and self._position.guard.evaluations_without_better >= patience:
            return "patience"
        if self._clock.out_of_time():
            return "time_budget"
        return next((name for name, limit in self._limits.items() if step >= limit), None)

    def is_complete(self) -> bool:
        """Whether nothing is left to do, not even the last evaluation and samples."""
        evaluated = self._position.evaluated_at == self._position.step
        return bool(self.end()) and evaluated and not self.samples()
