"""From settings to a run that is ready to start: text, tokenizer, tokens, plan, engine, and where it goes on.

All that can be wrong with a user's settings is found here, before the first step.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun import workspace
from homespun.checkpoint.folder import Checkpoint, CheckpointFolder
from homespun.config import ModelConfig, TokenizerConfig, TrainConfig
from homespun.data.documents import Corpus, survey
from homespun.data.prepare import Prepared, prepare
from homespun.engine import select
from homespun.engine.base import LESS_MEMORY, Engine, OptimizerSettings
from homespun.errors import UserError
from homespun.model.spec import count_parameters, training_bytes
from homespun.tokenizer import Tokenizer, train_command
from homespun.training.data_loader import TextDataset
from homespun.training.recipe import LIMITS, SHAPE, Plan, plan, step_limits
from homespun.training.schedule import warm_up

Say = Callable[[str], None]

AUTO_VOCAB_SIZE = 4096
"""Of a tokenizer that is trained by the way: small, as the models of short runs are."""


@dataclass(frozen=True)
class Run:
    """All that the training loop works with."""

    config: TrainConfig
    """With nothing left open."""
    model: ModelConfig
    engine: Engine
    tokenizer: Tokenizer
    tokens: Prepared
    header: dict[str, Any]
    """What every file of weights carries: enough to generate from it, and to go on."""
    checkpoint: Checkpoint | None
    """Where to go on."""
    limits: dict[str, int]
    """Those of the limits that are numbers of steps, the nearest first."""

    @property
    def total_steps(self) -> int | None:
        """Where the nearest of them is; None where only time ends the run."""
        return min(self.limits.values(), default=None)

    @property
    def warm_up(self) -> tuple[int, float]:
        """See `schedule.warm_up`."""
        by_clock = self.config.time_budget is not None
        return warm_up(self.config.warmup_steps, None if by_clock else self.total_steps)

    def description(self) -> dict[str, str]:
        """What the run is, line by line: all that was decided, and the tokens per step once and for all."""
        c, model, facts = self.config, self.model, self.engine.facts
        rates = f"{c.learning_rate:g}"
        if c.optimizer == "muon":
            rates = f"{c.muon_learning_rate:g} for Muon, {rates} for AdamW"
        steps, share = self.warm_up
        lengths = [f"{n:,} steps (--{name.replace('_', '-')})" for name, n in self.limits.items()]
        if c.time_budget:
            lengths.append(f"{c.time_budget} (--time-budget)")
        return {
            "model": f"{model.architecture}, {model.n_layers} layers x {model.d_model}, "
            f"{model.n_heads} heads, {count_parameters(model) / 1e6:.1f} M parameters",
            "text": f"{len(self.tokens.training):,} training and {len(self.tokens.validation):,} "
            f"validation tokens, vocabulary {model.vocab_size:,}",
            "step": f"{_sequences_per_step(c) * c.seq_len:,} tokens: {c.batch_size} sequences of {c.seq_len} tokens"
            + (f", {c.grad_accumulation_steps} times" if c.grad_accumulation_steps != 1 else ""),
            "length": " or ".join(lengths)
            + (", whichever comes first" if len(lengths) > 1 else ""),
            "optimizer": f"{c.optimizer}, peak rate {rates}",
            "schedule": f"{c.schedule}, warm-up {f'{steps:,} steps' if steps else f'{share:.0%} of the run'}",
            "engine": f"{facts['engine']}, {facts['device']}, {facts['precision']}, {facts['threads']} threads"
            + (", compiled" if facts["compiled"] == "yes" else ""),
            "folder": c.checkpoint_dir,
        }

    def bytes_on_disk(self) -> int:
        """What its checkpoints take at most: weights and two moments of each that is kept and of one being written,
        and the best weights twice."""
        return 4 * count_parameters(self.model) * (3 * (self.config.keep + 1) + 2)


def find_checkpoint(config: TrainConfig, say: Say) -> Checkpoint | None:
    """The checkpoint that `config.resume` asks for.

    Raises:
        UserError: `--resume` where there is nothing to resume.
    """
    if config.resume == "never":
        return None
    found = CheckpointFolder(Path(config.checkpoint_dir)).latest(report=say)
    if found is None and config.resume == "latest":
        raise UserError(
            f"{config.checkpoint_dir} holds no checkpoint to go on from: leave --resume out to start a run, "
            "or use --resume auto"
        )
    return found


def requested_config(checkpoint: Checkpoint) -> TrainConfig:
    """The settings of a run as its user gave them, gaps and all."""
    return _config_from(checkpoint.weights.header["requested"])


def set_up(requested: TrainConfig, checkpoint: Checkpoint | None, say: Say) -> Run:
    """Make everything ready.

    Raises:
        UserError: text, tokenizer, settings, checkpoint and machine do not fit each other.
    """
    stored = checkpoint.weights.header if checkpoint else None
    corpus = survey(_data_file(requested, stored))
    if stored and stored["data_sha256"] != corpus.sha256:
        raise UserError(
            f"{corpus.path} is not the text that this run began with: name the right one with --data-file, "
            "or start a new run without --resume"
        )
    tokenizer = (
        _resumed_tokenizer(requested, stored) if stored else _tokenizer(requested, corpus, say)
    )
    tokens = prepare(corpus, tokenizer, corpus.path.parent / "tokens", say=say)
    if stored:
        settled = _resumed_plan(requested, stored, say)
    else:
        settled = plan(
            requested,
            vocab_size=tokenizer.vocab_size,
            n_training_tokens=len(tokens.training),
            flops_per_second=select.flops_per_second(requested.precision),
        )
    engine, config = _engine(settled, say)
    if checkpoint and stored:
        _load(engine, checkpoint)
        differing = [
            f"{name} was {was}, is {engine.facts.get(name)}"
            for name, was in stored["facts"].items()
            if engine.facts.get(name) != was
        ]
        if differing:
            say(
                f"From here on the last digits may differ from an uninterrupted run: {'; '.join(differing)}."
            )
    header = {
        "model": dataclasses.asdict(settled.model),
        "tokenizer": tokenizer.to_json(),
        "tokenizer_sha256": tokenizer.sha256,
        "data_file": str(corpus.path),
        "data_sha256": corpus.sha256,
        "requested": dataclasses.asdict(requested),
        "resolved": dataclasses.asdict(config),
        "facts": engine.facts,
    }
    n_samples = len(TextDataset(tokens.training, config.seq_len))
    limits = step_limits(config, n_samples)
    return Run(config, settled.model, engine, tokenizer, tokens, header, checkpoint, limits)


def _data_file(config: TrainConfig, stored: dict[str, Any] | None) -> Path:
    """The text that is named, else that of the run, else the last download."""
    if config.data_file:
        return Path(config.data_file)
    path = Path(stored["data_file"]) if stored else workspace.recall("data")
    if path is None:
        raise UserError(
            "there is no text to train on: download some (homespun download), or name a file with --data-file"
        )
    return path


def _tokenizer(config: TrainConfig, corpus: Corpus, say: Say) -> Tokenizer:
    """The one that is named, else the last one trained, else a new one for this text."""
    path = Path(config.tokenizer_path) if config.tokenizer_path else workspace.recall("tokenizer")
    if path is not None:
        return Tokenizer.load(path)
    say(f"There is no tokenizer yet: training one on {corpus.path}.")
    vocab_size = config.vocab_size or AUTO_VOCAB_SIZE
    return train_command(
        TokenizerConfig(data_file=str(corpus.path), vocab_size=vocab_size),
        or_less=config.vocab_size is None,
    )


def _resumed_tokenizer(config: TrainConfig, stored: dict[str, Any]) -> Tokenizer:
    """The one in the checkpoint; another that is named now has to be the same."""
    tokenizer = Tokenizer.from_json(stored["tokenizer"])
    if (
        config.tokenizer_path is not None
        and config.tokenizer_path != stored["requested"]["tokenizer_path"]
        and Tokenizer.load(Path(config.tokenizer_path)).sha256 != tokenizer.sha256
    ):
        raise UserError(
            f"{config.tokenizer_path} is not the tokenizer that this run began with: leave --tokenizer-path out, "
            "the checkpoint holds the right one"
        )
    return tokenizer


def _resumed_plan(requested: TrainConfig, stored: dict[str, Any], say: Say) -> Plan:
    """The stored plan with the changes that a resumed run may have."""
    resolved = _config_from(stored["resolved"])
    at_first = dataclasses.asdict(_config_from(stored["requested"]))
    before = at_first | _said(dataclasses.asdict(resolved))
    before |= {name: stored["model"][name] for name in SHAPE}
    wanted = _said(dataclasses.asdict(requested))
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
            f"--{name.replace('_', '-')} {wanted[name]} (was {before[name]})" for name in refused
        )
        raise UserError(
            f"a resumed run cannot change {differing}: leave it out, or start a new run without --resume"
        )
    for name, on_resume in changes.items():
        if on_resume == "announced":
            say(f"changed for the rest of the run: {name} is {wanted[name]}, was {before[name]}")
    changed = {name: wanted[name] for name in changes}
    if any(name in changes for name in LIMITS):  # one that nobody asked for gives way
        changed |= {name: wanted.get(name) for name in LIMITS}
    config = dataclasses.replace(resolved, **changed)
    if _sequences_per_step(config) != _sequences_per_step(resolved):
        raise UserError(
            f"a resumed run keeps its {_sequences_per_step(resolved)} sequences per step: "
            "--batch-size times --grad-accumulation-steps has to be that"
        )
    return Plan(ModelConfig(**stored["model"]), config)


def _said(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that are not left open."""
    return {name: value for name, value in settings.items() if value is not None}


