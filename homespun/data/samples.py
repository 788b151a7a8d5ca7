"""A stream of tokens flows in, batches flow out. The tokens of sample n follow from n by arithmetic:

    sample number -> (epoch, index) -> shuffled index -> first token -> `seq_len + 1` tokens -> inputs, targets

There is no iterator with hidden state. A run stores only the number of its next sample and can resume anywhere.
"""

import functools
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from homespun.data.batch import Batch, Tokens
from homespun.errors import UserError
from homespun.terminal import counted

Indices = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]


class TokenSource(Protocol):
    """Any sequence of token ids: a list, an array or token shards."""

    def __len__(self) -> int: ...
    def __getitem__(self, window: slice) -> npt.ArrayLike: ...


class TextDataset:
    """Token ids as samples of `seq_len` inputs and `seq_len` targets, which are the inputs shifted by one.

    Samples taken by index do not overlap: each token is a target once.
    """

    def __init__(
        self,
        token_ids: TokenSource,
        seq_len: int,
        document_starts: Positions | None = None,
    ) -> None:
        """Divide a text into samples.

        Args:
            token_ids: the text.
            seq_len: number of inputs, and of targets, in a sample.
            document_starts: ascending positions of the end-of-text tokens that begin the documents; see
                `moved_to_document`.

        Raises:
            UserError: the text is shorter than a sample.
        """
        if len(token_ids) <= seq_len:
            raise UserError(
                f"the text has {counted(len(token_ids), 'token')}, too few for one sample of --seq-len {seq_len}: "
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
        """The sample that begins at token `start`, [seq_len] each. After the end of the text follows its beginning."""
        end = start + self.seq_len + 1
        tokens = np.asarray(self.token_ids[start:end], dtype=np.int32)
        if end > len(self.token_ids):
            rest = np.asarray(
                self.token_ids[: end - max(start, len(self.token_ids))], dtype=np.int32
            )
            tokens = np.concatenate((tokens, rest))
        return tokens[:-1], tokens[1:]

    def moved_to_document(self, starts: Positions) -> Positions:
        """Move each start to the beginning of its document if that is less than `seq_len` tokens before it.

        A sample that starts inside a short document asks for names and facts that were given before the sample. That
        is noise for the model, which always reads such a document from its beginning when it is used. Starts that are
        `seq_len` apart stay different, because no two of them lie in the first `seq_len` tokens of one document.
        """
        if not len(self.document_starts):
            return starts
        document = np.searchsorted(self.document_starts, starts, side="right") - 1
        begins = self.document_starts[np.maximum(document, 0)]
        return np.where((document >= 0) & (starts - begins < self.seq_len), begins, starts)


BLOCK_SAMPLES = 256
"""Number of samples whose starts are computed together."""


class Batches:
    """Shuffled samples by number, epoch after epoch.

    Each epoch has its own order and begins at its own token within the first `seq_len`. The windows therefore differ
    between epochs, and every token at the end of the text is used in some of them.
    """

    def __init__(self, dataset: TextDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self._block = functools.lru_cache(2)(self._starts)

    def starts(self, first: int, count: int) -> list[int]:
        """The first tokens of the samples `first` to `first + count - 1`."""
        numbers = range(first, first + count)
        return [self._block(number // BLOCK_SAMPLES)[number % BLOCK_SAMPLES] for number in numbers]

    def _starts(self, block: int) -> list[int]:
        """The starts of a block of samples, in hardly more time than the start of one sample."""
        n = len(self.dataset)
        numbers = np.arange(block * BLOCK_SAMPLES, (block + 1) * BLOCK_SAMPLES, dtype=np.uint64)
        epochs, indices = numbers // np.uint64(n), numbers % np.uint64(n)
        starts = np.empty(BLOCK_SAMPLES, dtype=np.int64)
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
        """The next `n * batch_size` samples in `n` batches. The order does not depend on `n`."""
        return [self.batch(first + i * batch_size, batch_size) for i in range(n)]


ROUNDS = 4


def permuted(indices: Indices, n: int, key: np.uint64) -> Indices:
    """Apply a permutation of 0 .. n - 1, chosen by `key`, to each index. No table of the permutation is needed.

    It is a Feistel network over the smallest power of four that is at least n. Results of n or more go through the
    network again until they are below n (Black and Rogaway, 2002).
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
    """A 64-bit hash with unsigned overflow: the finalizer of SplitMix64 (Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15) * (key + np.uint64(1))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return cast(Indices, z ^ (z >> np.uint64(31)))
