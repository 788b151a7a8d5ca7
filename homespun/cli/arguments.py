"""Turns the words after a command into the settings that were given, and prints the help of a command.

`argparse` finds the flags. `config` checks the values, so that flags, TOML files and Python share rules and messages.
"""

import argparse
import dataclasses
import itertools
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

from homespun.config.checked import REQUIRED, Checked, flag, parse_value
from homespun.errors import UserError, did_you_mean
from homespun.terminal import wrapped

Field = dataclasses.Field[Any]


@dataclass(frozen=True)
class Command:
    """A command of the command line."""

    name: str
    config: type[Checked]
    """Its settings."""
    run: Callable[[dict[str, Any]], int]
    """Takes the settings that were given; returns the exit status."""
    examples: tuple[str, ...] = ()
    choices: Callable[[], Mapping[str, Iterable[str]]] = dict
    """The values of some settings, for the help, where `config` does not know them."""

    @property
    def description(self) -> str:
        return " ".join((self.config.__doc__ or "").split())


def parse(command: Command, words: Sequence[str]) -> dict[str, Any]:
    """The settings that were given, by name. Numbers are converted; nothing else is checked.

    Raises:
        UserError: a flag is unknown, a value is missing, or a word belongs to no flag.
        SystemExit: the help was requested and has been printed.
    """
    words = [_with_dashes(word) for word in words]
    help_requested = not {"-h", "--help"}.isdisjoint(words)
    parser = _parser(command, command.choices() if help_requested else {})
    try:
        given, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(_explain_error(error, command, words)) from None
    if unknown:
        raise UserError(_explain_unknown(unknown[0], command, words))
    for field in _own_first(command.config):
        if field.default is REQUIRED and field.name not in given:
            name = field.name.upper()
            raise UserError(f"{name} is missing: usage: {_usage(command)}")
    return vars(given)


def _with_dashes(word: str) -> str:
    """A flag may be typed with underscores, as in a TOML file."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Breaks lines between words only, never inside a flag."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(text, width).split("\n")


def _parser(command: Command, choices: Mapping[str, Iterable[str]]) -> argparse.ArgumentParser:
    """The settings of a command, then a group for each class that it inherits settings from."""
    kind = command.config
    parser = argparse.ArgumentParser(
        prog=f"homespun {command.name}",
        usage=_usage(command),
        description=_paragraph(command.description),
        epilog="\n  ".join(("examples:", *command.examples)) if command.examples else None,
        formatter_class=_HelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        exit_on_error=False,
    )
    types = get_type_hints(kind)
    add: dict[type, Callable[..., argparse.Action]] = {kind: parser.add_argument}
    for field in _own_first(kind):
        owner = _owner(kind, field)
        if owner not in add:
            title, _, description = " ".join((owner.__doc__ or "").split()).partition(". ")
            group = parser.add_argument_group(title.lower(), _paragraph(description))
            add[owner] = group.add_argument
        options = _options(kind, field, types[field.name], choices.get(field.name, ()))
        add[owner](field.name if field.default is REQUIRED else flag(field.name), **options)
    return parser


def _usage(command: Command) -> str:
    required = [f.name.upper() for f in _own_first(command.config) if f.default is REQUIRED]
    return " ".join(["homespun", command.name, *(required or ["[SETTINGS]"])])


def _paragraph(text: str) -> str:
    return wrapped(text, shutil.get_terminal_size().columns - 4)


def _own_first(kind: type[Checked]) -> list[Field]:
    """The fields of a class, those that it does not inherit first."""
    return sorted(dataclasses.fields(kind), key=lambda field: _owner(kind, field) is not kind)


def _owner(kind: type, field: Field) -> type:
    """The class that defines a field."""
    return next(owner for owner in kind.__mro__ if field.name in owner.__annotations__)


def _options(
    kind: type[Checked], field: Field, hint: Any, choices: Iterable[str]
) -> dict[str, Any]:
    """The arguments of `add_argument` for a setting."""
    options: dict[str, Any] = {"help": _help(field)}
    if hint is bool:
        return options | {"action": argparse.BooleanOptionalAction}
    options |= {
        "type": partial(parse_value, kind, field.name),
        "metavar": field.metadata["metavar"] or _metavar(field.name, hint, choices),
    }
    if _takes_several(hint):
        options["nargs"] = "*"
    elif field.default is REQUIRED:
        options["nargs"] = "?"  # so that `parse` says what is missing
    elif const := field.metadata["const"]:
        options |= {"nargs": "?", "const": const}
    return options


def _takes_several(hint: Any) -> bool:
    return get_origin(hint) is tuple


def _help(field: Field) -> str:
    """The help text of a setting with its defaults."""
    notes = []
    default, with_preset = field.default, field.metadata["with_preset"]
    if isinstance(default, tuple):
        default = shlex.join(default) or None
    if not (default is None or default is False or default is REQUIRED):
        notes.append(f"default: {default}")
    if with_preset is not None:
        notes.append(f"default with --model-size: {with_preset}")
    text = field.metadata["help"] + "".join(f" ({note})" for note in notes)
    return str(text).replace("%", "%%")


def _metavar(name: str, hint: Any, choices: Iterable[str]) -> str:
    """The placeholder of a value: its choices, N for a number, or the last word of the setting's name."""
    kinds = (hint, *get_args(hint))
    choices = [*choices] or [c for k in kinds if get_origin(k) is Literal for c in get_args(k)]
    if choices:
        return "{" + ",".join(choices) + "}"
    if _takes_several(hint):
        return "TEXT"
    return "N" if int in kinds or float in kinds else name.rpartition("_")[2].upper()


