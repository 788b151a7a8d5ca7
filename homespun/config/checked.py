"""Dataclasses whose values are checked against annotated types and bounds.

Flags, TOML files and Python all construct these dataclasses, so the same rules and messages apply to all three.
"""

import contextlib
import dataclasses
import inspect
import math
import operator
import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from homespun.config.other_names import OTHER_NAMES
from homespun.errors import UserError, did_you_mean

OnResume = Literal["fixed", "free", "announced"]
"""Whether `--resume` accepts another value. *fixed*: no. *announced*: yes, with a message. *free*: yes."""

PathName = Annotated[str, "path"]
"""The type of a setting that names a file or a folder. A leading `~` or `~user` stands for a home folder."""

LONGEST_SHOWN = 100
"""Characters of a refused value that a message repeats."""

REQUIRED = dataclasses.MISSING
"""In place of the default of a setting that has none."""

_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}

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
    with_preset_words: str | None = None,
    on_resume: OnResume = "free",
    const: str | None = None,
    if_omitted: str | None = None,
    recipe: str | None = None,
    off: Any = dataclasses.MISSING,
    positional: bool = False,
    escapes: bool = False,
    metavar: str | None = None,
    **bounds: float,
) -> Any:
    """A dataclass field with its help text and rules.

    Args:
        with_preset: the default with --model-size, where `default` is None.
        with_preset_words: for the help, the same where it is not one value.
        const: the value of the flag alone, as in `argparse`.
        if_omitted: for the help, the effect of leaving out a setting whose default is None.
        recipe: for the help, the value that is chosen without --model-size.
        off: the value that the word "off" stands for, where it is understood.
        positional: the value is typed without a flag.
        escapes: \\n, \\t and \\\\ are typed for a line break, a tab and a backslash.
        metavar: the placeholder of a value in the help, where the type does not give one.
        bounds: limits of a number, named as in `COMPARISONS`.
    """
    assert bounds.keys() <= COMPARISONS.keys()
    metadata = {
        "help": help,
        "with_preset": with_preset,
        "with_preset_words": with_preset_words,
        "on_resume": on_resume,
        "const": const,
        "if_omitted": if_omitted,
        "recipe": recipe,
        "off": off,
        "positional": positional,
        "escapes": escapes,
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


def owner(kind: type["Checked"], name: str) -> type:
    """The class that defines a setting. Its docstring is the title of a group of settings, and a sentence about it."""
    return next(one for one in kind.__mro__ if name in one.__annotations__)


def flag(name: str) -> str:
    """The command line flag of a setting."""
    return "--" + name.replace("_", "-")


def parse_value(kind: type["Checked"], name: str, text: str) -> Any:
    """The value that a typed text stands for: a number if the setting is one, "off", or a text with escapes.

    Other text stays as it is, for `Checked` to accept or refuse.
    """
    hint, rules = get_type_hints(kind)[name], kind.__dataclass_fields__[name].metadata
    if text == "off" and rules["off"] is not dataclasses.MISSING:
        return rules["off"]
    if rules["escapes"]:
        return re.sub(r"\\[nt\\]", lambda found: _ESCAPES[found[0]], text)
    numbers = [number for number in (int, float) if number in (hint, *get_args(hint))]
    with contextlib.suppress(ValueError):
        return numbers[0](text) if numbers else text
    return text


@dataclasses.dataclass(frozen=True)
class Checked:
    """Base class that checks and converts values when a config is made, see `checked`.

    Raises:
        UserError: a setting refuses its value.
    """

    def __post_init__(self) -> None:
        types = get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):
            given, bounds = getattr(self, field.name), field.metadata.get("bounds", {})
            value = checked(field.name, given, types[field.name], bounds)
            object.__setattr__(self, field.name, value)


