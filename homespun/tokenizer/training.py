"""Documents flow in, a tokenizer flows out: BPE merges learned from a sample that fits in memory."""

import json
import re
import sys
from collections.abc import Iterable
from itertools import chain

from homespun.errors import UserError
from homespun.tokenizer.byte_level import BYTES, byte_alphabet
from homespun.tokenizer.byte_level_bpe import END_OF_TEXT, ByteLevelBPE
from homespun.tokenizer.tokenizer import Tokenizer
from homespun.tokenizer.utf8 import utf8

SAMPLE_BYTES = 100_000_000
"""Memory of the sample; at this size no count of a pair comes near 2^31."""
SAMPLE_WORD_BYTES = 5_000_000
"""Distinct words in the sample: the trainer needs some 100 bytes of memory for each byte of them."""
SAMPLE_PIECE = 1 << 10
"""Characters in a piece of the sample. It bounds the words: each merge rewrites all words that contain it."""


def train(
    documents: Iterable[str],
    vocab_size: int,
    *,
    max_bytes: int = SAMPLE_BYTES,
    max_word_bytes: int = SAMPLE_WORD_BYTES,
) -> Tokenizer:
    """Learn the merges from the documents, or from a sample that is spread evenly over them.

    Equal documents give an equal tokenizer, on any machine. They are read once, in less than 1 GB. The vocabulary is
    smaller than requested if no other pair of tokens occurs twice. Every larger request then gives the same tokenizer.

    Args:
        documents: the text.
        vocab_size: number of tokens at most, at least 257.
        max_bytes: bound of the sample, see `SAMPLE_BYTES`.
        max_word_bytes: bound of the sample, see `SAMPLE_WORD_BYTES`.

    Raises:
        UserError: the vocabulary is too small for the bytes, or the text holds a lone surrogate.
    """
    from tokenizers import trainers

    if vocab_size <= BYTES:
        raise UserError(
            f"a vocabulary of {vocab_size} has no room for the {BYTES} bytes; "
            f"take {BYTES + 1} or more"
        )
    untrained = ByteLevelBPE({}, [])
    cut = untrained.splitting.pieces
    pieces = chain.from_iterable(cut(document, SAMPLE_PIECE) for document in documents)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,  # a pair that occurs once is no pattern
        special_tokens=[END_OF_TEXT],
        initial_alphabet=list(byte_alphabet()),
        show_progress=False,
    )
    library = untrained.encoder()
    library.train_from_iterator(sample(pieces, max_bytes, max_word_bytes), trainer)
    learned = json.loads(library.to_str())["model"]
    merges = [(left, right) for left, right in learned["merges"]]
    return Tokenizer(ByteLevelBPE(learned["vocab"], merges))


def sample(pieces: Iterable[str], max_bytes: int, max_word_bytes: int) -> list[str]:
    """All pieces, or every 2nd, 4th, ... of them: as many as fit both bounds, and at least one."""
    kept: list[str] = []
    stride, size = 1, _SampleSize()
    for number, piece in enumerate(pieces):
        if number % stride:
            continue
        kept.append(piece)
        size.add(piece)
        while (size.n_bytes > max_bytes or size.word_bytes > max_word_bytes) and len(kept) > 1:
            kept, stride, size = kept[::2], 2 * stride, _SampleSize()
            for piece in kept:
                size.add(piece)
    return kept


class _SampleSize:
    """The memory that a text takes, and the bytes of its distinct words (runs of letters or of signs)."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self.word_bytes = 0
        self._words: set[str] = set()

    def add(self, text: str) -> None:
        self.n_bytes += sys.getsizeof(text)
        new = set(re.findall(r"\w+|[^\w\s]+", text)) - self._words
        self._words |= new
        self.word_bytes += sum(len(utf8(word)) for word in new)
