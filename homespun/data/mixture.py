"""Several texts with weights flow in, one stream of samples, of documents or of validation tokens flows out.

The weights are shares of the tokens that a run learns from. A text that is used up begins again, in another order. The
text of sample n, and its number in that text, follow from n by arithmetic, as everything in `samples` does.
"""

import functools
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.data.batch import Batch, Tokens
from homespun.data.samples import TextDataset, mixed, permuted
from homespun.data.shards import Ids, TokenStream

BLOCK = 4096
"""Samples in which each text has its share, but for one."""
PIECE = 4096
"""Tokens of a text that follow each other in the mixed validation text."""
MAX_VALIDATION = 1 << 25
"""Tokens of the mixed validation text. No evaluation reads as many."""


class MixedDataset:
    """Samples of several texts. A pass has as many samples as the texts have together."""

    def __init__(self, datasets: Sequence[TextDataset], weights: Sequence[int]) -> None:
        self.datasets, self.weights = tuple(datasets), tuple(weights)

    @property
    def samples_per_pass(self) -> int:
        """Number of samples in all texts."""
        return sum(dataset.samples_per_pass for dataset in self.datasets)

    def batches(self, seed: int) -> "MixedBatches":
        """The samples in the order of this seed."""
        return MixedBatches(self, seed)

    def targets(self, first: int) -> Tokens:
        """First tokens of each text, by its share."""
        total = sum(self.weights)
        parts = [
            dataset.targets(first * weight // total)
            for dataset, weight in zip(self.datasets, self.weights, strict=True)
        ]
        return np.concatenate(parts)

    def described(self, names: Sequence[str]) -> Iterator[str]:
        """A line for each text: its share, and how often it is used in a pass."""
        total = sum(self.weights)
        for name, dataset, weight in zip(names, self.datasets, self.weights, strict=True):
            times = self.samples_per_pass * weight / total / dataset.samples_per_pass
            often = f"{times:.2g}" if times < 10 else f"{times:,.0f}"
            yield f"Mixture: {weight / total:.1%} {name}, used {often} times in a pass."


class MixedBatches:
    """Shuffled samples by number: of the first m samples, text i has its share, exactly wherever `BLOCK` divides m."""

    def __init__(self, dataset: MixedDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self._of_text = [one.batches(seed) for one in dataset.datasets]
        self._ends = list(accumulate(dataset.weights))
        self._block = functools.lru_cache(2)(self._numbers)

    def places(self, first: int, count: int) -> list[tuple[int, int]]:
        """For the samples `first` to `first + count - 1`: the text, and the number of the sample in it."""
        numbers = range(first, first + count)
        return [self._block(number // BLOCK)[number % BLOCK] for number in numbers]

    def _counts(self, n: int) -> list[int]:
        """How many of the first n samples each text has."""
        ends = [n * end // self._ends[-1] for end in self._ends]
        return [end - begin for begin, end in pairwise([0, *ends])]

    def _numbers(self, block: int) -> list[tuple[int, int]]:
        """The places of the samples of a block."""
        before, after = self._counts(block * BLOCK), self._counts((block + 1) * BLOCK)
        inside = [
            (text, number)
            for text, (begin, end) in enumerate(zip(before, after, strict=True))
            for number in range(begin, end)
        ]
        [key] = mixed(np.array([self.seed], dtype=np.uint64), np.uint64(block))
        order = permuted(np.arange(BLOCK, dtype=np.uint64), BLOCK, key)
        return [inside[at] for at in order.tolist()]

    def batch(self, first: int, count: int) -> Batch:
        """The samples `first` to `first + count - 1`, [count, seq_len]."""
        rows = [self._of_text[text].batch(number, 1) for text, number in self.places(first, count)]
        return Batch(
            np.concatenate([row.inputs for row in rows]),
            np.concatenate([row.targets for row in rows]),
        )

    def microbatches(self, first: int, batch_size: int, n: int) -> list[Batch]:
        """The next `n * batch_size` samples in `n` batches. The order does not depend on `n`."""
        return [self.batch(first + i * batch_size, batch_size) for i in range(n)]


class _Window:
    """A part of a sequence of ids."""

    def __init__(self, ids: Ids, start: int, stop: int) -> None:
        self._ids, self._start, self._stop = ids, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, window: slice) -> npt.NDArray[np.integer[Any]]:
        start, stop, _ = window.indices(len(self))
        return self._ids[self._start + start : self._start + stop]


def mixed_stream(streams: Sequence[TokenStream], weights: Sequence[int]) -> TokenStream:
    """Pieces of several streams in turn, so that every beginning has about the shares of the weights, until the first
    stream ends."""
    windows: list[_Window] = []
    turns = interleaved(weights)
    used = [0] * len(streams)
    total = 0
    while total < MAX_VALIDATION:
        text = next(turns)
        stop = min(used[text] + PIECE, len(streams[text]))
        windows.append(_Window(streams[text], used[text], stop))
        total += stop - used[text]
        used[text] = stop
        if stop == len(streams[text]):
            break
    return TokenStream(windows)


def interleaved(weights: Sequence[int]) -> Iterator[int]:
    """Whose turn it is, for ever: the one that has had the least for its weight."""
    had = [0] * len(weights)
    while True:
        turn = min(range(len(weights)), key=lambda one: ((had[one] + 1) / weights[one], one))
        had[turn] += 1
        yield turn
