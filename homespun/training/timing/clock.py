"""The steps and seconds of a run flow in; its progress and the time that is left come out."""

import time
from collections import deque
from collections.abc import Callable

from homespun.training.checkpointing.position import Position

RECENT_SECONDS = 300.0
RECENT_SHARE = 0.25
"""The time left is estimated from the progress in so many seconds, or in this share of the time since the start if that
is more: some evaluations and checkpoints, too, are in it."""
MARK_SECONDS = 5.0
"""Least time between two notes of the progress."""
LEAST_MARKS = 10
"""Notes that count however long ago they are, so that one long evaluation is not all that counts."""


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
        self._marks = deque([(self._elapsed_before, self.progress())])
        """Seconds and progress at some moments, the oldest that counts first."""

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
        """Estimate from the recent progress, or None as long as there is none. The pace of long ago does not count, as
        the machine may have been busy, or asleep, since then."""
        elapsed, progress = self.elapsed(), self.progress()
        marks = self._marks
        if elapsed - marks[-1][0] >= MARK_SECONDS:
            marks.append((elapsed, progress))
        recent = max(RECENT_SECONDS, RECENT_SHARE * (elapsed - self._elapsed_before))
        while len(marks) > LEAST_MARKS and marks[1][0] <= elapsed - recent:
            marks.popleft()
        then, done = marks[0]
        gained = progress - done
        return (elapsed - then) / gained * (1 - progress) if gained > 0 else None

    def out_of_time(self) -> bool:
        """Whether the time budget is used up."""
        return self._time_budget is not None and self.elapsed() >= self._time_budget
