"""Preference pairs flow in, finished steps come out: the steps of a run with preferences."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from homespun.data.batch import Batch
from homespun.engine.base import StepHandle, StepResult
from homespun.records.events import LoggedSteps
from homespun.training.checkpointing.position import PairSums, Position
from homespun.training.diagnostics.step_guard import Limits
from homespun.training.preferences.loss import answer_sums, pair_losses, weighted
from homespun.training.preferences.preparation import Preferences, figures_of, sums_of
from homespun.training.run import Run
from homespun.training.steps import StepInputs, Steps
from homespun.training.timing.clock import Clock


@dataclass(frozen=True)
class _WithLoss:
    """A step that the engine has been given, with the loss of its pairs instead of the weighted cross-entropy."""

    handle: StepHandle
    loss: float
    pairs: PairSums

    def ready(self) -> bool:
        return self.handle.ready()

    def result(self) -> StepResult:
        return dataclasses.replace(self.handle.result(), loss=self.loss)


class PreferenceSteps(Steps):
    """Steps that make the better answer of each pair likelier than the other one."""

    def __init__(
        self, run: Run, preferences: Preferences, position: Position, clock: Clock
    ) -> None:
        self._preferences = preferences
        self._pairs = preferences.training.batches(run.config.seed)
        super().__init__(run, position, clock)

    def _dispatch(
        self, microbatches: Sequence[Batch], rates: dict[str, float], enforced: Limits
    ) -> StepHandle:
        c, position, engine = self._run.config, self._position, self._run.engine
        numbers = self._pairs.numbers(position.next_sample, c.sequences_per_step)
        new = np.concatenate([answer_sums(engine.log_probabilities(one)) for one in microbatches])
        found = pair_losses(new, self._preferences.reference.training[numbers], c.beta)
        n_tokens = sum(batch.n_targets for batch in microbatches)
        handle = engine.train_step(
            weighted(microbatches, found.slopes),
            rates,
            position.step,
            norm_limit=enforced.norm,
        )
        return _WithLoss(handle, float(found.loss.mean()), sums_of(found, n_tokens))

    def finish(self) -> Iterator[tuple[StepResult, StepInputs]]:
        if self._pending is not None:
            handle, _ = self._pending  # its pairs belong to its own line
            assert isinstance(handle, _WithLoss)
            window = self._position.window
            window.pairs = window.pairs.plus(handle.pairs)
        yield from super().finish()

    def logged(self, last: StepResult) -> LoggedSteps:
        window = self._position.window
        pairs, rate = figures_of(window.pairs), window.pairs.tokens / window.seconds
        return dataclasses.replace(super().logged(last), pairs=pairs, tokens_per_second=rate)
