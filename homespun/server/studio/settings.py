"""The settings of a command flow in; a form for them flows out, and comes back as a checked config.

Names, descriptions, bounds and defaults are those of the dataclasses in `config`, so that the page has no second list.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from homespun.config.checked import REQUIRED, Checked, checked, flag, parse_value
from homespun.errors import UserError
from homespun.server.answers import FieldError
from homespun.server.studio.exchange import JSON

WORDS = {
    "at_least": "at least {:,.7g}",
    "above": "above {:,.7g}",
    "at_most": "at most {:,.7g}",
    "below": "below {:,.7g}",
}
KINDS: dict[Any, str] = {bool: "switch", int: "whole", float: "number", str: "text"}

AnyConfig = TypeVar("AnyConfig", bound=Checked)


def described(
    kind: type[Checked], names: Iterable[str], most: Mapping[str, float] | None = None
) -> list[JSON]:
    """The fields of a form, in the order of `names`. `most` gives some numbers a lower upper bound.

    Each has `name`, `label`, `help`, `kind` (switch, whole, number, text, texts or choice), `choices`, `bounds` in
    words, `omitted`, the effect of leaving it empty, and `value`, the default as text, empty where there is none.
    """
    hints = get_type_hints(kind)
    return [
        _field(kind.__dataclass_fields__[name], hints[name], _bounds(kind, name, most or {}))
        for name in names
    ]


def _bounds(kind: type[Checked], name: str, most: Mapping[str, float]) -> dict[str, float]:
    bounds: dict[str, float] = dict(kind.__dataclass_fields__[name].metadata["bounds"])
    return bounds | {"at_most": most[name]} if name in most else bounds


def _field(field: "dataclasses.Field[Any]", hint: Any, limits: Mapping[str, float]) -> JSON:
    rules = field.metadata
    bounds = (WORDS[name].format(limit) for name, limit in limits.items())
    options = [option for option in get_args(hint) or (hint,) if option is not type(None)]
    choices: list[str] = []
    if get_origin(hint) is tuple:
        form = "texts"
    elif get_origin(hint) is Literal or all(get_origin(option) is Literal for option in options):
        literal = hint if get_origin(hint) is Literal else options[0]
        form, choices = "choice", list(get_args(literal))
    else:
        form = next(word for type_, word in KINDS.items() if type_ in options)
    default = None if field.default in (REQUIRED, ()) else field.default
    return {
        "name": field.name,
        "label": label(field.name),
        "help": rules["help"],
        "kind": form,
        "choices": choices,
        "bounds": ", ".join(bounds).capitalize(),
        "omitted": rules["if_omitted"] or ("off" if rules["off"] is None else None),
        "value": default if isinstance(default, bool) else "" if default is None else str(default),
    }


def label(name: str) -> str:
    """The name of a setting in words."""
    return name.replace("_", " ").capitalize()


def checked_settings(
    kind: type[AnyConfig],
    given: Mapping[str, Any],
    names: Iterable[str],
    most: Mapping[str, float] | None = None,
) -> AnyConfig:
    """The config that a form describes. An empty text stands for the default.

    Args:
        given: texts and switches by the name of the setting; a list of texts where the setting takes several.
        names: the settings that the form has; others are refused.
        most: as in `described`.

    Raises:
        FieldError: a setting is unknown, or refuses its value.
        UserError: settings contradict each other.
    """
    return kind(**values_of(kind, given, names, most))


def values_of(
    kind: type[Checked],
    given: Mapping[str, Any],
    names: Iterable[str],
    most: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The settings that a form states, each checked. Raises as `checked_settings`."""
    known, hints = set(names), get_type_hints(kind, include_extras=True)
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise FieldError(str(name)[:100], "there is no such setting here")
        if value in ("", [], None):
            continue
        bounds = _bounds(kind, name, most or {})
        try:
            if isinstance(value, str):
                value = parse_value(kind, name, value.strip() if hints[name] is not str else value)
            elif isinstance(value, list) and all(isinstance(one, str) for one in value):
                value = tuple(parse_value(kind, name, one) for one in value)
            values[name] = checked(name, value, hints[name], bounds)
        except UserError as error:
            raise FieldError(name, str(error).replace(flag(name), label(name), 1)) from None
    return values
