"""From settings to a run that is ready to start: text, tokenizer, tokens, plan, engine.

All that can be wrong with a user's settings is found here, before the first step.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun import workspace
from homespun.architectures.families import count_parameters
from homespun.architectures.presets import preset, shaped
from homespun.checkpoint.folder import Checkpoint
from homespun.checkpoint.writer import COPY_SIZE
from homespun.config import ModelConfig, TokenizerConfig, TrainConfig
from homespun.config.checked import flag
from homespun.data.corpus import Corpus, survey
from homespun.data.prepare import Prepared, prepare
from homespun.data.samples import TextDataset
from homespun.data.train_tokenizer import Origin, origin, train_tokenizer_on
from homespun.engine import hardware, select
from homespun.engine.base import Engine, EngineOptions, Machine, OptimizerSettings, OutOfMemory
from homespun.errors import UserError
from homespun.planning.estimate import training_bytes
from homespun.planning.memory import check_memory, out_of_memory
from homespun.planning.recipe import SHAPE, SIZES, Plan, Settled, plan, step_limits
from homespun.terminal import Say, bar
from homespun.tokenizer import Tokenizer
from homespun.training.resume import restore, resumed_corpus, resumed_plan, resumed_tokenizer
from homespun.training.schedule import RateCurve, rate_curve

AUTO_VOCAB_SIZE = 4096
"""Of a tokenizer that is trained by the way: small, as the models of short runs are."""
LEAST_TEXT = 2_000
"""Bytes; less does not fill a sample on either side."""
LITTLE_TEXT = 100_000
"""Bytes below which a run is for trying things out."""


@dataclass(frozen=True)
class Run:
    """All that the training loop works with."""

    config: Settled
    model: ModelConfig
    engine: Engine
    tokenizer: Tokenizer
    tokens: Prepared
    dataset: TextDataset
    """Of the training tokens."""
    header: dict[str, Any]
    """What every file of weights carries: enough to generate from it, and to go on."""
    limits: dict[str, int]
    """Those of the limits that are numbers of steps, the nearest first."""

    @property
    def total_steps(self) -> int | None:
        """Where the nearest of them is; None where only time ends the run."""
        return min(self.limits.values(), default=None)

    @property
    def rate_curve(self) -> RateCurve:
        """The learning rate over the run."""
        return rate_curve(self.config, self.limits)

    def description(self) -> dict[str, str]:
        """What the run is, line by line: all that was decided, and the tokens per step once and for all."""
        c, model, facts = self.config, self.model, self.engine.facts
        rates = f"{c.learning_rate:g}"
        if c.optimizer == "muon":
            rates = f"{c.muon_learning_rate:g} for Muon, {rates} for AdamW"
        steps, share = self.rate_curve.warmup_steps, self.rate_curve.warmup_share
        warm_up = f"{steps:,} steps" if steps else f"{share:.0%} of the run"
        lengths = [f"{n:,} steps ({flag(name)})" for name, n in self.limits.items()]
        if c.time_budget:
            lengths.append(f"{c.time_budget} (--time-budget)")
        return {
            "model": f"{model.architecture}, {model.n_layers} layers x {model.d_model}, "
            f"{model.n_heads} heads, {count_parameters(model) / 1e6:.1f} M parameters",
            "text": f"{len(self.tokens.training):,} training and {len(self.tokens.validation):,} "
            f"validation tokens, vocabulary {model.vocab_size:,}",
            "step": f"{c.tokens_per_step:,} tokens: {c.batch_size} sequences of {c.seq_len} tokens"
            + (f", {c.grad_accumulation_steps} times" if c.grad_accumulation_steps != 1 else ""),
            "length": " or ".join(lengths)
            + (", whichever comes first" if len(lengths) > 1 else ""),
            "optimizer": f"{c.optimizer}, peak rate {rates}",
            "schedule": f"{c.schedule}, warm-up {warm_up}",
            "engine": f"{facts['engine']}, {facts['device']}, {facts['precision']}"
            + (f", {facts['threads']} threads" if "threads" in facts else "")
            + (", compiled" if facts["compiled"] == "yes" else ""),
            "folder": c.checkpoint_dir,
        }

    @property
    def weights_bytes(self) -> int:
        """What its weights take, in memory and on disk; each of the optimizer's moments takes as much at most."""
        return 4 * count_parameters(self.model)

    def bytes_on_disk(self) -> int:
        """What its checkpoints take at most."""
        return _bytes_on_disk(self.model, self.config.keep)

    def has_room_for_copies(self) -> bool:
        """Whether a step leaves memory for the copies that are saved in the background."""
        c, machine = self.config, select.machine(self.config.engine)
        step = training_bytes(
            self.model,
            c.batch_size,
            c.optimizer,
            half=machine.computes_in_half(c.precision),
            checkpointing=c.gradient_checkpointing,
        )
        return step + COPY_SIZE * self.weights_bytes <= hardware.capacity()


def least_bytes_on_disk(config: TrainConfig) -> int:
    """What the checkpoints of a run take at most, if it comes to the smallest model that it may come to.

    Raises:
        UserError: there is no such model.
    """
    asked = {name: getattr(config, name) for name in (*SHAPE, "seq_len")}
    vocab_size = config.vocab_size or AUTO_VOCAB_SIZE
    smallest = preset(config.model_size or SIZES[0].preset)
    return _bytes_on_disk(shaped(smallest, asked | {"vocab_size": vocab_size}), config.keep)


def _bytes_on_disk(model: ModelConfig, keep: int) -> int:
    """Weights and two moments of each checkpoint that is kept and of one being written, and the best weights twice."""
    return 4 * count_parameters(model) * (3 * (keep + 1) + 2)


