"""The learning rate of a step, as a share of its peak: a pure function of how far the run is."""

import math
from dataclasses import dataclass

from homespun.config import Schedule

LINEAR_DECAY_SHARE = 0.7
"""The part of a run, at its end, over which the linear schedule decays."""


@dataclass(frozen=True)
class RateCurve:
    """Up to the peak in the warm-up, and from there down to the minimum."""

    kind: Schedule
    minimum: float
    """Share of the peak that is left at the end."""
    warmup_steps: int
    """The rate rises linearly over this many steps; 0 where only their share of the run is known."""
    warmup_share: float
    """The part of the run that the warm-up takes."""

    def __call__(self, step: int, progress: float) -> float:
        """Share of the peak rate, from `minimum` to 1, less in the warm-up.

        Args:
            step: steps done before this one. The first step has the rate of step + 1, else it would do nothing.
            progress: part of the run that is done when this step is, 0 to 1.
        """
        done = step + 1
        if done < self.warmup_steps:
            return done / self.warmup_steps
        if self.warmup_steps == 0 and progress < self.warmup_share:
            return progress / self.warmup_share
        decaying = max(1e-9, 1.0 - self.warmup_share)
        decayed = min(1.0, max(0.0, progress - self.warmup_share) / decaying)
        if self.kind == "cosine":
            height = 0.5 * (1.0 + math.cos(math.pi * decayed))
        else:
            height = min(1.0, (1.0 - decayed) / LINEAR_DECAY_SHARE)
        return self.minimum + (1.0 - self.minimum) * height
