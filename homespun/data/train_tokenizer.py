"""A text file in, a tokenizer folder out: learned on the training side of the data, measured on the validation side."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from homespun import durable, workspace
from homespun.config import TokenizerConfig
from homespun.data.corpus import Corpus, survey
from homespun.errors import UserError
from homespun.terminal import Say, bar
from homespun.tokenizer import REPORT, Tokenizer, check_folder, train

REPORT_BYTES = 4_000_000
"""Validation text that the compression is measured on."""
LONGEST = 10
"""Tokens that the report shows."""


@dataclass(frozen=True)
class Origin:
    """What a tokenizer was trained on, as far as its folder tells."""

    data_file: str | None
    data_sha256: str | None


def origin(folder: Path) -> Origin:
    """What the tokenizer in a folder was trained on.

    Raises:
        UserError: its report cannot be read.
    """
    try:
        report = durable.read_json(folder / REPORT)
    except OSError as error:
        raise UserError(f"{folder / REPORT}: cannot be read ({error.strerror})") from None
    return Origin(report.get("data_file"), report.get("data_sha256"))


def train_tokenizer(config: TokenizerConfig, say: Say = print) -> Tokenizer:
    """Train a tokenizer on a text, write its folder, and remember it as this folder's newest.

    Args:
        config: from what, how large, where to.
        say: takes each line of the report.

    Raises:
        UserError: no data, or too little for the vocabulary, or the folder cannot be written.
    """
    folder = Path(config.output_dir)
    check_folder(folder)  # before the work, not after it
    corpus = survey(workspace.chosen_data(config.data_file), say)
    return train_tokenizer_on(corpus, config.vocab_size, folder, say)


def train_tokenizer_on(
    corpus: Corpus, vocab_size: int, folder: Path, say: Say, *, or_less: bool = False
) -> Tokenizer:
    """`train_tokenizer`, on a text that has been read already.

    Args:
        corpus: the text.
        vocab_size: number of tokens.
        folder: where to.
        say: takes each line of the report.
        or_less: where the text does not support a vocabulary of that size, take what it supports.

    Raises:
        UserError: too little text for the vocabulary, or the folder cannot be written.
    """
    check_folder(folder)
    with bar("Training the tokenizer", None):
        tokenizer = train(corpus.training(), vocab_size, or_less=or_less)
        bytes_per_token = _bytes_per_token(tokenizer, corpus.validation())
    by_length = sorted(
        range(tokenizer.vocab_size), key=lambda token: -tokenizer.byte_lengths[token]
    )
    longest_tokens = [tokenizer.decode([token]) for token in by_length[:LONGEST]]
    report = {
        "data_file": str(corpus.path),
        "data_sha256": corpus.sha256,
        "bytes_per_token": bytes_per_token,
        "longest_tokens": longest_tokens,
    }
    if _holds(folder, tokenizer, corpus):
        say(f"{folder} already holds this tokenizer: unchanged")
    elif moved := tokenizer.save(folder, report):
        moved = folder.with_name(moved.name)
        say(f"The earlier tokenizer moved to {moved} (to use it: --tokenizer-path {moved}).")
    workspace.remember("tokenizer", folder)
    say(f"tokenizer      {folder} ({tokenizer.sha256[:12]}), trained on {corpus.path}")
    say(f"vocabulary     {tokenizer.vocab_size:,} tokens")
    say(f"compression    {bytes_per_token:.3f} bytes per token on validation text")
    say(f"longest tokens {' '.join(map(repr, longest_tokens))}")
    return tokenizer


def _bytes_per_token(tokenizer: Tokenizer, documents: Iterable[str]) -> float:
    """On the first few megabytes, end-of-text tokens included."""
    sample, n_bytes = [], 0
    for document in documents:
        sample.append(document)
        n_bytes += len(document.encode())
        if n_bytes >= REPORT_BYTES:
            break
    return n_bytes / len(tokenizer.join(sample))


def _holds(folder: Path, tokenizer: Tokenizer, corpus: Corpus) -> bool:
    try:
        same = Tokenizer.load(folder).sha256 == tokenizer.sha256
    except UserError:
        return False
    return same and origin(folder).data_sha256 == corpus.sha256
