"""The progress of a run flows in, the learning rate of the next step comes out, as a fraction of its peak."""

import math
from dataclasses import dataclass

from homespun.config import Schedule
from homespun.planning.resolved import ResolvedConfig
from homespun.terminal import counted

WARMUP_SHARE = 0.02
MAX_WARMUP_STEPS = 2000
"""The default warm-up takes that fraction of the run, and at most so many steps."""
LINEAR_DECAY_SHARE = 0.7
"""The fraction of a run, at its end, in which the linear schedule decays."""


@dataclass(frozen=True)
class RateCurve:
    """Rises to the peak in the warm-up, then falls to the minimum."""

    kind: Schedule
    minimum: float
    """Rate at the end, as a fraction of the peak."""
    warmup_steps: int
    """Steps of linear warm-up; 0 where only their fraction of the run is known."""
    warmup_share: float
    """The fraction of the run that the warm-up takes."""

    def __call__(self, step: int, progress: float) -> float:
        """Fraction of the peak rate, from `minimum` to 1, and less in the warm-up.

        Args:
            step: steps done before this one. The rate is that of `step + 1`, since the first step would otherwise have
                a rate of zero.
            progress: fraction of the run that is done after this step, 0 to 1.
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
    """The learning rate over a run with these `step_limits`."""
    steps = config.warmup_steps
    if config.time_budget is not None:  # the number of steps is unknown
        steps, share = (0, WARMUP_SHARE) if steps is None else (steps, 0.0)
    else:
        total = min(limits.values())
        if steps is None:
            steps = min(MAX_WARMUP_STEPS, math.ceil(WARMUP_SHARE * total))
        share = min(1.0, steps / total)
    return RateCurve(config.schedule, config.min_learning_rate_ratio, steps, share)


def unreached_peak(config: ResolvedConfig, steps: int | None) -> str | None:
    """A line about a warm-up that is longer than a run of so many steps, if it is. None: the number is unknown."""
    warm_up = config.warmup_steps
    if not warm_up or not steps or warm_up <= steps:
        return None
    run = counted(steps, "step")
    return (
        f"The warm-up of {warm_up:,} steps is longer than this run of {run}: the learning rate rises to "
        f"{steps / warm_up:.0%} of its peak only. A shorter one reaches it: --warmup-steps {steps // 10}"
    )