def set_up(requested: TrainConfig, checkpoint: Checkpoint | None, say: Say) -> Run:
    """Make everything ready.

    Raises:
        UserError: text, tokenizer, settings, checkpoint and machine do not fit each other.
    """
    stored = checkpoint.weights.header if checkpoint else None
    corpus = resumed_corpus(requested, stored) if stored else _corpus(requested, say)
    tokenizer = (
        resumed_tokenizer(requested, stored) if stored else _tokenizer(requested, corpus, say)
    )
    tokens = prepare(corpus, tokenizer, workspace.tokens_folder(corpus.path), say=say)
    document_starts = tokens.training.positions(tokenizer.eot_id)
    if stored:
        settled = resumed_plan(requested, stored, say)
        dataset = TextDataset(tokens.training, settled.config.seq_len, document_starts)
    else:
        dataset = TextDataset(tokens.training, requested.seq_len, document_starts)
        machine = select.machine(requested.engine)
        with bar("Measuring the speed of this machine", None):
            flops_per_second = machine.flops_per_second(requested.precision)
        settled = plan(
            requested,
            vocab_size=tokenizer.vocab_size,
            n_samples=len(dataset),
            flops_per_second=flops_per_second,
            compiles_at_once=machine.compiles_at_once(),
        )
        if settled.config.max_epochs != requested.max_epochs and requested.model_size is None:
            say(
                "So short a text is learned by heart if it is seen too often: the run ends after "
                f"{settled.config.max_epochs:g} passes. With more text it could use the whole time."
            )
    engine, config = _engine(settled, tokenizer.eot_id, say)
    if checkpoint:
        restore(engine, checkpoint, say)
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
    limits = step_limits(config, len(dataset))
    return Run(config, settled.model, engine, tokenizer, tokens, dataset, header, limits)


def _corpus(config: TrainConfig, say: Say) -> Corpus:
    """The text that is named, else the last download."""
    corpus = survey(workspace.chosen_data(config.data_file), say)
    size = f"{corpus.path} has {corpus.n_bytes:,} bytes; "
    needed = "a model needs at least about 100 kB (a short book has 300 kB)"
    if corpus.n_bytes < LEAST_TEXT:
        raise UserError(size + needed)
    if corpus.n_bytes < LITTLE_TEXT:
        say(f"{size}{needed} to learn anything.")
    return corpus


def _tokenizer(config: TrainConfig, corpus: Corpus, say: Say) -> Tokenizer:
    """The one that is named, else the last one if it was trained on this text, else a new one."""
    if config.tokenizer_path is not None:
        return _existing_tokenizer(Path(config.tokenizer_path), corpus, say)
    last = workspace.recall("tokenizer")
    if last is None or not last.exists():
        say(f"There is no tokenizer yet: training one on {corpus.path}.")
    elif origin(last).data_sha256 == corpus.sha256:
        return _existing_tokenizer(last, corpus, say)
    else:
        text = _named(origin(last), corpus)
        say(f"The tokenizer in {last} was trained on {text}: training one on {corpus.path}.")
    vocab_size = config.vocab_size or AUTO_VOCAB_SIZE
    if config.model_size is not None:  # what is wrong with it is said before the work
        most_tokens = corpus.n_bytes + corpus.n_documents  # each a byte, or the mark of a document
        samples = most_tokens // config.seq_len
        plan(config, vocab_size=vocab_size, n_samples=samples, flops_per_second=1.0)
    return train_tokenizer_on(
        corpus,
        vocab_size,
        Path(TokenizerConfig().output_dir),
        say,
        or_less=config.vocab_size is None,
    )


def _existing_tokenizer(path: Path, corpus: Corpus, say: Say) -> Tokenizer:
    tokenizer = Tokenizer.load(path)
    say(f"Tokenizer: {path}, trained on {_named(origin(path), corpus)}.")
    return tokenizer


def _named(text: Origin, corpus: Corpus) -> str:
    """What a tokenizer was trained on, as it is to the text of the run."""
    if text.data_sha256 == corpus.sha256:
        return "this text"
    if text.data_file == str(corpus.path):
        return f"an earlier content of {corpus.path}"
    return f"another text ({text.data_file or 'not known which'})"


def _engine(settled: Plan, document_mark: int, say: Say) -> tuple[Engine, Settled]:
    """The engine, and the config with what was decided in making it, which a resumed run does not decide anew."""
    check_memory(settled, say)
    config = settled.config
    machine = select.machine(config.engine)
    compiled = config.compile == "on"
    if compiled and not _can_compile(machine):
        say("Without compiled kernels: no C++ compiler works on this machine.")
        compiled = False
    if compiled and not machine.compiles_at_once():
        say("Compiling kernels: the first step takes up to a minute longer.")
    options = EngineOptions(
        optimizer=OptimizerSettings(
            name=config.optimizer,
            weight_decay=config.weight_decay,
            beta1=config.beta1,
            beta2=config.beta2,
            max_grad_norm=config.max_grad_norm,
        ),
        precision=config.precision,
        compiled=compiled,
        gradient_checkpointing=config.gradient_checkpointing,
        document_mark=document_mark,
        threads=config.threads,
        seed=config.seed,
        dropout=config.dropout,
    )
    try:
        with bar("Making the model", None):
            engine = select.create(settled.model, options, name=config.engine)
    except OutOfMemory as error:
        raise out_of_memory(settled, saved=False) from error
    precision: Any = engine.facts["precision"]
    return engine, dataclasses.replace(
        config, precision=precision, compile="on" if compiled else "off"
    )


def _can_compile(machine: Machine) -> bool:
    with bar("Trying the C++ compiler", None):
        return machine.can_compile()
