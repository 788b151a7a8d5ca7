"""The learning rate of a step, as a share of its peak: a pure function of how far the run is."""

import math

from homespun.config import Schedule

LINEAR_DECAY_SHARE = 0.7
"""The part of a run, at its end, over which the linear schedule decays."""


def learning_rate_share(
    kind: Schedule,
    step: int,
    progress: float,
    *,
    warmup_steps: int,
    warmup_share: float,
    minimum: float,
) -> float:
    """Share of the peak rate in `minimum` .. 1 (less in the warm-up).

    Args:
        step: steps done before this one. The first step has the rate of step + 1, else it would do nothing.
        progress: part of the run that is done when this step is, 0 to 1.
        warmup_steps: the rate rises linearly over this many steps; 0 where only their share of the run is known.
        warmup_share: the part of the run that the warm-up takes.
        minimum: share of the peak that is left at the end.
    """
    done = step + 1
    if done < warmup_steps:
        return done / warmup_steps
    if warmup_steps == 0 and progress < warmup_share:
        return progress / warmup_share
    after_warmup = min(1.0, max(0.0, progress - warmup_share) / max(1e-9, 1.0 - warmup_share))
    if kind == "cosine":
        height = 0.5 * (1.0 + math.cos(math.pi * after_warmup))
    else:
        height = min(1.0, (1.0 - after_warmup) / LINEAR_DECAY_SHARE)
    return minimum + (1.0 - minimum) * height


def warm_up(warmup_steps: int | None, total_steps: int | None) -> tuple[int, float]:
    """Length of the warm-up in steps and as a share of the run: what the user says, else 2%, at most 2,000 steps."""
    if total_steps is None:
        return (0, 0.02) if warmup_steps is None else (warmup_steps, 0.0)
    if warmup_steps is None:
        warmup_steps = min(2000, math.ceil(0.02 * total_steps))
    return warmup_steps, min(1.0, warmup_steps / total_steps)
