"""A checkpoint and the settings given now flow in; the settings, text, tokenizer and plan of the resumed run come out.

`config` states for each setting whether a resumed run may change it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from homespun.architectures.families import model_config
from homespun.checkpoint.folder import Checkpoint, CheckpointFolder
from homespun.checkpoint.stored_values import restored
from homespun.config import TrainConfig
from homespun.config.checked import flag, settings_of
from homespun.config.toml_file import read_toml
from homespun.data.corpus import Corpus, survey
from homespun.engine.base import Engine
from homespun.errors import UserError
from homespun.model_formats.checkpoint import from_checkpoint
from homespun.planning.recipe import LIMITS, SHAPE, Plan, ResolvedConfig, given_settings
from homespun.terminal import Say, counted
from homespun.tokenizer import Tokenizer
from homespun.training.position import Position

AnyTrainConfig = TypeVar("AnyTrainConfig", bound=TrainConfig)


def requested(
    given: Mapping[str, Any], say: Say, config: TrainConfig | None = None
) -> tuple[TrainConfig, Checkpoint | None]:
    """The settings of a run, and the checkpoint that it continues from, if it is resumed.

    A setting is taken from `given`, else from the TOML file that `given` names, else from the resumed run, else from
    the defaults. The folder and the engine of the resumed run may differ from the stored ones, as it may have
    moved to another machine.

    Args:
        given: settings by name, such as the flags of the command line.
        config: all settings, from Python. Then only `given` overrides them, and the settings of the resumed run do not.

    Raises:
        UserError: a setting that does not exist or has a bad value, or a checkpoint that cannot be resumed.
    """
    if file := given.get("config"):
        named = TrainConfig(config=file).config
        assert named
        given = read_toml(Path(named), TrainConfig) | dict(given)
    wanted = settings_of(TrainConfig, config, given)
    checkpoint = find_checkpoint(wanted, say)
    if checkpoint and config is None:
        at_first = _config_from(TrainConfig, checkpoint.weights.header["requested"])
        place = {name: getattr(wanted, name) for name in ("checkpoint_dir", "resume", "engine")}
        wanted = dataclasses.replace(at_first, **{**given, **place})
    return wanted, checkpoint


def find_checkpoint(config: TrainConfig, say: Say) -> Checkpoint | None:
    """The checkpoint that `config.resume` asks for.

    Raises:
        UserError: `--resume` where there is no checkpoint, or none that this version can read.
    """
    if config.resume == "never":
        return None
    found = CheckpointFolder(Path(config.checkpoint_dir)).latest(report=say)
    if found is None and config.resume == "latest":
        raise UserError(
            f"{config.checkpoint_dir} holds no checkpoint to resume: leave --resume out to start a run, "
            "or use --resume auto"
        )
    if found:
        _check_headers(found)
    return found


def _check_headers(checkpoint: Checkpoint) -> None:
    """Make sure that the checkpoint has all that a resumed run needs.

    Raises:
        UserError: something is missing or has another type.
    """
    stored, state = checkpoint.weights.header, checkpoint.state.header
    model = from_checkpoint(checkpoint.weights).config
    try:
        resolved = _config_from(ResolvedConfig, stored["resolved"])
        _config_from(TrainConfig, stored["requested"])
        for name in ("data_file", "data_sha256"):
            restored(str, stored[name], name)
        restored(dict[str, str], stored["facts"], "facts")
        restored(int, state["metrics_length"], "metrics_length")
        position = Position.restored(state["position"])
    except (LookupError, ValueError) as error:
        raise _other_version(repr(error)) from None
    fits = (resolved.vocab_size, resolved.seq_len) == (model.vocab_size, model.seq_len)
    if position.step != checkpoint.step or not fits:
        raise _other_version("its parts do not fit each other")


def resumed_corpus(requested: TrainConfig, stored: dict[str, Any]) -> Corpus:
    """The text of the run, which may have moved.

    Raises:
        UserError: it is another text.
    """
    data = Path(requested.data_file or stored["data_file"])
    corpus = survey(data, None, Path(requested.tokens_dir))
    if corpus.sha256 != stored["data_sha256"]:
        raise UserError(
            f"{corpus.path} is not the text of this run: name the right one with --data-file, "
            "or start a new run without --resume"
        )
    return corpus


def resumed_tokenizer(requested: TrainConfig, stored: dict[str, Any]) -> Tokenizer:
    """The tokenizer in the checkpoint.

    Raises:
        UserError: another one is given now.
    """
    tokenizer = Tokenizer.from_json(stored["tokenizer"])
    if (
        requested.tokenizer_path is not None
        and requested.tokenizer_path != stored["requested"]["tokenizer_path"]
        and Tokenizer.load(Path(requested.tokenizer_path)).sha256 != tokenizer.sha256
    ):
        raise UserError(
            f"{requested.tokenizer_path} is not the tokenizer of this run: leave --tokenizer-path out, "
            "the checkpoint holds the right one"
        )
    return tokenizer


def resumed_plan(requested: TrainConfig, stored: dict[str, Any], say: Say) -> Plan:
    """The stored plan with the changes that a resumed run may make.

    Raises:
        UserError: a change that would make it another run.
    """
    resolved = _config_from(ResolvedConfig, stored["resolved"])
    changes = _changes(requested, resolved, stored)
    _check_changes(changes, say)
    changed = {change.name: change.now for change in changes} | {"engine": requested.engine}
    if any(name in changed for name in LIMITS):  # limits that the user has not set do not stay
        given = given_settings(requested)
        changed |= {name: given.get(name) for name in LIMITS}
    config = dataclasses.replace(resolved, **changed)
    if config.sequences_per_step != resolved.sequences_per_step:
        raise UserError(
            f"a resumed run keeps its {counted(resolved.sequences_per_step, 'sequence')} per step: "
            "--batch-size times --grad-accumulation-steps has to be that"
        )
    return Plan(model_config(stored["model"]), config)


class _Change(NamedTuple):
    """A setting that has another value now."""

    name: str
    before: Any
    now: Any
    on_resume: str


def _changes(
    requested: TrainConfig, resolved: ResolvedConfig, stored: dict[str, Any]
) -> list[_Change]:
    """The settings whose present value differs both from the value given at first and from the value chosen for it."""
    at_first = dataclasses.asdict(_config_from(TrainConfig, stored["requested"]))
    before = at_first | given_settings(resolved)
    before |= {name: stored["model"][name] for name in SHAPE}
    now = given_settings(requested)
    if now["compile"] == "auto":
        del now["compile"]  # the run keeps the choice that was made for it
    return [
        _Change(
            field.name, before[field.name], now[field.name], field.metadata.get("on_resume", "")
        )
        for field in dataclasses.fields(TrainConfig)
        if field.name in now and now[field.name] not in (before[field.name], at_first[field.name])
    ]


def _check_changes(changes: list[_Change], say: Say) -> None:
    """Announce the changes that affect the result.

    Raises:
        UserError: a setting that is fixed.
    """
    refused = [change for change in changes if change.on_resume == "fixed"]
    if refused:
        differing = ", ".join(
            f"{flag(name)} {now} (was {_shown(before)})" for name, before, now, _ in refused
        )
        raise UserError(
            f"a resumed run cannot change {differing}: leave it out, or start a new run without --resume"
        )
    for name, before, now, on_resume in changes:
        if on_resume == "announced":
            say(f"changed for the rest of the run: {name} is {now}, was {_shown(before)}")


def restore(engine: Engine, checkpoint: Checkpoint, say: Say) -> None:
    """Load weights and moments into the engine, and say if its results may differ now.

    Raises:
        UserError: they belong to another model.
    """
    try:
        engine.load(checkpoint.tensors())
    except ValueError as error:
        raise UserError(f"{checkpoint.path} does not fit this model: {error}") from error
    differing = [
        f"{name} was {was}, is {engine.facts[name]}"
        for name, was in checkpoint.weights.header["facts"].items()
        if engine.facts.get(name, was) != was
    ]
    if differing:
        say(
            f"From here on the last digits may differ from an uninterrupted run: {'; '.join(differing)}."
        )


def _shown(value: object) -> object:
    return "not given" if value is None else value


def _config_from(kind: type[AnyTrainConfig], values: dict[str, Any]) -> AnyTrainConfig:
    """The inverse of `asdict`, after conversion to JSON and back."""
    try:
        return kind(**values)
    except TypeError as error:
        raise _other_version(str(error)) from None


def _other_version(reason: str) -> UserError:
    return UserError(
        f"the checkpoint was written by another version of homespun ({reason}): "
        "resume it with that one, or start a new run"
    )
