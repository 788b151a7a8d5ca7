"""Texts such as `learning_rate=1e-4:6e-4:log` flow in, the dimensions of the search come out."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from homespun.config import TrainConfig, TuneConfig
from homespun.config.checked import meant_setting, parse_value, shown
from homespun.config.optimizer import OptimizerConfig, StepConfig
from homespun.config.shape import ShapeConfig
from homespun.errors import UserError

Value = int | float | str
Point = dict[str, Value]
"""A value for each dimension."""

RATE, MUON_RATE = "learning_rate", "muon_learning_rate"
LOG_BY_DEFAULT = (RATE, MUON_RATE)
PRIORITY = (RATE, "batch_size", "seq_len", "warmup_steps", "weight_decay")
"""The usual dimensions, the most important first."""
RATE_FACTORS = (1 / 3, 1.0, 2.0)
"""Of the recipe's rate: 1e-4, 3e-4 and 6e-4 where it is 3e-4."""
BATCH_FACTORS = (0.5, 1.0, 2.0)
CONTEXT_FACTORS = (1.0, 2.0)
WARMUP_SHARES = (0.01, 0.02, 0.05)
DECAY_FACTORS = (0.5, 1.0, 2.0)
EDGE = 0.05
"""A value in this fraction of a range, from either end, counts as its edge."""

LENGTH = ("max_steps", "max_epochs", "patience", "vocab_size")
"""Settings that change the task itself, so that losses would not compare."""
SEARCHED = (OptimizerConfig, StepConfig, ShapeConfig)
ALSO = ("lora_rank", "lora_alpha")


@dataclass(frozen=True)
class Dimension:
    """A setting that varies: over some values, or over a range."""

    name: str
    choices: tuple[Value, ...] = ()
    """Empty: it is a range."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the values of a range are whole numbers."""
        return int in _kinds(self.name)

    def contains(self, value: Value) -> bool:
        if self.choices:
            return value in self.choices
        return not isinstance(value, str) and self.low <= value <= self.high

    def height(self, value: float) -> float:
        """The place of a value in a range, on its scale, from 0 to 1."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)

    @property
    def largest(self) -> Value:
        """Of numbers."""
        return max(self.choices) if self.choices else self.high

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name}={','.join(map(written, self.choices))}"
        scale = "log" if self.log else "linear"
        return f"{self.name}={written(self.low)}:{written(self.high)}:{scale}"


def written(value: Value) -> str:
    """A value in few digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def rounded(value: float) -> float:
    """A number with the six digits that a table shows, so that the table tells the whole value."""
    return float(f"{value:.6g}")


def searchable() -> list[str]:
    """The settings that can be dimensions."""
    names = [f.name for kind in SEARCHED for f in dataclasses.fields(kind)]
    return [name for name in [*names, *ALSO] if name not in LENGTH]


def chosen_space(
    config: TuneConfig, recipe: Mapping[str, Any], total_steps: int
) -> tuple[Dimension, ...]:
    """The dimensions that are named, or the usual ones around the recipe.

    Args:
        recipe: its settings.
        total_steps: of a run with the recipe.

    Raises:
        UserError: a dimension is unknown, named twice, empty, or has a bad value.
    """
    if not config.search:
        usual = [
            usual_dimension(name, recipe, total_steps, grid=config.method == "grid")
            for name in PRIORITY[: config.dimensions]
        ]
        return tuple(usual)
    space = [parsed(text, recipe) for text in config.search]
    names = [dimension.name for dimension in space]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--search names {name} twice: put all its values behind one name")
    for dimension in space:
        if config.method == "grid" and not dimension.choices:
            low, high = written(dimension.low), written(dimension.high)
            raise UserError(
                f"--search {dimension.name} is a range, and a grid needs values: "
                f"{dimension.name}={low},{high}"
            )
    return tuple(space)


def usual_dimension(
    name: str, recipe: Mapping[str, Any], total_steps: int, *, grid: bool
) -> Dimension:
    """The usual values of a setting, or their range."""
    own: Any = recipe.get(name)
    if name == RATE:
        values = [rounded(own * factor) for factor in RATE_FACTORS]
        if not grid:
            return Dimension(name, low=min(values), high=min(1.0, max(values)), log=True)
    elif name == "batch_size":
        values = [max(1, round(own * factor)) for factor in BATCH_FACTORS]
    elif name == "seq_len":
        values = [max(2, round(own * factor)) for factor in CONTEXT_FACTORS]
    elif name == "warmup_steps":
        values = [max(1, round(total_steps * share)) for share in WARMUP_SHARES]
        if not grid and values[0] < values[-1]:
            return Dimension(name, low=values[0], high=values[-1])
    else:
        base = own or 0.1
        values = [rounded(base * factor) for factor in DECAY_FACTORS]
        if not grid:
            return Dimension(name, low=min(values), high=max(values), log=True)
    return Dimension(name, tuple(dict.fromkeys(values)))