def checked(name: str, value: Any, kind: Any, bounds: Mapping[str, float] | None = None) -> Any:
    """The value of a setting as Python's own type.

    Numbers of NumPy and of tensor libraries are accepted for numbers, a list for a tuple, and a `pathlib.Path` for a
    text. A path has its home folder filled in.

    Args:
        name: the name of the setting.
        value: the value that was given.
        kind: the annotated type, see `PathName`.
        bounds: limits of a number, named as in `COMPARISONS`.

    Raises:
        UserError: the value is of another type, out of bounds, not finite, or an empty text.
    """
    several = isinstance(value, list | tuple)
    value = tuple(map(_as_builtin, value)) if several else _as_builtin(value)
    if not _fits(value, kind):
        raise UserError(f"{flag(name)} is {shown(value)}: {_describe_type(kind)} is expected")
    if several and _is_path(kind):
        return tuple(checked(name, path, PathName) for path in value)
    if isinstance(value, str):
        _check_text(flag(name), value)
        if _is_path(kind):
            return _with_home(flag(name), value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_number(flag(name), value, bounds or {})
    return value


def shown(value: object) -> str:
    """A value of any type and size in one short line, for a message."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an integer of thousands of digits, or a type whose repr fails
        return f"of type {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def _as_builtin(value: Any) -> Any:
    """A path as text, a number of another library as Python's own."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        return value.item()
    return value


def _is_path(kind: Any) -> bool:
    return kind == PathName or PathName in get_args(kind)


def _with_home(name: str, path: str) -> str:
    expanded = os.path.expanduser(path)  # noqa: PTH111 - pathlib would also change `a//b` and `./a`
    if expanded.startswith("~"):
        home = path.partition("/")[0]
        raise UserError(
            f"{name} is {shown(path)}: there is no home folder {home}; "
            f"a file of that name is ./{home}"
        )
    return expanded


def _check_text(name: str, text: str) -> None:
    if not text or "\0" in text:
        problem = "contains a NUL character" if text else "is empty"
        raise UserError(f"{name} {problem}: give a value or leave it out")


def _check_number(name: str, value: float, bounds: Mapping[str, float]) -> None:
    if isinstance(value, int) and abs(value) >= 2**63:
        few = value.bit_length() < 10_000  # Python refuses to convert thousands of digits to text
        digits = len(str(abs(value))) if few else "thousands of"
        raise UserError(f"{name} has {digits} digits: give a smaller number")
    if not math.isfinite(value):
        raise UserError(f"{name} is {value}: give a finite number")
    for bound, limit in bounds.items():
        if not COMPARISONS[bound](value, limit):
            raise UserError(f"{name} is {value}: it must be {bound.replace('_', ' ')} {limit:g}")


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of an annotated type. An int is accepted for a float."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(value, arguments[0])
    if origin is Literal:
        return isinstance(value, str) and value in arguments
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
        choices = get_origin(arguments[0]) is Literal
        return f"a list of {_describe_type(arguments[0])}" if choices else "a list of strings"
    if arguments:
        return _describe_type(arguments[0])
    return words[kind]


def seconds(text: str) -> float:
    """The seconds of a time budget such as '90s', '20m', '5 min', '1.5h' or '1h30m'. Each number needs a unit.

    Raises:
        UserError: it is not a positive duration of less than 1e9 seconds.
    """
    if re.fullmatch(r"[1-9]\d{0,8}", text):
        raise UserError(
            f"--time-budget is {shown(text)}: add a unit, as in {text}s, {text}m or {text}h"
        )
    lengths = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    part = r"(\d+(?:\.\d+)?)\s*(s(?:ec)?|m(?:in)?|h|d)\s*"
    parts = re.findall(part, text) if re.fullmatch(rf"\s*(?:{part})+", text) else []
    total = sum(float(number) * lengths[unit[0]] for number, unit in parts)
    if not 0 < total < 1e9:
        raise UserError(
            f"--time-budget is {shown(text)}: give a duration such as 90s, 20m or 1h30m"
        )
    return total


def meant_setting(
    kind: type[Checked], name: str, otherwise: str, written: Callable[[str], str] = str
) -> str:
    """Advice for an unknown setting: the setting that other programs call so or that is spelled alike, or `otherwise`.

    Args:
        written: writes the name of a setting, for example as a flag.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    plain = name.strip("-").replace("-", "_").lower()
    for own in OTHER_NAMES.get(plain, ()):
        if own in known:
            help = kind.__dataclass_fields__[own].metadata["help"]
            return f"did you mean {written(own)}? {help}"
    return did_you_mean(written(plain), map(written, known), otherwise)


AnyConfig = TypeVar("AnyConfig", bound=Checked)
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def takes_settings_of(kind: type[Checked]) -> Callable[[AnyFunction], AnyFunction]:
    """Decorates a public function whose `**settings` are those of `kind`: its signature then lists them by name, with
    their types and defaults, so that notebooks and `help` show and complete them."""

    def decorate(function: AnyFunction) -> AnyFunction:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        settings = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is REQUIRED else field.default,
                annotation=field.type,
            )
            for field in dataclasses.fields(kind)
            if field.name not in signature.parameters
        ]
        wrapped: Any = function
        wrapped.__signature__ = signature.replace(parameters=[*own, *settings])
        return function

    return decorate


def settings_of(
    kind: type[AnyConfig], config: AnyConfig | None, settings: Mapping[str, Any]
) -> AnyConfig:
    """The arguments of a public function as one config: `config`, or the defaults, with `settings` replaced.

    Raises:
        UserError: `config` is something else, a setting is unknown, or a setting refuses its value.
    """
    if config is not None and not isinstance(config, kind):
        raise UserError(
            f"config is {shown(config)}: a {kind.__name__} is expected; give single settings by name"
        )
    known = [field.name for field in dataclasses.fields(kind)]
    for name in settings:
        if name not in known:
            advice = meant_setting(kind, name, f"choose from {', '.join(known)}")
            raise UserError(f"unknown setting {name}: {advice}")
    return dataclasses.replace(kind() if config is None else config, **settings)