def _explain_error(error: argparse.ArgumentError, command: Command, words: list[str]) -> str:
    """The message for a flag that lacks its value, or has one that it does not take."""
    name = (error.argument_name or "").partition("/")[0]
    if name not in words:  # it is `--flag=value`
        return f"{name} takes no value"
    following = words[words.index(name) + 1 :][:1]
    if not following or following[0].partition("=")[0] in _flags(command):
        return f"{name} needs a value"
    return f"{name} needs a value: one that begins with a dash is written {name}={following[0]}"


def _explain_unknown(word: str, command: Command, words: list[str]) -> str:
    """The message for a word that argparse could not place."""
    help_lists = f"homespun {command.name} --help lists all settings"
    if word.startswith("-"):
        name = word.partition("=")[0]
        meant = did_you_mean("--" + name.lstrip("-"), _flags(command), help_lists)
        return f"unknown flag {name}: {meant}"
    main = _own_first(command.config)[0]
    if main.default is REQUIRED:
        return f"'{word}' is one too many: homespun {command.name} takes one {main.name}"
    types = {flag(name): hint for name, hint in get_type_hints(command.config).items()}
    for name, values in _values_by_flag(words):
        if word not in values or _takes_several(types.get(name)):
            continue
        if types.get(name, bool) is not bool and len(values) > 1:
            example = f"{name} {_quoted(values)}"
            return f"{name} takes one value, and a value with spaces needs quotes: {example}"
        if types.get(name, bool) is bool and str in get_args(types[flag(main.name)]):
            example = f"homespun {command.name} {flag(main.name)} {_quoted(values)}"
            return f"'{values[0]}' has no flag before it: {example}"
    return f"'{word}' has no flag before it: {help_lists}"


def _flags(command: Command) -> list[str]:
    return [flag(field.name) for field in _own_first(command.config)]


def _values_by_flag(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each flag with the words after it. Words before the first flag come with an empty name."""
    starts = [n for n, word in enumerate(words) if word.startswith("-")]
    for start, end in itertools.pairwise([-1, *starts, len(words)]):
        name, equals, value = words[start].partition("=") if start >= 0 else ("", "", "")
        yield name, [*([value] if equals else []), *words[start + 1 : end]]


def _quoted(words: Sequence[str]) -> str:
    text = " ".join(words)
    return f'"{text}"' if " " in text else text
