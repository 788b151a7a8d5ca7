"""JSON from the header of a file flows in, values of annotated types flow out, each checked for its type and range.

Anybody can write a header with the right hashes. What follows a check can rely on the annotations.
"""

import dataclasses
import math
import types
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

MAX_INTEGER = 2**53
"""Larger than any count of a run."""
MAX_FLOAT = 1e100
"""Larger than any sum of float32 numbers, and its square is finite."""

Signed = Annotated[float, "signed"]
"""A number that may be negative. All others may not."""

T = TypeVar("T")


def restored(kind: type[T], stored: Any, where: str = "header") -> T:
    """The value of a type that was stored as JSON.

    A dataclass is stored as an object, and its fields with defaults may be missing; a named tuple is stored as a list.

    Args:
        kind: a dataclass, a named tuple, or a type that occurs in their annotations.
        stored: the parsed JSON.
        where: the name of the value in messages.

    Raises:
        ValueError: a field is unknown, missing, or of another type, or a number is out of range.
    """
    value: T = _restored(kind, stored, where)
    return value


def _restored(kind: Any, stored: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Signed:
        return _number(float, stored, where, signed=True)
    if kind in (int, float):
        return _number(kind, stored, where)
    if kind in (bool, str, types.NoneType):
        return _of_type(kind, stored, where)
    if origin in (Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not types.NoneType]
        return None if stored is None else _restored(inner[0], stored, where)
    if origin is list:
        items = _of_type(list, stored, where)
        return [_restored(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(items)]
    if origin is tuple:
        return tuple(_row(arguments, stored, where))
    if origin is dict:
        entries = _of_type(dict, stored, where).items()
        return {key: _restored(arguments[1], value, f"{where}.{key}") for key, value in entries}
    hints = get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        values = _of_type(dict, stored, where)
        if unknown := sorted(values.keys() - hints.keys()):
            raise ValueError(f"{where} has an unknown field {unknown[0]}")
        parts = {
            name: _restored(hints[name], value, f"{where}.{name}") for name, value in values.items()
        }
        make: Any = kind
        try:
            return make(**parts)
        except TypeError as error:
            raise ValueError(f"{where}: {error}") from None
    return kind(*_row([hints[name] for name in kind._fields], stored, where))


def _row(kinds: Any, stored: Any, where: str) -> list[Any]:
    """The items of a list that has one item of each kind."""
    items = _of_type(list, stored, where)
    if len(items) != len(kinds):
        raise ValueError(f"{where} has {len(items)} items, not {len(kinds)}")
    return [
        _restored(kind, item, f"{where}[{i}]")
        for i, (kind, item) in enumerate(zip(kinds, items, strict=True))
    ]


def _of_type(kind: type[Any], stored: Any, where: str) -> Any:
    if type(stored) is not kind:
        raise ValueError(f"{where} is {type(stored).__name__}, not {kind.__name__}")
    return stored


def _number(kind: type[Any], stored: Any, where: str, *, signed: bool = False) -> Any:
    if type(stored) is not kind and not (kind is float and type(stored) is int):
        raise ValueError(f"{where} is {type(stored).__name__}, not {kind.__name__}")
    largest = MAX_INTEGER if type(stored) is int else MAX_FLOAT
    if not (-largest if signed else 0) <= stored <= largest or not math.isfinite(stored):
        raise ValueError(f"{where} is {stored:.3g}, which is out of range")
    return stored
