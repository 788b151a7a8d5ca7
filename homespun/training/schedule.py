"""The learning rate of a step, as a share of its peak: a pure function of how far the run is."""

import math
from dataclasses import dataclass

from homespun.config import Schedule
from homespun.planning.recipe import ResolvedConfig

WARM_UP_SHARE = 0.02
LONGEST_WARM_UP = 2000
"""The usual warm-up takes that share of the run, and at most so many steps."""
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


def rate_curve(config: ResolvedConfig, limits: dict[str, int]) -> RateCurve:
    """The learning rate over a run of these `step_limits`, with the warm-up that was asked for or the usual one."""
    steps = config.warmup_steps
    if config.time_budget is not None:  # nobody knows how many steps there will be
        steps, share = (0, WARM_UP_SHARE) if steps is None else (steps, 0.0)
    else:
        total = min(limits.values())
        if steps is None:
            steps = min(LONGEST_WARM_UP, math.ceil(WARM_UP_SHARE * total))
        share = min(1.0, steps / total)
    return RateCurve(config.schedule, config.min_learning_rate_ratio, steps, share)
