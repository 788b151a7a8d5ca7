"""A checkpoint and the settings given now flow in; the settings, text, tokenizer and plan of the resumed run come out.

`config` states for each setting whether a resumed run may change it.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from homespun.architectures.families import model_config
from homespun.checkpoint.archive import Archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.names import BASE, STEP_FILE
from homespun.checkpoint.opening import open_weights
from homespun.checkpoint.stored_values import restored
from homespun.config import BUILT_IN_REWARDS, TrainConfig
from homespun.config.checked import flag, settings_of
from homespun.config.toml_file import read_toml
from homespun.data.corpus import Corpus, survey
from homespun.engine.base import Engine
from homespun.errors import UserError
from homespun.model_formats.checkpoint import from_checkpoint
from homespun.named_array import NamedArray
from homespun.planning.recipe import LIMITS, SHAPE
from homespun.planning.resolved import Plan, ResolvedConfig, given_settings, lora_of
from homespun.records.reading import length_up_to
from homespun.terminal import Say, counted
from homespun.tokenizer import Tokenizer
from homespun.training.checkpointing.position import Position
from homespun.training.diagnostics.step_guard import StepGuard

AnyTrainConfig = TypeVar("AnyTrainConfig", bound=TrainConfig)


@dataclass(frozen=True)
class ResumePoint:
    """The point from which a resumed run continues: the newest checkpoint of the folder, or one that is named."""

    weights: Archive
    state: Archive | None
    """None for weights alone, such as the best ones. Then the moments of the optimizer begin anew."""
    is_named: bool = False

    @property
    def path(self) -> Path:
        """The file of the weights."""
        return self.weights.path

    @property
    def header(self) -> dict[str, Any]:
        """Everything that is stored about the run."""
        return self.weights.header

    def tensors(self) -> Iterator[NamedArray]:
        """Stream the weights, and then the moments, if they are there."""
        yield from self.weights.tensors()
        if self.state:
            yield from self.state.tensors()

    def position(self) -> Position:
        """The position of the run at this point.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: it is missing or has another form.
        """
        if self.state:
            return Position.restored(self.state.header["position"])
        if "position" in self.header:
            return Position.restored(self.header["position"])
        step, config = self.weights.step, _config_from(ResolvedConfig, self.header["resolved"])
        return Position(
            step=step,
            next_sample=step * config.sequences_per_step,
            tokens=step * config.tokens_per_step,
            evaluated_at=step,
            sampled_at=step,
            guard=StepGuard(best_val_loss=self.header.get("val_loss")),
        )

    def metrics_length(self, record: Path) -> int:
        """Length of the record up to this point, in bytes; `record` is the file.

        Raises:
            UserError: the file cannot be read.
        """
        if self.state:
            length: int = self.state.header["metrics_length"]
            return length
        # The best weights are saved before the sample texts of their step, which the run then writes again.
        return length_up_to(record, self.weights.step, with_samples="position" not in self.header)

    @property
    def metrics_sha256(self) -> str | None:
        """Hash of the record up to this point; None where it is not stored."""
        return self.state.header.get("metrics_sha256") if self.state else None

    def is_in(self, folder: Path) -> bool:
        """Whether a run in this folder continues its own earlier steps."""
        return self.path.parent.resolve() == folder.resolve()


def given_config(given: Mapping[str, Any], config: TrainConfig | None = None) -> TrainConfig:
    """The settings of a run, before it is known whether they override those of a resumed run.

    Without --checkpoint-dir, a run that continues from a file stays in the folder of the file.

    Args:
        given: settings by name, such as the flags of the command line. They override the TOML file that they name.
        config: all other settings, from Python.

    Raises:
        UserError: a setting that does not exist or has a bad value.
    """
    wanted = settings_of(TrainConfig, config, with_file(given))
    is_default = wanted.checkpoint_dir == TrainConfig.checkpoint_dir
    if (file := wanted.resume_file()) and is_default and "checkpoint_dir" not in given:
        wanted = dataclasses.replace(wanted, checkpoint_dir=str(file.parent))
    return wanted


def with_file(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given, and those in the TOML file that they name.

    Raises:
        UserError: the file cannot be read, or has a bad setting.
    """
    file = given.get("config")
    return (read_toml(Path(file), TrainConfig) if file else {}) | dict(given)


