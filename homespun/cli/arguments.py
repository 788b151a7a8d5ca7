"""Turns the words after a command into the settings that were given, and prints the help of a command.

Only the flags are found here. `config` checks the values, so that flags, TOML files and Python share rules and
messages.
"""

import dataclasses
import difflib
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from homespun.config.checked import REQUIRED, Checked, flag, meant_setting, owner, parse_value
from homespun.config.other_names import OTHER_NAMES
from homespun.errors import UserError
from homespun.terminal import wrapped

Field = dataclasses.Field[Any]
Settings = dict[str, Any]
"""The settings that were given, by name."""

HELP = ("-h", "--help")
SWITCHED = {"true": True, "false": False}
"""The values of a switch, as in a TOML file. Without one it is on."""
FILE_FLAGS = {".npz": "--checkpoint", ".toml": "--config"}
"""The flag that takes a file with such an ending."""
DATA = ("--data-file", "--dataset")
"""The flags that take a folder of files, too."""
HELP_COLUMN = 24
"""Column in which the help texts of the settings begin."""


@dataclass(frozen=True)
class Command:
    """A command of the command line."""

    name: str
    config: type[Checked]
    """Its settings."""
    run: Callable[[Settings], int]
    """Takes the settings that were given; returns the exit status."""
    examples: tuple[str, ...] = ()
    choices: Callable[[], Mapping[str, Iterable[str]]] = dict
    """The values of some settings, for the help, where `config` does not know them."""
    most_used: tuple[str, ...] = ()
    """The settings that the help lists first; without any, the command's own ones."""

    @property
    def description(self) -> str:
        return " ".join((self.config.__doc__ or "").split())


def parse(command: Command, words: Sequence[str]) -> dict[str, Any]:
    """The settings that were given, by name. Typed values are converted; nothing else is checked.

    Raises:
        UserError: a flag is unknown, a value or a setting is missing, or a word belongs to no flag.
    """
    return _Parser(command, words).settings()


