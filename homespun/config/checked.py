"""Dataclasses that check their values against annotated types and bounds, from flags, TOML files and Python alike."""

import contextlib
import dataclasses
import math
import operator
import re
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from homespun.errors import UserError, did_you_mean

OnResume = Literal["fixed", "free", "announced"]
"""May `--resume` come with another value? *fixed*: refused. *announced*: taken, and said. *free*: taken."""


HOLDS = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}
"""What a value has to be to a bound of that name."""


def setting(
    default: Any, *, on_resume: OnResume = "free", alone: str | None = None, **bounds: float
) -> Any:
    """A dataclass field with its bounds, named as in `HOLDS`, and what its flag means with nothing behind it."""
    assert bounds.keys() <= HOLDS.keys()
    metadata = {"on_resume": on_resume, "alone": alone, "bounds": bounds}
    return dataclasses.field(default=default, metadata=metadata)


def flag(name: str) -> str:
    """A setting as it is written on the command line."""
    return "--" + name.replace("_", "-")


def parse_value(kind: type["Checked"], name: str, text: str) -> Any:
    """What was typed for a setting, as a number where it has to be one; if it is none, `Checked` says so."""
    hint = get_type_hints(kind)[name]
    numbers = [number for number in (int, float) if number in (hint, *get_args(hint))]
    with contextlib.suppress(ValueError):
        return numbers[0](text) if numbers else text
    return text


class Checked:
    """Values are of the type that their field declares (a list will do for a tuple); texts and numbers make sense.

    Raises:
        UserError: one is not, or does not.
    """

    def __post_init__(self) -> None:
        types = get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, kind = getattr(self, field.name), types[field.name]
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            if not _fits(value, kind):
                raise UserError(f"{flag(field.name)} is {value!r}: {_described(kind)} is expected")
            if isinstance(value, str):
                _check_text(flag(field.name), value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                _check_number(flag(field.name), value, field.metadata.get("bounds", {}))


def _check_text(name: str, text: str) -> None:
    if not text or "\0" in text:
        what = "holds a NUL" if text else "is empty"
        raise UserError(f"{name} {what}: give a value or leave it out")


def _check_number(name: str, value: float, bounds: dict[str, float]) -> None:
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{name} has {len(str(abs(value)))} digits: give a smaller number")
    if not math.isfinite(value):
        raise UserError(f"{name} is {value}: give a finite number")
    for bound, limit in bounds.items():
        if not HOLDS[bound](value, limit):
            raise UserError(f"{name} is {value}: it has to be {bound.replace('_', ' ')} {limit:g}")


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of an annotated type; a whole number will do for a float."""
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


def _described(kind: Any) -> str:
    """An annotated type in words."""
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f'"{choice}"' for choice in arguments)
    if origin is tuple:
        return "a list of texts"
    if arguments:
        return _described(arguments[0])
    return words[kind]


def seconds(text: str) -> float:
    """'90s', '20m', '5 min', '1.5h' or '1h30m' in seconds; each number needs its unit.

    Raises:
        UserError: not a positive, finite length of time.
    """
    if re.fullmatch(r"[1-9]\d*", text):
        raise UserError(f"--time-budget is '{text}': say {text}s, {text}m or {text}h")
    lengths = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    part = r"(\d+(?:\.\d+)?)\s*(s(?:ec)?|m(?:in)?|h|d)\s*"
    parts = re.findall(part, text) if re.fullmatch(rf"\s*(?:{part})+", text) else []
    total = sum(float(number) * lengths[unit[0]] for number, unit in parts)
    if not 0 < total < 1e9:
        raise UserError(
            f"--time-budget is '{text}': give a length of time such as 90s, 20m or 1h30m"
        )
    return total


AnyConfig = TypeVar("AnyConfig", bound=Checked)


def replaced(config: AnyConfig, settings: dict[str, Any]) -> AnyConfig:
    """`config` with other settings.

    Raises:
        UserError: there is no such setting, or it cannot have that value.
    """
    known = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    for name in settings:
        if name not in known:
            what_to_do = did_you_mean(name, known, f"there are {', '.join(known)}")
            raise UserError(f"there is no setting {name}: {what_to_do}")
    return dataclasses.replace(config, **settings)  # type: ignore[type-var]
