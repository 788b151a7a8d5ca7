"""Documents flow in, the samples of one pass over the text flow out: each as pieces of the text, one after the other.

A pass uses every token once. Only `n_tokens % seq_len` tokens in a row are left out of it, because samples are full.
Their place is another one in each pass, so that over many passes each token is used equally often. The rest of the text
is laid out as follows:

- Documents of more than `seq_len` tokens follow each other in random order and are cut into windows of `seq_len`.
- All others, in random order too, are divided into blocks. Inside a block they are packed into samples so that few are
  cut and the cuts leave short rests.

The cuts lie elsewhere in each pass, because its order is another and it begins at another token.

A piece that is the rest of a document has no end-of-text token in front of it. It therefore always begins a sample:
an engine that keeps documents apart by their end-of-text tokens would join it to the document before it.
"""

import functools
from bisect import bisect_left, bisect_right
from typing import cast

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]

BLOCK = 256
"""Number of samples that are laid out together."""

Piece = tuple[int, int]
"""The first of some consecutive tokens of a text, and their number."""
Sample = list[Piece]
"""Pieces of `seq_len` tokens together."""


class Pass:
    """The samples of one pass over a text. Everything follows from the text and the key."""

    def __init__(
        self, documents: Positions, n_tokens: int, seq_len: int, begin: int, key: np.uint64
    ) -> None:
        """Put the documents of the pass into their order.

        Args:
            documents: first tokens of all documents, ascending; the first of them is 0.
            n_tokens: length of the text, at least `seq_len`.
            seq_len: number of tokens in a sample.
            begin: the token with which the pass begins. Those before it are left out.
            key: random bits that choose the order.
        """
        self.seq_len = seq_len
        self.n = n_tokens // seq_len
        """Number of samples."""
        to_order, self._to_mix, self._to_shuffle = mixed(np.arange(3, dtype=np.uint64), key)
        left_out = n_tokens % seq_len
        gap = begin - left_out
        starts = documents
        for cut in (begin, gap % n_tokens):
            at = np.searchsorted(starts, cut)
            if at == len(starts) or starts[at] != cut:
                starts = np.insert(starts, at, cut)
        lengths = np.diff(starts, append=n_tokens)
        in_order = permuted(np.arange(len(starts), dtype=np.uint64), len(starts), to_order)
        first = np.searchsorted(starts, begin)
        is_used = (starts - gap) % n_tokens >= left_out
        is_used[first] = False
        in_order = in_order[is_used[in_order]]
        is_long = lengths[in_order] > seq_len
        # The piece at `begin` may be the rest of a document, which must begin a sample.
        in_order = np.concatenate(([first], in_order[is_long], in_order[~is_long])).astype(np.int64)
        self._starts = starts[in_order]
        self._ends = np.cumsum(lengths[in_order])
        """Of the pieces in the order of the pass."""
        self._n_windows = int(self._ends[np.count_nonzero(is_long)]) // seq_len
        self._block_of_windows = functools.lru_cache(2)(self._windows)
        self._block_of_packed = functools.lru_cache(2)(self._packed)

    def sample(self, index: int) -> Sample:
        """The pieces of a sample. Windows of long documents and packed samples are evenly mixed."""
        n_packed = self.n - self._n_windows
        before = index * n_packed // self.n  # packed samples before this one
        if (index + 1) * n_packed // self.n > before:
            return self._block_of_packed(before // BLOCK)[before % BLOCK]
        window = index - before
        return self._block_of_windows(window // BLOCK)[window % BLOCK]

    def _windows(self, block: int) -> list[Sample]:
        """A block of the windows, which are in random order."""
        last = min((block + 1) * BLOCK, self._n_windows)
        numbers = np.arange(block * BLOCK, last, dtype=np.uint64)
        windows = permuted(numbers, self._n_windows, self._to_mix).astype(np.int64)
        return self._between(windows * self.seq_len)

    def _packed(self, block: int) -> list[Sample]:
        """A block of packed samples, in random order."""
        first = self._n_windows + block * BLOCK
        n = min(BLOCK, self.n - first)
        [[opening, *pieces]] = self._between(np.array([first * self.seq_len]), n * self.seq_len)
        samples = packed(opening, pieces, self.seq_len)
        [key] = mixed(np.array([block], dtype=np.uint64), self._to_shuffle)
        order = permuted(np.arange(n, dtype=np.uint64), n, key)
        return [samples[int(i)] for i in order]

    def _between(self, begins: Positions, length: int | None = None) -> list[Sample]:
        """The pieces from each of the positions on. Positions count the tokens in the order of the pass."""
        ends = begins + (length or self.seq_len)
        firsts = np.searchsorted(self._ends, begins, side="right")
        lasts = np.searchsorted(self._ends, ends, side="left")
        samples = []
        for begin, end, first, last in zip(
            begins.tolist(), ends.tolist(), firsts.tolist(), lasts.tolist(), strict=True
        ):
            starts = self._starts[first : last + 1].tolist()
            piece_ends = self._ends[first : last + 1].tolist()
            at = int(self._ends[first - 1]) if first else 0
            starts[0] += begin - at
            piece_ends[-1] = end
            begun = [begin, *piece_ends[:-1]]
            lengths = (after - before for before, after in zip(begun, piece_ends, strict=True))
            samples.append(list(zip(starts, lengths, strict=True)))
        return samples


def packed(opening: Piece, pieces: Sample, seq_len: int) -> list[Sample]:
    """Arrange pieces in full samples.

    The longest pieces come first. If one of them would leave too little space for any other, it is kept for the next
    sample, where it follows a rest of just that size, and the present sample is filled so that it has such a rest.

    Args:
        opening: begins the first sample.
        pieces: documents from their beginnings, of `seq_len` tokens at most. Together with the first piece they fill
            whole samples.
        seq_len: number of tokens in a sample.
    """
    in_order = sorted((length, start) for start, length in pieces)
    lengths, starts = [length for length, _ in in_order], [start for _, start in in_order]
    samples: list[Sample] = [[]]
    space = seq_len

    def add(start: int, length: int) -> None:
        """Add a piece to the sample. If it is too long, its rest begins the next one."""
        nonlocal space
        if length < space:
            samples[-1].append((start, length))
            space -= length
            return
        samples[-1].append((start, space))
        rest = length - space
        samples.append([(start + space, rest)] if rest else [])
        space = seq_len - rest

    def take(index: int) -> None:
        add(starts.pop(index), lengths.pop(index))

    add(*opening)
    while lengths:
        longest = bisect_right(lengths, space) - 1  # of those that fit
        if longest < 0:
            take(0)
            continue
        left = space - lengths[longest]
        if left == 0 or left >= 2 * lengths[0]:
            take(longest)
        elif space < seq_len:
            cut = longest + 1  # the one that leaves the shortest rest
            is_shorter = cut < len(lengths) and lengths[cut] - space <= lengths[0] - left
            take(cut if is_shorter else longest)
        elif (partner := _index(lengths, left)) is not None and partner < longest:
            take(longest)
            take(partner)
        elif longest < 2:
            take(longest)
        else:
            take(0)
            take(_nearest(lengths, space + left))
    return samples[:-1]


def _index(numbers: list[int], wanted: int) -> int | None:
    """The index of a number in ascending numbers."""
    index = bisect_left(numbers, wanted)
    return index if index < len(numbers) and numbers[index] == wanted else None


def _nearest(numbers: list[int], wanted: int) -> int:
    """The index of the nearest of ascending numbers."""
    index = bisect_left(numbers, wanted, hi=len(numbers) - 1)
    is_below = index > 0 and wanted - numbers[index - 1] < numbers[index] - wanted
    return index - 1 if is_below else index


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
