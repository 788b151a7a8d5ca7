"""Text flows in, the folder of a tokenizer flows out.

The tokenizer is trained on the training side of the data and measured on the validation side.
"""

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
"""About this many bytes of validation text are used to measure compression."""
N_LONGEST = 10
"""Number of the longest tokens in the report."""


@dataclass(frozen=True)
class Origin:
    """The text that a tokenizer was trained on; None if its folder does not state it."""

    data_file: str | None
    data_sha256: str | None


def origin(path: Path) -> Origin:
    """The text that the tokenizer in a folder, or in its `tokenizer.json`, was trained on.

    Raises:
        UserError: its report cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    try:
        report = durable.read_json(folder / REPORT)
    except OSError as error:
        raise UserError(f"{folder / REPORT}: cannot be read ({error.strerror})") from None
    return Origin(report.get("data_file"), report.get("data_sha256"))


def train_tokenizer(config: TokenizerConfig, say: Say = print) -> Tokenizer:
    """Train a tokenizer, write its folder, and record it as the newest tokenizer of this working directory.

    Args:
        config: the text, the size of the vocabulary, the folder.
        say: called with each line of the report.

    Raises:
        UserError: no data, or too little for the vocabulary, or the folder cannot be written.
    """
    folder = Path(config.output_dir)
    check_folder(folder)  # fails before the text is read
    corpus = survey(workspace.chosen_data(config.data_file), say)
    return train_tokenizer_on(corpus, config.vocab_size, folder, say)


def train_tokenizer_on(
    corpus: Corpus, vocab_size: int, folder: Path, say: Say, *, or_less: bool = False
) -> Tokenizer:
    """`train_tokenizer`, on a text that has been surveyed already.

    Args:
        corpus: the text.
        vocab_size: number of tokens.
        folder: the folder to write; left as it is if it already holds this tokenizer.
        say: called with each line of the report.
        or_less: take a smaller vocabulary if the text does not support this size.

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
    longest_tokens = [tokenizer.decode([token]) for token in by_length[:N_LONGEST]]
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
    """Compression of the first `REPORT_BYTES` of the documents, with a separator for each document."""
    sample, n_bytes = [], 0
    for document in documents:
        sample.append(document)
        n_bytes += len(document.encode())
        if n_bytes >= REPORT_BYTES:
            break
    return n_bytes / len(tokenizer.join(sample))


def _holds(folder: Path, tokenizer: Tokenizer, corpus: Corpus) -> bool:
    """Whether a folder holds this tokenizer, trained on this text."""
    try:
        same = Tokenizer.load(folder).sha256 == tokenizer.sha256
    except UserError:
        return False
    return same and origin(folder).data_sha256 == corpus.sha256