class _Parser:
    """Takes words one after the other. A value that begins with a dash is taken unless it is, or resembles, a flag."""

    def __init__(self, command: Command, words: Sequence[str]) -> None:
        self._command, self._kind = command, command.config
        self._words = list(words)
        self._hints = get_type_hints(self._kind)
        fields = _own_first(self._kind)
        self._flags = {flag(f.name): f.name for f in fields}
        self._positional = [f.name for f in fields if f.metadata["positional"]]
        self._given: dict[str, Any] = {}
        self._last = ""
        """The last flag."""
        self._last_values: list[str] = []

    def settings(self) -> dict[str, Any]:
        while self._words:
            word = self._words.pop(0)
            name, equals, value = word.partition("=")
            name = name.replace("_", "-")  # a flag may be typed with underscores, as in a TOML file
            if name in self._flags:
                self._take(name, self._flags[name], [value] if equals else [])
            elif (setting := self._switched_off(name)) and not equals:
                self._given[setting] = False
                self._last, self._last_values = name, []
            elif word.startswith("-") and " " not in word:
                raise UserError(self._explain_unknown(name))
            elif not self._take_positional(word):
                raise UserError(self._explain_surplus(word))
        for field in dataclasses.fields(self._kind):
            if field.default is REQUIRED and field.name not in self._given:
                missing = f"{_name(field)} is missing: {field.metadata['help']}"
                raise UserError(
                    f"{missing} homespun {self._command.name} --help lists all settings"
                )
        return self._given

    def _take_positional(self, word: str) -> bool:
        """Take a word that has no flag before it; False if no setting takes it."""
        for setting in self._positional:
            if get_origin(self._hints[setting]) is tuple:
                self._given.setdefault(setting, []).append(word)
            elif setting not in self._given:
                self._given[setting] = word
            else:
                continue
            return True
        return False

    def _take(self, name: str, setting: str, values: list[str]) -> None:
        """Take the values of a flag; `values` are those that follow an equals sign."""
        hint, metadata = self._hints[setting], self._kind.__dataclass_fields__[setting].metadata
        self._last, self._last_values = name, values
        if hint is bool:
            if self._words and not values and self._words[0].lower() in SWITCHED:
                values.append(self._words.pop(0))
            if values and values[0].lower() not in SWITCHED:
                raise UserError(f"{name} takes no value: write {name} or {_negated(name)}")
            self._given[setting] = SWITCHED[values[0].lower()] if values else True
            return
        several = get_origin(hint) is tuple
        if not values:
            while self._words and (several or not values) and not self._is_flag(self._words[0]):
                values.append(self._words.pop(0))
        if several:
            parsed = [parse_value(self._kind, setting, value) for value in values]
            self._given[setting] = [*self._given.get(setting, ()), *parsed]
        elif values:
            self._given[setting] = parse_value(self._kind, setting, values[0])
        elif metadata["const"]:
            self._given[setting] = metadata["const"]
        else:
            raise UserError(self._explain_missing(name))

    def _is_flag(self, word: str) -> bool:
        """Whether a word that may be a value is a flag instead: one of the command, or one that was mistyped."""
        name = word.partition("=")[0].replace("_", "-")
        if name in self._flags or self._switched_off(name) or name in HELP:
            return True
        if not name.startswith("--") or not name[2:].replace("-", "").isalnum():
            return False
        known_elsewhere = name[2:].replace("-", "_") in OTHER_NAMES
        return known_elsewhere or bool(difflib.get_close_matches(name, self._flags, 1, 0.7))

    def _switched_off(self, name: str) -> str | None:
        """The setting that a flag such as --no-interactive switches off."""
        setting = self._flags.get(name.replace("--no-", "--", 1)) if name[:5] == "--no-" else None
        return setting if setting and self._hints[setting] is bool else None

    def _explain_missing(self, name: str) -> str:
        """The message for a flag that lacks its value."""
        if not self._words or str not in _kinds(self._hints[self._flags[name]]):
            return f"{name} needs a value"
        word = self._words[0]
        return (
            f"{name} needs a value, and {word} is a flag: a text like it is written {name}={word}"
        )

    def _explain_unknown(self, name: str) -> str:
        meant = meant_setting(self._kind, name, self._help_lists, flag)
        return f"unknown flag {name}: {meant}"

    @property
    def _help_lists(self) -> str:
        return f"homespun {self._command.name} --help lists all settings"

    def _explain_surplus(self, word: str) -> str:
        """The message for a word that belongs to no flag."""
        command, last = f"homespun {self._command.name}", self._last
        if self._positional:
            return f"'{word}' is one too many: {command} takes one {self._positional[0]}"
        following = [word]
        while self._words and not self._words[0].startswith("-"):
            following.append(self._words.pop(0))
        no_flag = f"'{word}' has no flag before it"
        if name := self._flag_for(word):
            return f"{no_flag}: {command} {name} {word}"
        if self._is_switch(last) and word.lower() in ("yes", "no", "on", "off", "0", "1"):
            return f"{last} takes no value: write {last} or {_negated(last)}"
        if self._takes_several(last):
            example = f"{last} {shlex.join(self._last_values + following)}"
            return f"{no_flag}: several values come without an equals sign: {example}"
        texts = [name for name in self._flags if self._takes_one_text(name)]
        name, words = texts[0] if texts else "", following
        if self._last_values and self._takes_one_text(last):
            name, words = last, self._last_values + following
        if len(words) > 1 and name in DATA and all(map(_exists, words)):
            return (
                f"{name} takes one file or one folder: put the files into a folder and name that, or name a pattern in "
                "quotes, such as 'texts/*.txt'"
            )
        if words is not following:
            example = f"{name} {_quoted(words)}"
            return f"{name} takes one value, and a value with spaces needs quotes: {example}"
        return f"{no_flag}: {f'{command} {name} {_quoted(words)}' if name else self._help_lists}"

    def _flag_for(self, file: str) -> str | None:
        """The flag for a file of a kind that only one setting takes."""
        name = FILE_FLAGS.get(Path(file).suffix)
        return name if name in self._flags else None

    def _takes_one_text(self, name: str) -> bool:
        return name in self._flags and str in _kinds(self._hints[self._flags[name]])

    def _takes_several(self, name: str) -> bool:
        return name in self._flags and get_origin(self._hints[self._flags[name]]) is tuple

    def _is_switch(self, name: str) -> bool:
        return name in self._flags and self._hints[self._flags[name]] is bool


