"""A stream of tokens flows in, batches flow out. The tokens of sample n follow from n by arithmetic:

    sample number -> (pass, index) -> shuffled index -> first token -> `seq_len + 1` tokens -> inputs, targets

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

ORDER = 2
"""The version of the order in which a run takes its samples. A run that began with another one continues with this."""

GOLDEN_RATIO = 0x9E3779B97F4A7C15
"""As a fraction of 2**64. The places at which passes begin are this far apart, around the text, so that any number of
passes has them evenly spread."""


class TokenSource(Protocol):
    """Any sequence of token ids: a list, an array or token shards."""

    def __len__(self) -> int: ...
    def __getitem__(self, window: slice) -> npt.ArrayLike: ...


class Sampled(Protocol):
    """Shuffled samples by number."""

    def microbatches(self, first: int, batch_size: int, n: int) -> list[Batch]:
        """The next `n * batch_size` samples in `n` batches. The order does not depend on `n`."""


class Dataset(Protocol):
    """Samples of `seq_len` positions."""

    @property
    def samples_per_pass(self) -> int:
        """Number of samples in a pass over the data."""

    def batches(self, seed: int) -> Sampled:
        """The samples in the order of this seed, pass after pass."""

    def targets(self, first: int) -> Tokens:
        """The tokens that a model has to predict, among so many first ones."""


class TextDataset:
    """Token ids as samples of `seq_len` inputs and `seq_len` targets, which are the inputs shifted by one.

    Samples taken by index do not overlap: each token is a target once.
    """

    def __init__(
        self,
        token_ids: TokenSource,
        seq_len: int,
    ) -> None:
        """Divide a text into samples.

        Args:
            token_ids: the text.
            seq_len: number of inputs, and of targets, in a sample.

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

    def __len__(self) -> int:
        return (len(self.token_ids) - 1) // self.seq_len

    def __getitem__(self, idx: int) -> tuple[Tokens, Tokens]:
        """Inputs and targets, [seq_len] each."""
        if not -len(self) <= idx < len(self):
            raise IndexError(f"sample {idx} of {len(self)}")
        tokens = self.tokens(idx % len(self) * self.seq_len, self.seq_len + 1)
        return tokens[:-1], tokens[1:]

    @property
    def samples_per_pass(self) -> int:
        """Number of samples in a pass over the text, in which the last token is followed by the first."""
        return len(self.token_ids) // self.seq_len

    def batches(self, seed: int) -> "Batches":
        """The samples in the order of this seed."""
        return Batches(self, seed)

    def targets(self, first: int) -> Tokens:
        """The first tokens."""
        return np.asarray(self.token_ids[:first], dtype=np.int32)

    def tokens(self, start: int, count: int) -> Tokens:
        """`count` tokens from `start` on, [count]. After the end of the text follows its beginning."""
        tokens = np.asarray(self.token_ids[start : start + count], dtype=np.int32)
        if missing := count - len(tokens):
            beginning = np.asarray(self.token_ids[:missing], dtype=np.int32)
            tokens = np.concatenate((tokens, beginning))
        return tokens


BLOCK_SAMPLES = 256
"""Number of samples whose first tokens are computed together."""


class Batches:
    """Shuffled samples by number, pass after pass.

    The samples of a pass are consecutive windows of the text, shuffled. They begin at another token in each pass, and
    after the last token of the text follows the first. So each token is a target once in a pass, except for
    `n_tokens % seq_len` tokens in a row, which are others in each pass.
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
        """The first tokens of a block of samples, in hardly more time than that of one sample."""
        n_tokens, n = len(self.dataset.token_ids), self.dataset.samples_per_pass
        numbers = np.arange(block * BLOCK_SAMPLES, (block + 1) * BLOCK_SAMPLES, dtype=np.uint64)
        passes, indices = numbers // np.uint64(n), numbers % np.uint64(n)
        seed = np.array([self.seed], dtype=np.uint64)
        [first] = mixed(seed, np.uint64(0))
        starts = np.empty(BLOCK_SAMPLES, dtype=np.int64)
        for number in np.unique(passes):
            inside = passes == number
            [key] = mixed(seed, number)
            begin = (int(first) + int(number) * GOLDEN_RATIO) % (1 << 64) * n_tokens >> 64
            order = permuted(indices[inside], n, key).astype(np.int64)
            starts[inside] = (begin + order * self.dataset.seq_len) % n_tokens
        return [int(start) for start in starts]

    def batch(self, first: int, count: int) -> Batch:
        """The samples `first` to `first + count - 1`, [count, seq_len]."""
        seq_len = self.dataset.seq_len
        tokens = np.stack(
            [self.dataset.tokens(start, seq_len + 1) for start in self.starts(first, count)]
        )
        return Batch(np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:]))

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
    keys = mixed(np.arange(ROUNDS, dtype=np.uint64), key)
    result = indices.astype(np.uint64)
    outside = np.ones(len(result), dtype=bool)
    while outside.any():
        left, right = result[outside] >> half_bits, result[outside] & low
        for round_key in keys:
            scrambled = mixed(right, round_key) & low
            left, right = right, left ^ scrambled
        result[outside] = (left << half_bits) | right
        outside = result >= np.uint64(n)
    return result


def mixed(values: Indices, key: np.uint64) -> Indices:
    """A 64-bit hash with unsigned overflow: the finalizer of SplitMix64 (Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15) * (key + np.uint64(1))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return cast(Indices, z ^ (z >> np.uint64(31)))