def with_stored(wanted: TrainConfig, given: Mapping[str, Any], point: ResumePoint) -> TrainConfig:
    """The settings of a resumed run: those given now, else its own.

    The folder and the engine of the resumed run may differ from the stored ones, as it may have moved to another
    machine.

    Raises:
        UserError: a setting has a bad value, the checkpoint is of another version, or it names a reward that is code.
    """
    at_first = _config_from(TrainConfig, point.header["requested"])
    if "reward" not in with_file(given):
        check_stored_reward(at_first.reward)
    place = {name: getattr(wanted, name) for name in ("checkpoint_dir", "resume", "engine")}
    return dataclasses.replace(at_first, **{**with_file(given), **place})


def check_stored_reward(stored: str | None) -> None:
    """Make sure that no code runs because a file names it.

    Raises:
        UserError: the stored reward is code.
    """
    if stored is not None and stored not in BUILT_IN_REWARDS:
        raise UserError(
            f"this run names the reward {stored}, which is code, and no file runs code by itself: if it is yours, name "
            f"it again, with --reward {stored}"
        )


def find_point(config: TrainConfig, say: Say) -> ResumePoint | None:
    """The point that `config.resume` asks for; None for a new run.

    Raises:
        UserError: `--resume` where there is no checkpoint, or none that this version can read.
    """
    if config.resume == "never":
        return None
    folder = CheckpointFolder(Path(config.checkpoint_dir))
    if isinstance(config.resume, int):
        point = _at_step(folder, config.resume)
    elif file := config.resume_file():
        point = _in_file(file)
    else:
        found = folder.latest(report=say)
        if found is None and config.resume == "auto":
            return None
        if found is None:
            raise UserError(
                f"{config.checkpoint_dir} holds no checkpoint to resume: leave --resume out to start a run, "
                "or use --resume auto"
            )
        point = ResumePoint(found.weights, found.state)
    _check_headers(point)
    return point


def _at_step(folder: CheckpointFolder, step: int) -> ResumePoint:
    """The checkpoint of a step.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if step not in (steps := folder.steps()):
        listed = ", ".join(map(str, reversed(steps))) or "none"
        raise UserError(
            f"{folder.path} holds no checkpoint of step {step} (there are: {listed}): "
            "name one of these, or a file of weights such as best.npz"
        )
    found = folder.open(step)
    found.verify()
    return ResumePoint(found.weights, found.state, is_named=True)


def _in_file(file: Path) -> ResumePoint:
    """A file of weights, with the state beside it if that is there.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    match = STEP_FILE.fullmatch(file.name)
    if match and CheckpointFolder(file.parent).file(int(match[1]), ".state").exists():
        return _at_step(CheckpointFolder(file.parent), int(match[1]))
    if not file.exists():
        raise UserError(f"--resume {file}: there is no such file")
    if file.name == BASE:
        raise UserError(f"{file} is the model that a run adapts: go on from it with --init-from")
    weights = open_weights(file)
    weights.verify()
    return ResumePoint(weights, None, is_named=True)


def place_of(path: Path, folder: Path, moved_to: Path | None) -> Path:
    """The place of a path after the content of a folder has been moved."""
    inside = path.resolve()
    if moved_to is None or not inside.is_relative_to(folder.resolve()):
        return path
    return moved_to / inside.relative_to(folder.resolve())


