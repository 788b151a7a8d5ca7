"""The trials so far flow in, the point of the next one comes out, chosen by Optuna.

A point depends on the seed, the number of the trial and these trials alone, so that a tune that was killed goes on as
if it had not been.
"""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from homespun.config.tuning import Method
from homespun.errors import UserError
from homespun.tuning.space import Dimension, Point, Value, rounded

INSTALL = "pip install 'homespun[tune]'"
LEAST_RANDOM, RANDOM_SHARE = 4, 0.25
"""The first trials are random: that share of them, but at least so many."""
ATTEMPTS = 20
"""To find a point that was not tried yet."""


@dataclass(frozen=True)
class Seen:
    """A trial as the sampler sees it."""

    point: Point
    loss: float | None = None
    """None: it still runs."""


def check_installed(method: Method) -> None:
    """Raises:
    UserError: Optuna, or a library that the method needs, is not installed.
    """
    needed = ["optuna", *(("scipy", "torch") if method == "gp" else ())]
    for name in needed:
        if find_spec(name) is None:
            install = "pip install torch" if name == "torch" else INSTALL
            raise UserError(f"homespun tune needs {name}, which is not installed here: {install}")
    from optuna import __version__

    if int(__version__.partition(".")[0]) < 5:
        raise UserError(
            f"homespun tune needs Optuna 5, and {__version__} is installed here: {INSTALL}"
        )


def next_point(
    space: Sequence[Dimension],
    method: Method,
    seed: int,
    number: int,
    trials: int,
    seen: Sequence[Seen],
) -> Point:
    """The point of the trial with this number, of so many `trials`. Points that were tried are avoided if possible."""
    tried = [one.point for one in seen]
    point: Point = {}
    for attempt in range(ATTEMPTS):
        point = _suggested(space, method, _seed(seed, number, attempt), trials, seen)
        if point not in tried:
            break
    return point


def _seed(*parts: int) -> int:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _suggested(
    space: Sequence[Dimension], method: Method, seed: int, trials: int, seen: Sequence[Seen]
) -> Point:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, about parts that may change
        n_random = max(LEAST_RANDOM, round(RANDOM_SHARE * trials))
        sampler: optuna.samplers.BaseSampler
        if method == "gp":
            sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=n_random)
        else:
            sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=n_random, multivariate=True, constant_liar=True
            )
        study = optuna.create_study(sampler=sampler)
        spaces = {dimension.name: distribution(dimension) for dimension in space}
        for one in seen:
            if not all(d.name in one.point and d.contains(one.point[d.name]) for d in space):
                continue  # the recipe may lie outside
            state = optuna.trial.TrialState
            study.add_trial(
                optuna.trial.create_trial(
                    state=state.RUNNING if one.loss is None else state.COMPLETE,
                    params=one.point,
                    distributions=spaces,
                    value=one.loss,
                )
            )
        params = study.ask(spaces).params
    return {d.name: _plain(d, params[d.name]) for d in space}


def _plain(dimension: Dimension, value: Value) -> Value:
    """A value in few digits, and inside the range."""
    if dimension.choices or not isinstance(value, float):
        return value
    return min(max(rounded(value), dimension.low), dimension.high)


def distribution(dimension: Dimension):  # type: ignore[no-untyped-def]
    """A dimension as Optuna describes it."""
    from optuna import distributions

    if dimension.choices:
        return distributions.CategoricalDistribution(dimension.choices)
    if dimension.is_whole:
        low, high = int(dimension.low), int(dimension.high)
        return distributions.IntDistribution(low, high, log=dimension.log)
    return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)