def _own_first(kind: type[Checked]) -> list[Field]:
    """The fields of a class, those that it does not inherit first."""
    return sorted(dataclasses.fields(kind), key=lambda field: owner(kind, field.name) is not kind)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a setting accepts."""
    return (hint,) if get_origin(hint) in (None, tuple, Literal) else get_args(hint)


def _exists(file: str) -> bool:
    """Whether there is such a file or folder; a name that no file can have names none."""
    try:
        return Path(file).exists()
    except (OSError, ValueError):
        return False


def _negated(name: str) -> str:
    return name.replace("--", "--no-", 1)


def _quoted(words: Sequence[str]) -> str:
    text = " ".join(words)
    return f'"{text}"' if " " in text else text


def help_text(command: Command, width: int) -> str:
    """The help of a command in lines of at most `width` columns, except for examples and long flags.

    The settings that are used most come first, then those that the command does not inherit, then a section for each
    class that it inherits settings from.
    """
    kind, choices = command.config, command.choices()
    blocks = [f"usage: homespun {command.name} {_usage(kind)}", wrapped(command.description, width)]
    for title, description, fields in _sections(command):
        rows = [_row(kind, field, choices.get(field.name, ()), width) for field in fields]
        about = [wrapped(f"  {description}", width, "  ")] if description else []
        blocks.append("\n".join([f"{title}:", *about, *rows]))
    if command.examples:
        blocks.append("\n  ".join(("examples:", *command.examples)))
    return "\n\n".join(blocks)


def _usage(kind: type[Checked]) -> str:
    positional = [f for f in dataclasses.fields(kind) if f.metadata["positional"]]
    hints = get_type_hints(kind)
    words = [
        label if field.default is REQUIRED else f"[{label}]"
        for field in positional
        for label in [_label(field, hints[field.name], ())]
    ]
    return " ".join(words) or "[SETTINGS]"


def _sections(command: Command) -> Iterator[tuple[str, str, list[Field]]]:
    """Title, description and settings of each section of the help."""
    kind, fields = command.config, _own_first(command.config)
    by_name = {field.name: field for field in fields}
    if command.most_used:
        yield "settings that are used most", "", [by_name[name] for name in command.most_used]
    owners: dict[type, list[Field]] = {}
    for field in fields:
        if field.name not in command.most_used:
            owners.setdefault(owner(kind, field.name), []).append(field)
    more = "more settings" if command.most_used else "settings"
    for one, own in owners.items():
        title, _, description = " ".join((one.__doc__ or "").split()).partition(". ")
        if one is kind:
            yield more, "", own
        else:
            yield title.lower(), description, own


def _row(kind: type[Checked], field: Field, choices: Iterable[str], width: int) -> str:
    """The flag of a setting and its help text."""
    label = f"  {_label(field, get_type_hints(kind)[field.name], choices)}"
    column = min(HELP_COLUMN, width // 3)
    lines = wrapped(_help(field), width - column).split("\n")
    if len(label) + 2 <= column:
        lines[0] = label.ljust(column) + lines[0]
        return f"\n{' ' * column}".join(lines)
    return f"\n{' ' * column}".join([label, *lines])


def _name(field: Field) -> str:
    """How a setting is called on the command line."""
    return field.name.upper() if field.metadata["positional"] else flag(field.name)


def _label(field: Field, hint: Any, choices: Iterable[str]) -> str:
    """The flag of a setting with a placeholder for its value."""
    name = flag(field.name)
    if field.metadata["positional"]:
        several = " ..." if get_origin(hint) is tuple else ""
        return f"{_name(field)}{several}"
    if hint is bool:
        return f"{name}, {_negated(name)}"
    value = field.metadata["metavar"] or _placeholder(field.name, hint, choices)
    if get_origin(hint) is tuple:
        return f"{name} [{value} ...]"
    return f"{name} [{value}]" if field.metadata["const"] else f"{name} {value}"


def _help(field: Field) -> str:
    """The help text of a setting, with its defaults."""
    default, rules = field.default, field.metadata
    if isinstance(default, tuple):
        default = shlex.join(default) or None
    if default is False or default is REQUIRED:
        default = None
    if default is True:
        default = "on"
    with_preset = rules["with_preset_words"] or rules["with_preset"]
    notes = {
        "default": rules["if_omitted"] if default is None else default,
        "default with --model-size": with_preset,
        "without" if with_preset is not None else "default without --model-size": rules["recipe"],
    }
    stated = "; ".join(f"{name}: {value}" for name, value in notes.items() if value is not None)
    return f"{rules['help']} ({stated})" if stated else str(rules["help"])


def _placeholder(name: str, hint: Any, choices: Iterable[str]) -> str:
    """The choices of a value, N for a number, or the last word of the setting's name."""
    kinds = _kinds(hint)
    if get_origin(hint) is tuple:
        kinds = get_args(hint)[:1]
    literals = [kind for kind in kinds if get_origin(kind) is Literal]
    choices = [*choices] or [choice for literal in literals for choice in get_args(literal)]
    if choices:
        return "{" + ",".join(choices) + "}"
    if get_origin(hint) is tuple:
        return "TEXT"
    return "N" if int in kinds or float in kinds else name.rpartition("_")[2].upper()
