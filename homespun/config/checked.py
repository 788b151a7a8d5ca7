"""Dataclasses whose values are checked against annotated types and bounds.

Flags, TOML files and Python all construct these dataclasses, so the same rules and messages apply to all three.
"""

import contextlib
import dataclasses
import math
import operator
import re
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from homespun.errors import UserError, did_you_mean

OnResume = Literal["fixed", "free", "announced"]
"""Whether `--resume` accepts another value. *fixed*: no. *announced*: yes, with a message. *free*: yes."""

REQUIRED = dataclasses.MISSING
"""In place of the default of a setting that has none."""

COMPARISONS = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}
"""How a value must compare with a bound of that name."""


def setting(
    default: Any,
    help: str,
    *,
    with_preset: Any = None,
    on_resume: OnResume = "free",
    const: str | None = None,
    metavar: str | None = None,
    **bounds: float,
) -> Any:
    """A dataclass field with its help text and rules.

    Args:
        with_preset: the default with --model-size, where `default` is None.
        const: the value of the flag alone, as in `argparse`.
        metavar: the placeholder of a value in the help, where the type does not give one.
        bounds: limits of a number, named as in `COMPARISONS`.
    """
    assert bounds.keys() <= COMPARISONS.keys()
    metadata = {
        "help": help,
        "with_preset": with_preset,
        "on_resume": on_resume,
        "const": const,
        "metavar": metavar,
        "bounds": bounds,
    }
    return dataclasses.field(default=default, metadata=metadata)


def preset_defaults(kind: type["Checked"]) -> dict[str, Any]:
    """The settings of `kind` that have a default of their own with --model-size."""
    return {
        field.name: field.metadata["with_preset"]
        for field in dataclasses.fields(kind)
        if field.metadata.get("with_preset") is not None
    }


def flag(name: str) -> str:
    """The command line flag of a setting."""
    return "--" + name.replace("_", "-")


def parse_value(kind: type["Checked"], name: str, text: str) -> Any:
    """`text` as a number if the setting is one. Other text stays as it is, for `Checked` to accept or refuse."""
    hint = get_type_hints(kind)[name]
    numbers = [number for number in (int, float) if number in (hint, *get_args(hint))]
    with contextlib.suppress(ValueError):
        return numbers[0](text) if numbers else text
    return text


@dataclasses.dataclass(frozen=True)
class Checked:
    """Base class that checks types, bounds and texts when a config is made. A list is accepted for a tuple.

    Raises:
        UserError: a value is of another type, out of bounds, not finite, or an empty text.
    """

    def __post_init__(self) -> None:
        types = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), types[field.name]
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            if not _fits(value, kind):
                expected = _describe_type(kind)
                raise UserError(f"{flag(field.name)} is {value!r}: {expected} is expected")
            if isinstance(value, str):
                _check_text(flag(field.name), value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                _check_number(flag(field.name), value, field.metadata.get("bounds", {}))


def _check_text(name: str, text: str) -> None:
    if not text or "\0" in text:
        problem = "contains a NUL character" if text else "is empty"
        raise UserError(f"{name} {problem}: give a value or leave it out")


def _check_number(name: str, value: float, bounds: dict[str, float]) -> None:
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{name} has {len(str(abs(value)))} digits: give a smaller number")
    if not math.isfinite(value):
        raise UserError(f"{name} is {value}: give a finite number")
    for bound, limit in bounds.items():
        if not COMPARISONS[bound](value, limit):
            raise UserError(f"{name} is {value}: it must be {bound.replace('_', ' ')} {limit:g}")


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of an annotated type. An int is accepted for a float."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if arguments:
        return any(_fits(value, argument) for argument in arguments)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _describe_type(kind: Any) -> str:
    """An annotated type in the words of an error message."""
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f'"{choice}"' for choice in arguments)
    if origin is tuple:
        return "a list of strings"
    if arguments:
        return _describe_type(arguments[0])
    return words[kind]


def seconds(text: str) -> float:
    """The seconds of a time budget such as '90s', '20m', '5 min', '1.5h' or '1h30m'. Each number needs a unit.

    Raises:
        UserError: it is not a positive duration of less than 1e9 seconds.
    """
    if re.fullmatch(r"[1-9]\d*", text):
        raise UserError(f"--time-budget is '{text}': add a unit, as in {text}s, {text}m or {text}h")
    lengths = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    part = r"(\d+(?:\.\d+)?)\s*(s(?:ec)?|m(?:in)?|h|d)\s*"
    parts = re.findall(part, text) if re.fullmatch(rf"\s*(?:{part})+", text) else []
    total = sum(float(number) * lengths[unit[0]] for number, unit in parts)
    if not 0 < total < 1e9:
        raise UserError(f"--time-budget is '{text}': give a duration such as 90s, 20m or 1h30m")
    return total


AnyConfig = TypeVar("AnyConfig", bound=Checked)


def replaced(config: AnyConfig, settings: dict[str, Any]) -> AnyConfig:
    """A copy of `config` with some settings replaced.

    Raises:
        UserError: a setting is unknown, or refuses its value.
    """
    known = [field.name for field in dataclasses.fields(config)]
    for name in settings:
        if name not in known:
            advice = did_you_mean(name, known, f"choose from {', '.join(known)}")
            raise UserError(f"unknown setting {name}: {advice}")
    return dataclasses.replace(config, **settings)