def _check_headers(point: ResumePoint) -> None:
    """Make sure that the checkpoint has all that a resumed run needs.

    Raises:
        UserError: something is missing or has another type.
    """
    stored = point.header
    model = from_checkpoint(point.weights)
    try:
        resolved = _config_from(ResolvedConfig, stored["resolved"])
        _config_from(TrainConfig, stored["requested"])
        for name in ("data_file", "data_sha256"):
            restored(str, stored[name], name)
        restored(dict[str, str], stored["facts"], "facts")
        if point.state:
            restored(int, point.state.header["metrics_length"], "metrics_length")
            restored(str, point.state.header.get("metrics_sha256", ""), "metrics_sha256")
        position = point.position()
    except (LookupError, ValueError) as error:
        raise _other_version(repr(error)) from None
    # Only a model that came from elsewhere may have a longer context than the samples of its training.
    context, vocab_size = model.config.seq_len, model.config.vocab_size
    fits = resolved.seq_len == context or (
        resolved.init_from is not None and resolved.seq_len < context
    )
    if position.step != point.weights.step or not fits or resolved.vocab_size != vocab_size:
        raise _other_version("its parts do not fit each other")
    if lora_of(resolved) != (model.adapters.lora if model.adapters else None):
        raise UserError(
            f"{point.path} holds a whole model with its adapters merged in: go on from it with --init-from"
        )


def resumed_corpus(requested: TrainConfig, stored: dict[str, Any], *, keeps: bool = True) -> Corpus:
    """The text of the run, which may have moved. The record of its survey is written if `keeps`.

    Raises:
        UserError: it is another text.
    """
    named = requested.preferences or requested.data_file
    corpus = survey(
        Path(named or stored["data_file"]),
        None,
        Path(requested.tokens_dir),
        keeps=keeps,
        as_pairs=requested.preferences is not None,
    )
    if corpus.sha256 != stored["data_sha256"]:
        raise UserError(
            f"{corpus.path} is not the text of this run{', or has other weights' if corpus.sources else ''}: name the "
            "right one with "
            f"--{'preferences' if corpus.is_pairs else 'data-file'}, "
            "or start a new run without --resume"
        )
    return corpus


def resumed_tokenizer(requested: TrainConfig, stored: dict[str, Any]) -> Tokenizer:
    """The tokenizer in the checkpoint.

    Raises:
        UserError: another one is given now.
    """
    tokenizer = Tokenizer.from_json(stored["tokenizer"])
    if requested.tokenizer_path != stored["requested"]["tokenizer_path"]:
        check_tokenizer_path(requested.tokenizer_path, tokenizer, "this run")
    return tokenizer


def check_tokenizer_path(path: str | None, tokenizer: Tokenizer, owner: str) -> None:
    """Make sure that the tokenizer that is named, if any, is the one that a run or a model has already.

    Raises:
        UserError: it is another one.
    """
    if path is not None and Tokenizer.load(Path(path)).sha256 != tokenizer.sha256:
        raise UserError(
            f"{path} is not the tokenizer of {owner}: leave --tokenizer-path out, the right one is known"
        )


def resumed_plan(requested: TrainConfig, stored: dict[str, Any], say: Say) -> Plan:
    """The stored plan with the changes that a resumed run may make.

    Raises:
        UserError: a change that would make it another run, or a reward that is code and that nobody has named now.
    """
    resolved = _config_from(ResolvedConfig, stored["resolved"])
    changes = _changes(requested, resolved, stored)
    _check_changes(changes, say)
    changed = {change.name: change.now for change in changes} | {"engine": requested.engine}
    if any(name in changed for name in LIMITS):  # limits that the user has not set do not stay
        given = given_settings(requested)
        changed |= {name: given.get(name) for name in LIMITS}
    config = dataclasses.replace(resolved, **changed)
    if config.reward != requested.reward:
        check_stored_reward(config.reward)
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
    shape = model_config(stored["model"])
    before |= {name: getattr(shape, name) for name in SHAPE}
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


def restore(engine: Engine, point: ResumePoint, say: Say) -> None:
    """Load weights and moments into the engine, and say if its results may differ now.

    Raises:
        UserError: they belong to another model.
    """
    try:
        engine.load(point.tensors())
    except ValueError as error:
        raise UserError(f"{point.path} does not fit this model: {error}") from error
    differing = [
        f"{name} was {was}, is {engine.facts[name]}"
        for name, was in point.header["facts"].items()
        if engine.facts.get(name, was) != was
    ]
    if point.state is None:
        say(
            f"{point.path} holds weights alone: the means of the optimizer begin anew, so the run differs from "
            "one that continues from a checkpoint."
        )
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
