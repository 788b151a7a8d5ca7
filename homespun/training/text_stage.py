"""The first stage of a run: the text and its tokenizer, chosen and checked before any work is done on them."""

import dataclasses
from pathlib import Path

from homespun import workspace
from homespun.architectures.presets import preset, shaped
from homespun.config import ModelConfig, TokenizerConfig, TrainConfig
from homespun.config.data import LEAST_VOCAB_SIZE
from homespun.data.corpus import Corpus, survey
from homespun.data.known_tokenizers import Origin, fitting_tokenizer, main_tokenizers, origin
from homespun.data.train_tokenizer import train_tokenizer_on
from homespun.errors import UserError
from homespun.model_formats.stored_model import StoredModel
from homespun.planning.new_model import SIZES
from homespun.planning.recipe import (
    SHAPE,
    check_step_fits,
    least_sequences_per_step,
)
from homespun.terminal import Say
from homespun.tokenizer import Tokenizer

AUTO_VOCAB_SIZE = 4096
"""Vocabulary size of a tokenizer that is trained automatically: small, like the models of short runs."""
MIN_TEXT_BYTES = 2_000
"""A shorter text does not fill one sample for training and one for validation."""
LITTLE_TEXT_BYTES = 100_000
"""A shorter text is enough to try things out, not to learn from."""


def smallest_model(config: TrainConfig) -> ModelConfig:
    """The model of a run, or the smallest one that the recipe may choose.

    Raises:
        UserError: no model has such a shape.
    """
    given = {name: getattr(config, name) for name in (*SHAPE, "seq_len")}
    vocab_size = config.vocab_size or LEAST_VOCAB_SIZE
    base = preset(config.model_size or SIZES[0].preset)
    return shaped(base, given | {"vocab_size": vocab_size})


def choose_text(
    data_file: str | None,
    say: Say,
    folder: Path | None = None,
    *,
    keeps: bool = True,
    n_workers: int = 1,
) -> Corpus:
    """The text that is named, or the last download. `folder` holds the record of its survey, which is written if
    `keeps`. Several processes may read it, see `survey`.

    Raises:
        UserError: there is no text, or too little.
    """
    path = workspace.chosen_data(data_file)
    corpus = survey(path, say, folder, keeps=keeps, n_workers=n_workers)
    if not corpus.is_chat:
        check_size(corpus, say)
    return corpus


def check_size(corpus: Corpus, say: Say) -> None:
    """Make sure that a text is long enough to learn from, and say so if it is short or hardly to be divided.

    Raises:
        UserError: it is too short.
    """
    size = f"{corpus.path} has {corpus.n_bytes:,} bytes; "
    needed = "a model needs at least about 100 kB (a short book has 300 kB)"
    if corpus.n_bytes < MIN_TEXT_BYTES:
        raise UserError(size + needed)
    if corpus.n_bytes < LITTLE_TEXT_BYTES:
        say(f"{size}{needed} to learn anything.")
    if unevenness := corpus.unevenness():
        say(unevenness)


def choose_pairs(path: str, say: Say, folder: Path, *, keeps: bool = True) -> Corpus:
    """The preference pairs in a file or folder; see `choose_text`.

    Raises:
        UserError: there are too few, or one breaks the rules of `data.preferences`.
    """
    return survey(Path(path), say, folder, keeps=keeps, as_pairs=True)


def check_sizes(requested: TrainConfig, corpus: Corpus, initial: StoredModel | None = None) -> None:
    """Refuse settings that no tokenizer could make possible, before one is trained.

    Raises:
        UserError: no model has such a shape, or the text does not fill one step.
    """
    if corpus.is_chat:
        if initial is None:
            raise UserError(
                f"{corpus.path} holds conversations, from which a trained model learns to answer: name one with "
                "--init-from"
            )
        return
    if initial is None:
        smallest_model(requested)
    most_tokens = corpus.n_bytes + corpus.n_documents  # one for each byte, and an end-of-text each
    most_samples = most_tokens // requested.seq_len
    check_step_fits(least_sequences_per_step(requested), requested.seq_len, most_samples)


def choose_tokenizer(
    path: str | None, vocab_size: int | None, corpus: Corpus, say: Say
) -> Tokenizer:
    """The tokenizer that is named, or one that is there and was trained on this text, or a new one.

    Args:
        path: the tokenizer that is named.
        vocab_size: the requested vocabulary. A tokenizer that has all tokens which its text supports may be smaller.
        corpus: the text of the run.
        say: gets a line about the choice.

    Raises:
        UserError: the named tokenizer is not there, damaged, or of another size, or an unnamed one is damaged.
    """
    if tokenizer := find_tokenizer(path, vocab_size, corpus, say):
        return tokenizer
    size = f"of {vocab_size:,} tokens " if vocab_size else ""
    say(f"{_why_none_fits(corpus)}: training one {size}on {corpus.path}.")
    folder = Path(TokenizerConfig.output_dir)
    return train_tokenizer_on(corpus, vocab_size or AUTO_VOCAB_SIZE, folder, say)


def find_tokenizer(
    path: str | None, vocab_size: int | None, corpus: Corpus, say: Say
) -> Tokenizer | None:
    """The tokenizer that is named, or one that is there and was trained on this text; None if a run would train one.
    Arguments and errors as for `choose_tokenizer`."""
    if path is not None:
        return _named_tokenizer(Path(path), vocab_size, corpus, say)
    if own := corpus.tokenizer:
        if vocab_size not in (None, own.vocab_size):
            raise UserError(
                f"--vocab-size is {vocab_size:,}, but the tokens of {corpus.path} have a vocabulary of "
                f"{own.vocab_size:,}: leave it out"
            )
        say(f"Tokenizer: the one that made the tokens of {corpus.path}.")
        return own
    if found := fitting_tokenizer(corpus, vocab_size, say):
        there, tokenizer = found
        say(f"Tokenizer: {there}, trained on this text.")
        return tokenizer
    return None


def _named_tokenizer(path: Path, vocab_size: int | None, corpus: Corpus, say: Say) -> Tokenizer:
    tokenizer = Tokenizer.load(path)
    trained = dataclasses.replace(origin(path), vocab_size=tokenizer.vocab_size)
    if not trained.has_size(vocab_size):
        raise UserError(
            f"--vocab-size is {vocab_size:,}, but the tokenizer in {path} has {tokenizer.vocab_size:,} tokens: "
            "leave one of --vocab-size and --tokenizer-path out"
        )
    say(f"Tokenizer: {path}, trained on {_named(trained, corpus)}.")
    return tokenizer


def _why_none_fits(corpus: Corpus) -> str:
    there = main_tokenizers()
    if not there:
        return "There is no tokenizer yet"
    trained = origin(there[0])
    if trained.data_sha256 == corpus.sha256:
        return f"The tokenizer in {there[0]} has {trained.vocab_size:,} tokens"
    return f"The tokenizer in {there[0]} was trained on {_named(trained, corpus)}"


def _named(trained: Origin, corpus: Corpus) -> str:
    """Names the training text of a tokenizer in relation to the text of the run."""
    if trained.data_sha256 == corpus.sha256:
        return "this text"
    if trained.data_file == str(corpus.path):
        return f"an earlier content of {corpus.path}"
    return f"another text ({trained.data_file or 'unknown'})"
