"""Text flows in, the folder of a tokenizer flows out.

The tokenizer is trained on the training side of the data and measured on the validation side.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from homespun import durable, workspace
from homespun.config import TOKENS_DIR, TokenizerConfig
from homespun.data.corpus import Corpus, survey
from homespun.errors import UserError
from homespun.terminal import Say, bar, say
from homespun.tokenizer import (
    REPORT,
    SPECIFICATION,
    Tokenizer,
    check_folder,
    read_report,
    train,
)

REPORT_BYTES = 4_000_000
"""About this many bytes of validation text are used to measure compression."""
N_LONGEST = 10
"""Number of the longest tokens in the report."""


def train_tokenizer(config: TokenizerConfig, say: Say = say) -> Tokenizer:
    """Train a tokenizer, write its folder, and record it as the newest tokenizer of this working directory.

    Args:
        config: the text, the size of the vocabulary, the folder.
        say: called with each line of the report.

    Raises:
        UserError: no data, or too little for the vocabulary, or the folder cannot be written.
    """
    workspace.check()
    folder = Path(config.output_dir)
    check_folder(folder)  # fails before the text is read
    corpus = survey(workspace.chosen_data(config.data_file), say, Path(TOKENS_DIR))
    if corpus.is_chat:
        raise UserError(
            f"{corpus.path} holds conversations, which teach a trained model: a tokenizer is trained on text"
        )
    return train_tokenizer_on(corpus, config.vocab_size, folder, say)


def train_tokenizer_on(corpus: Corpus, vocab_size: int, folder: Path, say: Say) -> Tokenizer:
    """`train_tokenizer`, on a text that has been surveyed already.

    Args:
        corpus: the text.
        vocab_size: number of tokens; there are fewer if the text does not support as many.
        folder: the folder to write; its tokenizer stays if it already is this one.
        say: called with each line of the report.

    Raises:
        UserError: the folder cannot be written.
    """
    check_folder(folder)
    workspace.recall("tokenizer")  # a record that cannot be used is named before the work
    with bar("Training the tokenizer", None):
        tokenizer = train(corpus.training(), vocab_size)
        bytes_per_token = _bytes_per_token(tokenizer, corpus.validation())
    by_length = sorted(
        range(tokenizer.vocab_size), key=lambda token: -tokenizer.byte_lengths[token]
    )
    longest_tokens = [tokenizer.decode([token]) for token in by_length[:N_LONGEST]]
    report = {
        "requested_vocab_size": vocab_size,
        "data_file": str(corpus.path),
        "data_sha256": corpus.sha256,
        "bytes_per_token": bytes_per_token,
        "longest_tokens": longest_tokens,
    }
    if _holds(folder, tokenizer, corpus):
        _renew_report(folder, tokenizer.report(report))
        say(f"{folder} already holds this tokenizer: unchanged")
    elif moved := tokenizer.save(folder, report):
        moved = folder.with_name(moved.name)
        say(f"The earlier tokenizer moved to {moved} (to use it: --tokenizer-path {moved}).")
    workspace.remember("tokenizer", folder, say)
    say(f"tokenizer      {folder} ({tokenizer.sha256[:12]}), trained on {corpus.path}")
    say(f"vocabulary     {_vocabulary(tokenizer.vocab_size, vocab_size)}")
    say(f"compression    {bytes_per_token:.3f} bytes per token on validation text")
    say(f"longest tokens {' '.join(map(repr, longest_tokens))}")
    return tokenizer


def _vocabulary(size: int, requested: int) -> str:
    if size == requested:
        return f"{size:,} tokens"
    return f"{size:,} of {requested:,} tokens: the text has no more pairs to merge"


def _bytes_per_token(tokenizer: Tokenizer, documents: Iterable[str]) -> float:
    """Compression of the first `REPORT_BYTES` of the documents, with a separator for each document."""
    sample, n_bytes = [], 0
    for document in documents:
        sample.append(document)
        n_bytes += len(document.encode())
        if n_bytes >= REPORT_BYTES:
            break
    return n_bytes / len(tokenizer.join(sample))


def _holds(folder: Path, tokenizer: Tokenizer, corpus: Corpus) -> bool:
    """Whether a folder holds this tokenizer, and does not state that another text was used."""
    try:
        text = (folder / SPECIFICATION).read_text(encoding="utf-8")
        same = Tokenizer.from_json(text).sha256 == tokenizer.sha256
    except (OSError, ValueError, UserError):
        return False
    try:
        known = read_report(folder).get("data_sha256", corpus.sha256)
    except UserError:
        return same
    return same and known == corpus.sha256


def _renew_report(folder: Path, report: dict[str, Any]) -> None:
    """Write the report of a tokenizer that is there, unless it is the same already.

    Raises:
        UserError: it cannot be written.
    """
    with contextlib.suppress(UserError):
        if read_report(folder) == report:
            return
    try:
        durable.write_json(folder / REPORT, report)
    except OSError as error:
        raise UserError(f"{folder / REPORT}: cannot be written ({error.strerror})") from None
