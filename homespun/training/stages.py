"""Settings flow in, a run that is ready to start comes out, in four stages: text, tokens, plan, engine.

All mistakes in a user's settings are found here, before the first step, and the cheap checks come before the work.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun import workspace
from homespun.architectures.presets import preset, shaped
from homespun.config import ModelConfig, TokenizerConfig, TrainConfig
from homespun.data.corpus import Corpus, survey
from homespun.data.prepare import Prepared, prepare
from homespun.data.samples import TextDataset
from homespun.data.train_tokenizer import Origin, origin, train_tokenizer_on
from homespun.engine import select
from homespun.engine.base import Engine, EngineOptions, Machine, OptimizerSettings, OutOfMemory
from homespun.errors import UserError
from homespun.planning.memory import check_memory, out_of_memory
from homespun.planning.recipe import (
    SHAPE,
    SIZES,
    Plan,
    ResolvedConfig,
    check_step_fits,
    least_sequences_per_step,
    plan,
    step_limits,
)
from homespun.terminal import Say, bar
from homespun.tokenizer import Tokenizer
from homespun.training.resume import (
    ResumePoint,
    restore,
    resumed_corpus,
    resumed_plan,
    resumed_tokenizer,
)
from homespun.training.run import Run

AUTO_VOCAB_SIZE = 4096
"""Vocabulary size of a tokenizer that is trained automatically: small, like the models of short runs."""
MIN_TEXT_BYTES = 2_000
"""A shorter text does not fill one sample for training and one for validation."""
LITTLE_TEXT_BYTES = 100_000
"""A shorter text is enough to try things out, not to learn from."""


@dataclass(frozen=True)
class Tokens:
    """The text as the model reads it."""

    tokenizer: Tokenizer
    prepared: Prepared
    dataset: TextDataset
    """Samples of the training tokens."""


def smallest_model(config: TrainConfig) -> ModelConfig:
    """The model of a run, or the smallest one that the recipe may choose.

    Raises:
        UserError: no model has such a shape.
    """
    given = {name: getattr(config, name) for name in (*SHAPE, "seq_len")}
    vocab_size = config.vocab_size or AUTO_VOCAB_SIZE
    base = preset(config.model_size or SIZES[0].preset)
    return shaped(base, given | {"vocab_size": vocab_size})


def set_up(requested: TrainConfig, point: ResumePoint | None, say: Say) -> Run:
    """Make a new run ready, or a resumed one.

    Raises:
        UserError: text, tokenizer, settings, checkpoint and machine do not fit each other.
    """
    if point:
        stored = point.header
        planned = resumed_plan(requested, stored, say)
        corpus = resumed_corpus(requested, stored)
        tokens = tokenize(corpus, resumed_tokenizer(requested, stored), planned.config.seq_len, say)
    else:
        corpus = choose_text(requested.data_file, say)
        check_sizes(requested, corpus)
        tokenizer = choose_tokenizer(requested.tokenizer_path, requested.vocab_size, corpus, say)
        tokens = tokenize(corpus, tokenizer, requested.seq_len, say)
        planned = choose_plan(requested, tokenizer.vocab_size, len(tokens.dataset), say)
    engine, config = make_engine(planned, tokens.tokenizer.eot_id, say)
    if point:
        restore(engine, point, say)
    return Run(
        config=config,
        model=planned.model,
        engine=engine,
        tokenizer=tokens.tokenizer,
        tokens=tokens.prepared,
        dataset=tokens.dataset,
        header={
            "model": dataclasses.asdict(planned.model),
            "tokenizer": tokens.tokenizer.to_json(),
            "tokenizer_sha256": tokens.tokenizer.sha256,
            "data_file": str(corpus.path),
            "data_sha256": corpus.sha256,
            "requested": dataclasses.asdict(requested),
            "resolved": dataclasses.asdict(config),
            "facts": engine.facts,
        },
        limits=step_limits(config, len(tokens.dataset)),
    )


def choose_text(data_file: str | None, say: Say) -> Corpus:
    """The text that is named, or the last download.

    Raises:
        UserError: there is no text, or too little.
    """
    corpus = survey(workspace.chosen_data(data_file), say)
    size = f"{corpus.path} has {corpus.n_bytes:,} bytes; "
    needed = "a model needs at least about 100 kB (a short book has 300 kB)"
    if corpus.n_bytes < MIN_TEXT_BYTES:
        raise UserError(size + needed)
    if corpus.n_bytes < LITTLE_TEXT_BYTES:
        say(f"{size}{needed} to learn anything.")
    return corpus


def check_sizes(requested: TrainConfig, corpus: Corpus) -> None:
    """Refuse settings that no tokenizer could make possible, before one is trained.

    Raises:
        UserError: no model has such a shape, or the text does not fill one step.
    """
    smallest_model(requested)
    most_tokens = corpus.n_bytes + corpus.n_documents  # one for each byte, and an end-of-text each
    most_samples = most_tokens // requested.seq_len
    check_step_fits(least_sequences_per_step(requested), requested.seq_len, most_samples)


def choose_tokenizer(
    path: str | None, vocab_size: int | None, corpus: Corpus, say: Say
) -> Tokenizer:
    """The tokenizer that is named, or the last one if it was trained on this text, or a new one.

    Raises:
        UserError: none is there, or the text is too short for one of `vocab_size`.
    """
    if path is not None:
        return _existing_tokenizer(Path(path), corpus, say)
    last = workspace.recall("tokenizer")
    if last is None or not last.exists():
        say(f"There is no tokenizer yet: training one on {corpus.path}.")
    elif origin(last).data_sha256 == corpus.sha256:
        return _existing_tokenizer(last, corpus, say)
    else:
        text = _named(origin(last), corpus)
        say(f"The tokenizer in {last} was trained on {text}: training one on {corpus.path}.")
    return train_tokenizer_on(
        corpus,
        vocab_size or AUTO_VOCAB_SIZE,
        Path(TokenizerConfig().output_dir),
        say,
        or_less=vocab_size is None,
    )


def _existing_tokenizer(path: Path, corpus: Corpus, say: Say) -> Tokenizer:
    tokenizer = Tokenizer.load(path)
    say(f"Tokenizer: {path}, trained on {_named(origin(path), corpus)}.")
    return tokenizer


def _named(text: Origin, corpus: Corpus) -> str:
    """Names the training text of a tokenizer in relation to the text of the run."""
    if text.data_sha256 == corpus.sha256:
        return "this text"
    if text.data_file == str(corpus.path):
        return f"an earlier content of {corpus.path}"
    return f"another text ({text.data_file or 'unknown'})"


def tokenize(corpus: Corpus, tokenizer: Tokenizer, seq_len: int, say: Say) -> Tokens:
    """The text as tokens, from the disk if they are there.

    Raises:
        UserError: the tokens cannot be written, or do not fill one sample.
    """
    prepared = prepare(corpus, tokenizer, workspace.tokens_folder(corpus.path), say=say)
    document_starts = prepared.training.positions(tokenizer.eot_id)
    dataset = TextDataset(prepared.training, seq_len, document_starts)
    return Tokens(tokenizer, prepared, dataset)


def choose_plan(requested: TrainConfig, vocab_size: int, n_samples: int, say: Say) -> Plan:
    """The settings of the user, and for all others those that suit the text and this machine.

    Raises:
        UserError: settings that contradict each other or the text.
    """
    machine = select.machine(requested.engine)
    with bar("Measuring the speed of this machine", None):
        flops_per_second = machine.flops_per_second(requested.precision)
    planned = plan(
        requested,
        vocab_size=vocab_size,
        n_samples=n_samples,
        flops_per_second=flops_per_second,
        compiles_at_once=machine.compiles_at_once(),
    )
    if planned.config.max_epochs != requested.max_epochs and requested.model_size is None:
        say(
            "This text is short: a model that reads it too often memorizes it, so the run ends after "
            f"{planned.config.max_epochs:g} passes. With more text it could use the whole time."
        )
    return planned


def make_engine(planned: Plan, document_mark: int, say: Say) -> tuple[Engine, ResolvedConfig]:
    """The engine, and the config with the precision and compilation that it got, which a resumed run keeps.

    Raises:
        UserError: the model does not fit into memory.
    """
    check_memory(planned, say)
    c = planned.config
    compiled = _compiled(c.compile == "on", select.machine(c.engine), say)
    options = EngineOptions(
        optimizer=OptimizerSettings(
            name=c.optimizer,
            weight_decay=c.weight_decay,
            beta1=c.beta1,
            beta2=c.beta2,
            max_grad_norm=c.max_grad_norm,
        ),
        precision=c.precision,
        compiled=compiled,
        gradient_checkpointing=c.gradient_checkpointing,
        document_mark=document_mark,
        threads=c.threads,
        seed=c.seed,
        dropout=c.dropout,
    )
    try:
        with bar("Making the model", None):
            engine = select.create(planned.model, options, name=c.engine)
    except OutOfMemory as error:
        raise out_of_memory(planned, saved=False) from error
    precision: Any = engine.facts["precision"]
    return engine, dataclasses.replace(c, precision=precision, compile="on" if compiled else "off")


def _compiled(wanted: bool, machine: Machine, say: Say) -> bool:
    """Whether kernels are compiled: where that is wanted and possible."""
    if not wanted:
        return False
    with bar("Trying the C++ compiler", None):
        possible = machine.can_compile()
    if not possible:
        say("Without compiled kernels: no C++ compiler works on this machine.")
    elif not machine.compiles_at_once():
        say("Compiling kernels: the first step takes up to a minute longer.")
    return possible
