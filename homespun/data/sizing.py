"""A surveyed text and perhaps a tokenizer flow in; the number of its tokens comes out, and nothing is written."""

import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from homespun.data.chat_samples import Places, lengths_of
from homespun.data.corpus import Corpus
from homespun.data.prepare import Encoder, already_prepared
from homespun.data.samples import TokenSource
from homespun.terminal import bar
from homespun.tokenizer import train

SAMPLE_BYTES = 2_000_000
"""Of the training text: as much is read where tokens are estimated."""
COMPRESSED_BYTES = 1_000_000
"""Of the training text: as much is compressed to see how predictable it is."""


@dataclass(frozen=True)
class TokenCount:
    """The tokens of both sides of a text, with an end-of-text token for each document."""

    training: int
    validation: int
    vocab_size: int
    n_documents: int
    """Of the training side, in proportion to its bytes."""
    bytes_per_token: float
    """Of the validation side, on which losses are measured."""
    estimated_from: str | None
    """None if the tokens were counted, else how they were estimated."""
    conversations: TokenSource | None = field(default=None, compare=False, repr=False)
    """Those that were counted, in the form of `chat_samples`, two in a row for each pair; None for a text."""

    @property
    def lengths(self) -> Places | None:
        """Tokens of each conversation."""
        return None if self.conversations is None else lengths_of(self.conversations)

    @property
    def longest(self) -> int | None:
        """Tokens of the longest conversation."""
        return None if self.lengths is None else int(self.lengths.max())

    @property
    def document_tokens(self) -> float:
        """Mean length of a document."""
        return self.training / max(1, self.n_documents)


def count_tokens(
    corpus: Corpus, tokenizer: Encoder | None, vocab_size: int, folder: Path
) -> TokenCount:
    """Count the tokens if they are in the folder of tokens; otherwise estimate them from a sample of the text.

    Args:
        corpus: the text.
        tokenizer: encodes it, or its conversations; None if a run would train one.
        vocab_size: of the tokenizer that a run would train.
        folder: of tokens.

    Raises:
        UserError: the text cannot be read.
    """
    training_bytes = corpus.n_bytes - corpus.validation_bytes
    documents = max(1, round(corpus.n_documents * training_bytes / corpus.n_bytes))
    if tokenizer and (prepared := already_prepared(corpus, tokenizer, folder)):
        streams = [source.validation for source in prepared.sources] or [prepared.validation]
        return TokenCount(
            len(prepared.training),
            len(prepared.validation),
            tokenizer.vocab_size,
            documents,
            corpus.validation_bytes / sum(map(len, streams)),
            estimated_from=None,
            conversations=prepared.training if corpus.is_chat else None,
        )
    with bar("Estimating the number of tokens", None):
        cuts = not corpus.is_chat
        sample = list(_first(corpus.training(), SAMPLE_BYTES, cuts=cuts))
        n_bytes = sum(len(document.encode()) for document in sample)
        how = f"{n_bytes / 1e6:.1f} MB of the text"
        if tokenizer is None:
            tokenizer = train(sample, vocab_size)
            how = f"a tokenizer trained on {how}, which is not kept"
        stream = tokenizer.join(sample)
        per_byte = len(stream) / n_bytes
        held_out = list(_first(corpus.validation(), SAMPLE_BYTES, cuts=cuts))
        held_out_bytes = sum(len(document.encode()) for document in held_out)
        bytes_per_token = held_out_bytes / len(tokenizer.join(held_out))
    return TokenCount(
        round(per_byte * training_bytes),
        round(corpus.validation_bytes / bytes_per_token),
        tokenizer.vocab_size,
        documents,
        bytes_per_token,
        how,
        stream if corpus.is_chat else None,
    )


def _first(documents: Iterable[str], n_bytes: int, *, cuts: bool = True) -> Iterator[str]:
    """The first documents that have so many bytes together, the last one cut, unless none may be."""
    for document in documents:
        encoded = document.encode()
        fits = len(encoded) <= n_bytes or not cuts
        yield document if fits else encoded[:n_bytes].decode(errors="ignore")
        n_bytes -= len(encoded)
        if n_bytes <= 0:
            return


def compressed_bits_per_byte(corpus: Corpus) -> float:
    """How well xz compresses the beginning of the training text: a measure of how predictable it is.

    Raises:
        UserError: the text cannot be read.
    """
    sample = "\n".join(_first(corpus.training(), COMPRESSED_BYTES)).encode()
    return 8 * len(lzma.compress(sample, preset=6)) / max(1, len(sample))
