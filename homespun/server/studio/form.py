"""The settings of `homespun train` flow in; a form for them, and what is typed there as words of a command, come out.

Names, descriptions and bounds are those of `TrainConfig`. The command is a list of words for a process, never a line
for a shell.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from homespun.architectures.families import FAMILIES
from homespun.architectures.presets import PRESETS
from homespun.checkpoint.folder import CheckpointFolder
from homespun.config import BUILT_IN_REWARDS, TrainConfig
from homespun.config.checked import PathName, flag, owner
from homespun.config.training import MOST_USED
from homespun.errors import UserError
from homespun.records import tracking
from homespun.server.answers import FieldError
from homespun.server.studio.exchange import JSON
from homespun.server.studio.folders import place
from homespun.server.studio.settings import described, values_of

NOT_IN_FORM = {"resume", "dry_run", "config"}
"""Buttons do what the first two do; a file of settings is for the command line."""
NAMES = tuple(field.name for field in fields(TrainConfig) if field.name not in NOT_IN_FORM)
ON_RESUME = tuple(
    name
    for name in NAMES
    if TrainConfig.__dataclass_fields__[name].metadata["on_resume"] != "fixed"
    and name != "checkpoint_dir"
)
"""The settings that a resumed run may change."""
REWARDS = BUILT_IN_REWARDS
"""Those that the page allows: any other one is code, which the page does not run."""
LENGTHS = ("max_steps", "max_epochs", "time_budget")
"""Those that the page offers for it."""

_HINTS = get_type_hints(TrainConfig, include_extras=True)


def _is_several(name: str) -> bool:
    return get_origin(_HINTS[name]) is tuple


def _is_path(name: str) -> bool:
    return PathName in (_HINTS[name], *get_args(_HINTS[name]))


def form() -> list[JSON]:
    """The groups of settings, each with `title`, `about` and its `fields`; see `settings.described`."""
    groups: dict[str, JSON] = {}
    for name in sorted(NAMES, key=_order):
        title, about = "The usual settings", ""
        if name not in MOST_USED:
            kind = owner(TrainConfig, name)
            title, _, about = " ".join((kind.__doc__ or "").split()).partition(". ")
            if kind is TrainConfig:
                title, about = "More", ""
        group = groups.setdefault(title, {"title": title, "about": about, "fields": []})
        group["fields"].append(_field(name))
    return list(groups.values())


def _order(name: str) -> tuple[int, int]:
    place = MOST_USED.index(name) if name in MOST_USED else len(MOST_USED)
    return place, NAMES.index(name)


def _field(name: str) -> JSON:
    field = described(TrainConfig, [name])[0]
    setting = TrainConfig.__dataclass_fields__[name]
    default: Any = setting.default
    if _is_several(name):
        field["value"] = "\n".join(default)
    known: dict[str, Iterable[str]]
    known = {
        "model_size": PRESETS,
        "architecture": FAMILIES,
        "track": ("", *tracking.available()),
        "reward": REWARDS,
    }
    choices = list(known[name] if name in known else field["choices"])
    if choices:
        field["kind"] = "choice"
        field["choices"] = ["", *choices] if default is None else choices
    field["omitted"] = _omitted(setting.metadata) if default in (None, ()) else None
    field["value"] = "" if field["value"] is None else field["value"]
    return field


def _omitted(rules: Mapping[str, Any]) -> str | None:
    """The effect of leaving a setting empty."""
    if rules["if_omitted"]:
        return str(rules["if_omitted"])
    preset, recipe = rules["with_preset_words"] or rules["with_preset"], rules["recipe"]
    parts = [f"with a model size: {preset}"] if preset is not None else []
    parts += [f"{'otherwise' if parts else 'chosen'}: {recipe}"] if recipe else []
    return "; ".join(parts) or None


@dataclass(frozen=True)
class Typed:
    """The values of the form, checked."""

    values: Mapping[str, Any]
    """The settings that differ from their defaults, for `TrainConfig`."""
    errors: Mapping[str, str]
    """The reason of each refusal, by the setting; that of settings that contradict each other under an empty name."""

    def refuse(self) -> None:
        """Raises:
        FieldError: a setting was refused.
        """
        for name, message in self.errors.items():
            raise FieldError(name, message)


def checked_form(root: Path, given: Mapping[str, Any], names: Sequence[str] = NAMES) -> Typed:
    """Check what was typed. All settings are checked, also after a refusal.

    Args:
        root: the folder of the studio. Paths lie below it.
        given: texts and switches by the name of the setting; an empty text stands for the default.
        names: the settings that may be given.
    """
    values: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name, value in given.items():
        try:
            if name in names and _is_several(name) and isinstance(value, str):
                value = [line for line in value.split("\n") if line.strip()]
            found = values_of(TrainConfig, {name: value}, names)
            if name in found and _is_path(name):
                place(root, found[name])
            check_reward(found.get("reward"))
            values |= found
        except UserError as error:
            errors[name[:100]] = str(error)
    if not errors:
        try:
            TrainConfig(**values)
        except UserError as error:
            errors[field_at_fault(str(error))] = str(error)
    plain = {field.name: field.default for field in fields(TrainConfig)}
    return Typed({name: v for name, v in values.items() if v != plain[name]}, errors)


def check_reward(name: object) -> None:
    """
    Raises:
        FieldError: the reward is code.
    """
    if name is not None and name not in REWARDS:
        raise FieldError(
            "reward",
            f"the reward {name} is code, which the studio does not run: use it on the command line",
        )


def field_at_fault(message: str) -> str:
    """The setting that a message names first; an empty text if it names none of the form."""
    for word in re.findall(r"--([a-z0-9][a-z0-9-]*)", message):
        if (name := word.replace("-", "_")) in NAMES:
            return str(name)
    return ""


def words_of(values: Mapping[str, Any]) -> list[str]:
    """Settings as words of a command line. A value is in one word with its flag, so that none is taken for a flag."""
    words = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(flag(name) if value else flag(name).replace("--", "--no-", 1))
        elif isinstance(value, list | tuple):
            words += [f"{flag(name)}={one}" for one in value] or [flag(name)]
        elif value is not None:
            words.append(
                f"{flag(name)}={value!r}" if isinstance(value, float) else f"{flag(name)}={value}"
            )
    return words


def command_line(words: Sequence[str]) -> str:
    """The same command as a reader types it."""
    return shlex.join(["homespun", *words])


def run_of(root: Path, values: Mapping[str, Any]) -> str:
    """The name of the run that settings describe.

    Raises:
        FieldError: its folder is not below that of the studio, but that folder itself.
    """
    named = str(values.get("checkpoint_dir", TrainConfig.checkpoint_dir))
    path = place(root, named)
    if path.resolve() == root:
        raise FieldError(
            "checkpoint_dir", f"{named} is the folder of the studio: name a folder below it"
        )
    return path.resolve().relative_to(root).as_posix()


def note_on(root: Path, values: Mapping[str, Any]) -> str | None:
    """A line about the change of a new run's folder; None if nothing changes.

    Raises:
        FieldError: another run uses it.
    """
    run = run_of(root, values)
    folder = CheckpointFolder(root / run)
    if holder := folder.holder():
        by = f"process {holder.pid}" if holder.pid else "another process"
        raise FieldError(
            "checkpoint_dir", f"{run} is in use by {by}: wait for it or choose another folder"
        )
    if folder.path.exists() and folder.has_run():
        return f"{run} holds a run already. It moves to a folder of its own beside it, {run}.1 or a later number."
    return None
