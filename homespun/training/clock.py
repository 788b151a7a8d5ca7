"""The steps and seconds of a run flow in; its progress and the time that is left come out."""

import time
from collections.abc import Callable

from homespun.training.position import Position


class Clock:
    """Measures a run from the moment that this is made, on top of the time before a resumed run was stopped."""

    def __init__(
        self,
        position: Position,
        total_steps: int | None,
        time_budget: float | None,
        now: Callable[[], float] | None = None,
    ) -> None:
        """`now` gives seconds, counted from any moment; None: those of the system's clock."""
        self.now = now or time.perf_counter
        self._position = position
        self._total_steps = total_steps
        self._time_budget = time_budget
        self._started = self.now()
        self._elapsed_before = position.elapsed_seconds
        self._progress_before = self.progress()

    def elapsed(self) -> float:
        """Seconds that the run has taken, without those between stop and resume."""
        return self._elapsed_before + self.now() - self._started

    def progress(self, step: int | None = None) -> float:
        """Fraction of the run that is done after a step (default: the last), by the nearest limit, from 0 to 1."""
        step = self._position.step if step is None else step
        by_steps = step / self._total_steps if self._total_steps else 0.0
        by_time = self.elapsed() / self._time_budget if self._time_budget else 0.0
        return min(1.0, max(by_steps, by_time))

    def seconds_left(self) -> float | None:
        """Estimate from the progress since the start; None as long as there is none."""
        progress = self.progress()
        gained = progress - self._progress_before
        spent = self.elapsed() - self._elapsed_before
        return spent / gained * (1 - progress) if gained > 0 else None

    def out_of_time(self) -> bool:
        """Whether the time budget is used up."""
        return self._time_budget is not None and self.elapsed() >= self._time_budget
