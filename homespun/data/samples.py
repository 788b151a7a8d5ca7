"""A stream of tokens in, batches out: which tokens make up sample number n is arithmetic, so a run can go on anywhere.

    sample number -> (epoch, index) -> shuffled index -> first token -> `seq_len + 1` tokens -> inputs, targets

There is no iterator with hidden state: a run remembers the number of the next sample and nothing else.
"""

import functools
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from homespun.data.batch import Batch, Tokens
from homespun.errors import UserError

Indices = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]


class TokenSource(Protocol):
    """Any sequence of token ids: a list, an array, or token shards."""

    def __len__(self) -> int: ...
    def __getitem__(self, window: slice) -> npt.ArrayLike: ...


class TextDataset:
    """Token ids as samples of `seq_len` inputs and the `seq_len` targets that follow them by one.

    By index, samples do not overlap: each token is a target once. `document_starts`, ascending, are the positions of
    the marks that documents begin with, see `moved_to_document`.
    """

    def __init__(
        self,
        token_ids: TokenSource,
        seq_len: int,
        document_starts: Positions | None = None,
    ) -> None:
        if len(token_ids) <= seq_len:
            raise UserError(
                f"the text has {len(token_ids):,} tokens, too few for one sample of --seq-len {seq_len}: "
                "give more text or a shorter --seq-len"
            )
        self.token_ids = token_ids
        self.seq_len = seq_len
        self.document_starts = (
            np.empty(0, dtype=np.int64) if document_starts is None else document_starts
        )

    def __len__(self) -> int:
        return (len(self.token_ids) - 1) // self.seq_len

    def __getitem__(self, idx: int) -> tuple[Tokens, Tokens]:
        """Inputs and targets, [seq_len] each."""
        if not -len(self) <= idx < len(self):
            raise IndexError(f"sample {idx} of {len(self)}")
        return self.at(idx % len(self) * self.seq_len)

    def at(self, start: int) -> tuple[Tokens, Tokens]:
        """The sample that begins at a token; past the end of the text it goes on at the beginning."""
        end = start + self.seq_len + 1
        tokens = np.asarray(self.token_ids[start:end], dtype=np.int32)
        if end > len(self.token_ids):
            rest = np.asarray(
                self.token_ids[: end - max(start, len(self.token_ids))], dtype=np.int32
            )
            tokens = np.concatenate((tokens, rest))
        return tokens[:-1], tokens[1:]

    def moved_to_document(self, starts: Positions) -> Positions:
        """Each start, or the beginning of its document where that is less than `seq_len` tokens before it.

        A sample that begins amid a short document asks for names and facts that only the part before it gives:
        noise for the model, which will always read such a document from its beginning. Starts that are `seq_len`
        apart stay different, since no two of them lie in the first `seq_len` tokens of one document.
        """
        if not len(self.document_starts):
            return starts
        document = np.searchsorted(self.document_starts, starts, side="right") - 1
        begins = self.document_starts[np.maximum(document, 0)]
        return np.where((document >= 0) & (starts - begins < self.seq_len), begins, starts)


AT_ONCE = 256
"""Samples whose places in the text are computed together."""


class Batches:
    """Shuffled samples by number, pass after pass.

    Each pass has an order of its own and begins at a token of its own within the first `seq_len`, so that windows fall
    differently and no end of a text is lost for good.
    """

    def __init__(self, dataset: TextDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self._block = functools.lru_cache(2)(self._starts)

    def starts(self, first: int, count: int) -> list[int]:
        """The first tokens of the samples `first` to `first + count - 1`."""
        numbers = range(first, first + count)
        return [self._block(number // AT_ONCE)[number % AT_ONCE] for number in numbers]

    def _starts(self, block: int) -> list[int]:
        """Those of `AT_ONCE` samples, in hardly more time than those of one."""
        n = len(self.dataset)
        numbers = np.arange(block * AT_ONCE, (block + 1) * AT_ONCE, dtype=np.uint64)
        epochs, indices = numbers // np.uint64(n), numbers % np.uint64(n)
        starts = np.empty(AT_ONCE, dtype=np.int64)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            key = _mix(np.array([self.seed], dtype=np.uint64), np.uint64(epoch))[0]
            offset = int(key % np.uint64(self.dataset.seq_len))
            starts[inside] = (
                permuted(indices[inside], n, key).astype(np.int64) * self.dataset.seq_len + offset
            )
        return [int(start) for start in self.dataset.moved_to_document(starts)]

    def batch(self, first: int, count: int) -> Batch:
        """The samples `first` to `first + count - 1`, [count, seq_len]."""
        samples = [self.dataset.at(start) for start in self.starts(first, count)]
        return Batch(
            np.stack([inputs for inputs, _ in samples]),
            np.stack([targets for _, targets in samples]),
        )

    def microbatches(self, first: int, batch_size: int, n: int) -> list[Batch]:
        """The next `n * batch_size` samples in `n` batches; how they are divided changes nothing in their order."""
        return [self.batch(first + i * batch_size, batch_size) for i in range(n)]


ROUNDS = 4


def permuted(indices: Indices, n: int, key: np.uint64) -> Indices:
    """Where a permutation of 0 .. n - 1, chosen by `key`, puts each index; needs no memory for the others.

    A Feistel network over the smallest square of a power of two that holds n, walked until the result is below n (Black
    and Rogaway, 2002).
    """
    half_bits = np.uint64(max(1, ((max(2, n) - 1).bit_length() + 1) >> 1))
    low = np.uint64((1 << int(half_bits)) - 1)
    keys = _mix(np.arange(ROUNDS, dtype=np.uint64), key)
    result = indices.astype(np.uint64)
    outside = np.ones(len(result), dtype=bool)
    while outside.any():
        left, right = result[outside] >> half_bits, result[outside] & low
        for round_key in keys:
            mixed = _mix(right, round_key) & low
            left, right = right, left ^ mixed
        result[outside] = (left << half_bits) | right
        outside = result >= np.uint64(n)
    return result


def _mix(values: Indices, key: np.uint64) -> Indices:
    """A 64-bit hash (the finalizer of SplitMix64, Steele et al., 2014); wraps around as unsigned numbers do."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15) * (key + np.uint64(1))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return cast(Indices, z ^ (z >> np.uint64(31)))
