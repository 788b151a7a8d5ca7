"""The number of a step flows in, its learning rate flows out.

The curve is that of a run of `homespun train`, so that a loop of one's own can follow it.
"""

import functools

from homespun.config.checked import checked
from homespun.planning.resolved import ResolvedConfig
from homespun.training.schedule import RateCurve, rate_curve


def cosine_schedule(
    step: int,
    *,
    max_lr: float = ResolvedConfig.learning_rate,
    warmup_steps: int | None = None,
    total_steps: int,
    min_lr: float | None = None,
) -> float:
    """The learning rate of a step: a linear warm-up from 0 to `max_lr`, then a cosine decay to `min_lr`.

    Args:
        step: the number of the step, from 1 on; `homespun train` counts in the same way.
        max_lr: the peak.
        warmup_steps: by default as in a run, see `--warmup-steps`.
        total_steps: of the whole training.
        min_lr: by default as in a run, see `--min-learning-rate-ratio`.

    Raises:
        UserError: a number is out of its bounds.
    """
    peak = checked("max_lr", max_lr, float, {"above": 0})
    bounds = {"at_least": 0, "at_most": peak}
    least = None if min_lr is None else checked("min_lr", min_lr, float, bounds) / peak
    done = checked("step", step, int, {"at_least": 0})
    total = checked("total_steps", total_steps, int, {"at_least": 1})
    warm_up = checked("warmup_steps", warmup_steps, int | None, {"at_least": 0})
    curve = _cosine(total, warm_up, least)
    return float(peak * curve(done - 1, done / total))


@functools.lru_cache
def _cosine(total_steps: int, warmup_steps: int | None, least: float | None) -> RateCurve:
    ratio = ResolvedConfig.min_learning_rate_ratio if least is None else least
    config = ResolvedConfig(
        max_steps=total_steps, warmup_steps=warmup_steps, min_learning_rate_ratio=ratio
    )
    return rate_curve(config, {"max_steps": total_steps})