def _sequences_per_step(config: TrainConfig) -> int:
    return (config.batch_size or 1) * (config.grad_accumulation_steps or 1)


def _engine(settled: Plan, say: Say) -> tuple[Engine, TrainConfig]:
    """The engine, and the config with what was decided in making it, which a resumed run does not decide anew."""
    _check_memory(settled)
    config = settled.config
    compiled = config.compile == "on"
    if compiled and not select.can_compile():
        say("Without compiled kernels: no C++ compiler works on this machine.")
        compiled = False
    if compiled:
        say("Compiling kernels: the first step takes up to a minute longer.")
    engine = select.create(
        settled.model,
        name=config.engine,
        optimizer=OptimizerSettings(
            name=config.optimizer or "adamw",
            weight_decay=config.weight_decay or 0.0,
            beta1=config.beta1,
            beta2=config.beta2,
            max_grad_norm=config.max_grad_norm,
        ),
        precision=config.precision,
        compiled=compiled,
        gradient_checkpointing=config.gradient_checkpointing,
        threads=config.threads,
        seed=config.seed,
    )
    precision: Any = engine.facts["precision"]
    return engine, dataclasses.replace(
        config, precision=precision, compile="on" if compiled else "off"
    )


def _check_memory(settled: Plan) -> None:
    """Refuse what cannot fit before the machine grinds to a halt over it."""
    config = settled.config
    needed = training_bytes(
        settled.model,
        config.batch_size or 1,
        config.optimizer or "adamw",
        half=select.computes_in_half(config.precision),
        checkpointing=config.gradient_checkpointing,
    )
    capacity = select.memory_capacity()
    if capacity and needed > capacity:
        raise UserError(
            f"a step needs about {needed / 1e9:.1f} GB, this machine has {capacity / 1e9:.1f} GB: {LESS_MEMORY}"
        )


def _load(engine: Engine, checkpoint: Checkpoint) -> None:
    try:
        engine.load(checkpoint.tensors())
    except ValueError as error:
        raise UserError(f"{checkpoint.weights.path} does not fit this model: {error}") from error


def _config_from(values: dict[str, Any]) -> TrainConfig:
    """The inverse of `asdict` after a passage through JSON, which has no tuples."""
    with_tuples: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    try:
        return TrainConfig(**with_tuples)
    except TypeError as error:
        raise UserError(
            f"the checkpoint is of another version of homespun ({error}): go on with that one, or start a new run"
        ) from None
