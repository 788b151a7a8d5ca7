"""The words behind a command in, the settings that stand in them out; a slip of the fingers is one clear line.

tyro finds the flags and prints the help. What a value has to be is said once, in `config`, for flags, TOML and Python.
"""

import ast
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from homespun.config.checked import Checked, flag, parse_value
from homespun.errors import UserError, did_you_mean
from homespun.terminal import say


def parse(
    kind: type[Checked], command: str, words: Sequence[str], examples: Sequence[str] = ()
) -> dict[str, Any]:
    """The settings of `kind` that are given.

    Raises:
        UserError: a flag that does not exist or has not the one value that it needs, or a word without a flag.
        SystemExit: help was asked for and is printed, with the examples below it.
    """
    if {"-h", "--help"} & set(words):
        say(" ".join((kind.__doc__ or "").split()) + "\n")  # tyro would break words at the edge
    try:
        found, strangers = tyro.cli(
            _screen(kind),
            prog=f"homespun {command}",
            description="",
            args=words,
            return_unknown_args=True,
        )
    except SystemExit as ended:
        if ended.code == 0 and examples:
            print("\nexamples:", *examples, sep="\n  ")
        raise
    if strangers:
        raise UserError(_explained(strangers, kind, command))
    boxes = [value for value in vars(found).values() if dataclasses.is_dataclass(value)]
    given = {name: value for box in (found, *boxes) for name, value in vars(box).items()}
    return {
        field.name: _value(kind, field, given[field.name])
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        if given[field.name] is not None
    }


def _screen(kind: type[Checked]) -> Any:
    """`kind` as tyro is to show it: its own settings, then a box for each class that it has others from.

    What is given comes back as words, what is not as None.
    """
    hints = get_type_hints(kind)
    options: dict[type, list[Any]] = {kind: []}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        owner = next(one for one in kind.__mro__ if field.name in one.__annotations__)
        option = _option(field, hints[field.name], _docstrings(owner)[field.name])
        options.setdefault(owner, []).append((field.name, *option))
    own = options.pop(kind)
    for owner, inherited in options.items():
        box = dataclasses.make_dataclass(owner.__name__, inherited)
        box.__doc__ = owner.__doc__
        title = tyro.conf.arg(name=owner.__name__.removesuffix("Config").lower())
        shown: Any = Annotated[box, title, tyro.conf.OmitArgPrefixes]
        own.append((box.__name__, shown, dataclasses.field(default_factory=box)))
    return dataclasses.make_dataclass(kind.__name__, own)


def _option(field: "dataclasses.Field[Any]", hint: Any, text: str) -> tuple[Any, Any]:
    """A setting for tyro: its help, and any number of words, as what is wrong with them is not for tyro to say."""
    default, required = field.default, field.default is dataclasses.MISSING
    several = get_origin(hint) is tuple
    told = " ".join(map(repr, default)) if isinstance(default, tuple) else str(default)
    shown = tyro.conf.arg(
        help=" ".join(text.split()),
        help_behavior_hint="" if told in ("", "None", "False") else f"(default: {told})",
    )
    if hint is bool:
        return Annotated[bool | None, tyro.conf.DisallowNone, shown], None
    words = PrimitiveConstructorSpec(
        nargs=1 if required else "*",
        metavar=_metavar(field.name, hint) + (" ..." if several else ""),
        instance_from_str=lambda words: words,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [],
    )
    if required:
        return Annotated[Any, words, shown, tyro.conf.Positional], default
    return Annotated[Any, words, shown], None


def _metavar(name: str, hint: Any) -> str:
    """What stands for the value: its choices, N for a number, or the last word of the name."""
    kinds = (hint, *get_args(hint))
    choices = [choice for k in kinds if get_origin(k) is Literal for choice in get_args(k)]
    if choices:
        return "{" + ",".join(choices) + "}"
    return "N" if int in kinds or float in kinds else name.rpartition("_")[2].upper()


@functools.cache
def _docstrings(owner: type) -> dict[str, str]:
    """What stands below each field of a class."""
    [definition] = ast.parse(inspect.getsource(owner)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: str(text.value.value)
        for field, text in itertools.pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _value(kind: type[Checked], field: "dataclasses.Field[Any]", given: bool | list[str]) -> Any:
    """What is typed behind a flag, as a value of its setting."""
    if isinstance(given, bool):
        return given
    if isinstance(field.default, tuple):
        return tuple(given)
    if not given and (alone := field.metadata.get("alone")):
        return alone
    if not given:
        raise UserError(f"{flag(field.name)} needs a value behind it")
    if len(given) > 1:
        quoted = f"{flag(field.name)} {_quoted(given)}"
        raise UserError(
            f"{flag(field.name)} takes one value: one with spaces needs quotes: {quoted}"
        )
    return parse_value(kind, field.name, given[0])


def _explained(strangers: list[str], kind: type[Checked], command: str) -> str:
    """What to do about words that tyro could not place."""
    first = strangers[0]
    if first.startswith("-"):
        flags = [flag(name) for name in get_type_hints(kind)]
        meant = flag(first.partition("=")[0].strip("-"))
        help_lists = f"homespun {command} --help lists what there is"
        return f"there is no {first}: {did_you_mean(meant, flags, help_lists)}"
    bare = list(itertools.takewhile(lambda word: not word.startswith("-"), strangers))
    usual = next(iter(kind.__annotations__))
    if not hasattr(kind, usual):  # without a default it takes a word without a flag, and has one
        return f"'{first}' is one too many: homespun {command} takes one {usual}"
    return f"'{first}' has no flag before it: homespun {command} {flag(usual)} {_quoted(bare)}"


def _quoted(words: list[str]) -> str:
    text = " ".join(words)
    return f'"{text}"' if " " in text else text
