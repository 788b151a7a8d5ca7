"""Going on with a run: its checkpoint and what is asked now in, the run as it was out, or why it cannot be that.

What of its settings may change is said in `config`, field by field.
"""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from homespun.architectures.families import model_config
from homespun.checkpoint.folder import Checkpoint, CheckpointFolder
from homespun.config import TrainConfig
from homespun.config.checked import flag
from homespun.data.corpus import Corpus, survey
from homespun.engine.base import Engine
from homespun.errors import UserError
from homespun.planning.recipe import LIMITS, SHAPE, Plan, ResolvedConfig, given_settings
from homespun.terminal import Say
from homespun.tokenizer import Tokenizer
from homespun.training.position import Position

AnyTrainConfig = TypeVar("AnyTrainConfig", bound=TrainConfig)


def find_checkpoint(config: TrainConfig, say: Say) -> Checkpoint | None:
    """The checkpoint that `config.resume` asks for.

    Raises:
        UserError: `--resume` where there is nothing to resume, or nothing that this version understands.
    """
    if config.resume == "never":
        return None
    found = CheckpointFolder(Path(config.checkpoint_dir)).latest(report=say)
    if found is None and config.resume == "latest":
        raise UserError(
            f"{config.checkpoint_dir} holds no checkpoint to go on from: leave --resume out to start a run, "
            "or use --resume auto"
        )
    if found:
        _check_headers(found)
    return found


def _check_headers(checkpoint: Checkpoint) -> None:
    """Make sure that all is there that going on needs, before anything is done.

    Raises:
        UserError: something is missing, or of another kind.
    """
    stored, state = checkpoint.weights.header, checkpoint.state.header
    try:
        _config_from(ResolvedConfig, stored["resolved"])
        _config_from(TrainConfig, stored["requested"])
        model_config(stored["model"])
        texts = [stored[name] for name in ("tokenizer", "data_file", "data_sha256")]
        texts += stored["facts"].values()
        understood = all(isinstance(text, str) for text in texts)
        length = state["metrics_length"]
        understood &= type(length) is int and length >= 0
        understood &= Position.restored(state["position"]).step == checkpoint.step
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _other_version(repr(error)) from None
    if not understood:
        raise _other_version("a field of another kind")


def requested_again(
    checkpoint: Checkpoint, wanted: TrainConfig, now: dict[str, Any]
) -> TrainConfig:
    """What the user of a run once asked for, gaps and all, with what is asked `now`; folder and engine are those of
    `wanted`, as the run may have moved to another machine."""
    at_first = _config_from(TrainConfig, checkpoint.weights.header["requested"])
    place = {name: getattr(wanted, name) for name in ("checkpoint_dir", "resume", "engine")}
    return dataclasses.replace(at_first, **now | place)


def resumed_corpus(requested: TrainConfig, stored: dict[str, Any]) -> Corpus:
    """The text of the run, wherever it lies now.

    Raises:
        UserError: it is another text.
    """
    corpus = survey(Path(requested.data_file or stored["data_file"]))
    if corpus.sha256 != stored["data_sha256"]:
        raise UserError(
            f"{corpus.path} is not the text that this run began with: name the right one with --data-file, "
            "or start a new run without --resume"
        )
    return corpus


def resumed_tokenizer(requested: TrainConfig, stored: dict[str, Any]) -> Tokenizer:
    """The one in the checkpoint.

    Raises:
        UserError: another one is named now.
    """
    tokenizer = Tokenizer.from_json(stored["tokenizer"])
    if (
        requested.tokenizer_path is not None
        and requested.tokenizer_path != stored["requested"]["tokenizer_path"]
        and Tokenizer.load(Path(requested.tokenizer_path)).sha256 != tokenizer.sha256
    ):
        raise UserError(
            f"{requested.tokenizer_path} is not the tokenizer that this run began with: leave --tokenizer-path out, "
            "the checkpoint holds the right one"
        )
    return tokenizer


def resumed_plan(requested: TrainConfig, stored: dict[str, Any], say: Say) -> Plan:
    """The stored plan with the changes that a resumed run may have.

    Raises:
        UserError: what is asked now would make it another run.
    """
    resolved = _config_from(ResolvedConfig, stored["resolved"])
    at_first = dataclasses.asdict(_config_from(TrainConfig, stored["requested"]))
    before = at_first | given_settings(resolved)
    before |= {name: stored["model"][name] for name in SHAPE}
    wanted = given_settings(requested)
    if wanted["compile"] == "auto":
        del wanted["compile"]  # what was decided is not decided anew
    changes = {
        field.name: field.metadata.get("on_resume")
        for field in dataclasses.fields(TrainConfig)
        if field.name in wanted
        and wanted[field.name] not in (before[field.name], at_first[field.name])
    }
    refused = [name for name, on_resume in changes.items() if on_resume == "fixed"]
    if refused:
        differing = ", ".join(
            f"{flag(name)} {wanted[name]} (was {_given(before[name])})" for name in refused
        )
        raise UserError(
            f"a resumed run cannot change {differing}: leave it out, or start a new run without --resume"
        )
    for name, on_resume in changes.items():
        if on_resume == "announced":
            was = _given(before[name])
            say(f"changed for the rest of the run: {name} is {wanted[name]}, was {was}")
    changed = {name: wanted[name] for name in changes} | {"engine": requested.engine}
    if any(name in changes for name in LIMITS):  # one that nobody asked for gives way
        changed |= {name: wanted.get(name) for name in LIMITS}
    config = dataclasses.replace(resolved, **changed)
    if config.sequences_per_step != resolved.sequences_per_step:
        raise UserError(
            f"a resumed run keeps its {resolved.sequences_per_step} sequences per step: "
            "--batch-size times --grad-accumulation-steps has to be that"
        )
    return Plan(model_config(stored["model"]), config)


def restore(engine: Engine, checkpoint: Checkpoint, say: Say) -> None:
    """Give the engine its weights and moments back, and say what will differ.

    Raises:
        UserError: they are those of another model.
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


def _given(value: object) -> object:
    return "not given" if value is None else value


def _config_from(kind: type[AnyTrainConfig], values: dict[str, Any]) -> AnyTrainConfig:
    """The inverse of `asdict` after a passage through JSON."""
    try:
        return kind(**values)
    except TypeError as error:
        raise _other_version(str(error)) from None


def _other_version(reason: str) -> UserError:
    return UserError(
        f"the checkpoint is of another version of homespun ({reason}): go on with that one, or start a new run"
    )