def parsed(text: str, recipe: Mapping[str, Any] | None) -> Dimension:
    """The dimension that a text describes. Without a recipe, its multiples are not checked.

    Raises:
        UserError: it is unknown, empty, or has a bad value.
    """
    name, equals, rest = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    if not equals or not rest.strip():
        raise UserError(
            f"--search {shown(text)} has no values: write NAME=LOW:HIGH or NAME=V1,V2, "
            "such as learning_rate=1e-4:6e-4:log"
        )
    known = searchable()
    if name not in known:
        if name in TrainConfig.__dataclass_fields__:
            raise UserError(
                f"--search {name}: trials that differ in it cannot be compared, or it is no setting of the training; "
                f"choose from {', '.join(known)}"
            )
        raise UserError(
            f"--search {name} is no setting: "
            + meant_setting(TrainConfig, name, f"choose from {', '.join(known)}")
        )
    first, *more = rest.split(":")
    if not more:
        values = [_value(name, word, recipe) for word in rest.split(",")]
        return Dimension(name, tuple(dict.fromkeys(values)))
    scale = more[1] if len(more) == 2 else None
    if len(more) > 2 or scale not in (None, "log", "linear"):
        raise UserError(
            f"--search {shown(text)}: a range is NAME=LOW:HIGH, NAME=LOW:HIGH:log or :linear"
        )
    low, high = (_value(name, word, recipe) for word in (first, more[0]))
    if isinstance(low, str) or isinstance(high, str):
        raise UserError(f"--search {name} is no number: write NAME=V1,V2 with its values")
    if low >= high:
        raise UserError(
            f"--search {shown(text)} is an empty range: the first number has to be the smaller one"
        )
    log = scale == "log" or (scale is None and name in LOG_BY_DEFAULT)
    if log and low <= 0:
        raise UserError(
            f"--search {shown(text)}: a range that begins at {written(low)} has no :log"
        )
    return Dimension(name, low=low, high=high, log=log)


def _value(name: str, word: str, recipe: Mapping[str, Any] | None) -> Value:
    """A value, or a multiple of the recipe's.

    Raises:
        UserError: the setting refuses it.
    """
    word = word.strip()
    value: Any = parse_value(TrainConfig, name, word)
    if (factor := _factor(word)) is not None:
        if recipe is None:
            return factor
        own = recipe.get(name)
        if not isinstance(own, int | float):
            raise UserError(
                f"--search {name}: the recipe has no number of it that {word} could multiply"
            )
        value = rounded(own * factor)
        value = max(1, round(value)) if isinstance(own, int) else value
    try:
        accepted = getattr(TrainConfig(**{name: value}), name)
    except UserError as error:
        raise UserError(f"--search {name}: {error}") from None
    if not isinstance(accepted, int | float | str) or isinstance(accepted, bool):
        raise UserError(f"--search {name}: {shown(word)} is no value of it")
    if float in _kinds(name) and not isinstance(accepted, str):
        return float(accepted)
    return accepted


def _factor(word: str) -> float | None:
    """The number behind an x, if the word is a multiple of the recipe's value."""
    if word[:1] not in ("x", "X", "×"):
        return None
    with contextlib.suppress(ValueError):
        factor = float(word[1:])
        return factor if math.isfinite(factor) and factor > 0 else None
    return None


def from_python(space: object) -> tuple[str, ...]:
    """The texts of `--search` for a space in Python: a list or a tuple for the values of a setting, a pair of numbers
    in a tuple, with "log" or "linear" as a third, for a range.

    Raises:
        UserError: it has another form.
    """
    if not isinstance(space, Mapping):
        raise UserError(
            f'the space is {shown(space)}: a dictionary is expected, such as {{"learning_rate": (1e-4, 6e-4)}}'
        )
    return tuple(f"{name}={_texts(str(name), values)}" for name, values in space.items())


def _texts(name: str, values: object) -> str:
    if isinstance(values, str):
        return values
    if isinstance(values, tuple) and 2 <= len(values) <= 3 and not isinstance(values[1], str):
        return ":".join(map(_text, values))
    if isinstance(values, Sequence) and values:
        return ",".join(map(_text, values))
    raise UserError(
        f"the space of {name} is {shown(values)}: give a list of values, or a tuple with the ends of a range"
    )


def _text(value: object) -> str:
    value = getattr(value, "item", lambda: value)()
    return repr(value) if isinstance(value, float) else str(value)


def settings_at(point: Point, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a trial. Where the learning rate varies and Muon's does not, Muon's follows in proportion."""
    settings = {**recipe, **point}
    follows = RATE in point and MUON_RATE not in point and recipe.get("optimizer") == "muon"
    if follows and point[RATE] != recipe[RATE]:
        factor = float(point[RATE]) / recipe[RATE]
        settings[MUON_RATE] = min(1.0, rounded(recipe[MUON_RATE] * factor))
    return settings


def recipe_point(space: Sequence[Dimension], recipe: Mapping[str, Any]) -> Point:
    """The values of the recipe."""
    return {d.name: recipe[d.name] for d in space if recipe.get(d.name) is not None}


def grid(space: Sequence[Dimension]) -> list[Point]:
    """Every combination, the last dimension fastest."""
    values = itertools.product(*(dimension.choices for dimension in space))
    return [dict(zip((d.name for d in space), point, strict=True)) for point in values]


def at_edge(space: Sequence[Dimension], settings: Mapping[str, Any]) -> list[str]:
    """The dimensions in which a point lies at the end of what was tried."""
    found = []
    for d in space:
        value = settings.get(d.name)
        if d.choices:
            numbers = [choice for choice in d.choices if not isinstance(choice, str)]
            ends = (min(numbers), max(numbers)) if len(numbers) > 1 else ()
            is_at_end = value in ends
        else:
            is_at_end = value is not None and not EDGE < d.height(value) < 1 - EDGE
        if is_at_end:
            found.append(d.name)
    return found


def size(space: Sequence[Dimension]) -> float:
    """The number of points; infinite with a range of fractions."""
    counts = [
        len(d.choices) if d.choices else (d.high - d.low + 1 if d.is_whole else math.inf)
        for d in space
    ]
    return math.prod(counts)


def _kinds(name: str) -> tuple[Any, ...]:
    hint = get_type_hints(TrainConfig)[name]
    return get_args(hint) or (hint,)
