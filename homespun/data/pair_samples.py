"""Preference pairs flow in, batches flow out: two rows for each pair, the better answer first.

A pair is stored as two conversations in a row, in the form of `chat_samples`; the targets are the two last answers. A
sample is one row, so a pair has the samples 2n and 2n + 1.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from homespun.data.batch import Batch, Tokens
from homespun.data.chat_samples import (
    ROW_STEP,
    ChatEncoder,
    Places,
    as_batch,
    flags_of,
    targets_among,
)
from homespun.data.preferences import pair_of
from homespun.data.samples import TokenSource, mixed, permuted
from homespun.errors import UserError
from homespun.tokenizer import ChatTemplate, Message, Rendered


class PairEncoder(ChatEncoder):
    """Encodes documents of pairs for `prepare`: each as two conversations."""

    def __init__(self, template: ChatTemplate) -> None:
        super().__init__(template)
        self.sha256 = hashlib.sha256(f"pairs {template.sha256}".encode()).hexdigest()

    def _conversations(self, documents: Sequence[str]) -> list[list[Message]]:
        return [one for document in documents for one in pair_of(document).conversations()]

    def _rendered(self, documents: Sequence[str]) -> list[Rendered]:
        return [_with_last_answer(one) for one in super()._rendered(documents)]


def _with_last_answer(rendered: Rendered) -> Rendered:
    """The conversation in which only the last answer counts; those before it are part of the question."""
    is_other = np.flatnonzero(~rendered.in_answer)
    last = int(np.flatnonzero(rendered.in_answer)[-1])
    begin = int(is_other[is_other < last][-1]) + 1
    place = np.arange(len(rendered.ids))
    return dataclasses.replace(rendered, in_answer=(place >= begin) & (place <= last))


class PairDataset:
    """A stream of pairs. One with a conversation of more than `seq_len + 1` tokens is left out."""

    def __init__(self, marked: TokenSource, seq_len: int) -> None:
        """
        Args:
            marked: the stream.
            seq_len: the most positions of a row.

        Raises:
            UserError: no pair fits.
        """
        self.marked, self.seq_len = marked, seq_len
        flags = flags_of(marked)
        starts = np.flatnonzero(flags & 2)
        stops = np.flatnonzero(np.diff(np.append(flags & 1, 0).astype(np.int8)) < 0) + 1
        places = np.stack([starts, stops], axis=-1).reshape(-1, 2, 2)
        fits = (places[..., 1] - places[..., 0] <= seq_len + 1).all(axis=1)
        self.n_left_out = int((~fits).sum())
        self._places = places[fits]
        """[n_pairs, 2, 2] First token, and the one after the last, of both conversations of each pair."""
        if not len(self._places):
            raise UserError(
                f"no pair fits into --seq-len {seq_len} with both of its answers: give a larger one"
            )

    @property
    def n_pairs(self) -> int:
        """Number of pairs that fit."""
        return len(self._places)

    @property
    def samples_per_pass(self) -> int:
        """Number of samples: two for each pair."""
        return 2 * self.n_pairs

    @property
    def by_length(self) -> Places:
        """The numbers of all pairs, the shortest first."""
        return np.argsort(self.longest, kind="stable")

    @property
    def longest_row(self) -> int:
        """Tokens of the rows of a batch with the longest pair."""
        return self._row_for(int(self.longest.max()))

    @property
    def longest(self) -> Places:
        """Tokens of the longer conversation of each pair."""
        longest: Places = (self._places[..., 1] - self._places[..., 0]).max(axis=1)
        return longest

    def _row_for(self, n_tokens: int) -> int:
        return min(self.seq_len, -(-(n_tokens - 1) // ROW_STEP) * ROW_STEP)

    def pairs(self, numbers: Iterable[int]) -> Batch:
        """The pairs of these numbers, [2 * len(numbers), T]: the better answer of each, then the other one. T is that
        of the longest, rounded up, so that freed memory fits the next batches."""
        rows = []
        for number in numbers:
            for begin, end in self._places[number].tolist():
                marked = np.asarray(self.marked[begin:end], np.int32)
                rows.append(Rendered(marked >> 2, (marked & 1).astype(np.bool_)))
        return as_batch(rows, self._row_for(max(len(row.ids) for row in rows)))

    def batches(self, seed: int) -> "PairBatches":
        """The pairs in the order of this seed."""
        return PairBatches(self, seed)

    def targets(self, first: int) -> Tokens:
        """The tokens of answers among so many first tokens."""
        return targets_among(self.marked, first)


class PairBatches:
    """Shuffled pairs by the number of their samples, pass after pass; each pass has all pairs once."""

    def __init__(self, dataset: PairDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def numbers(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """The pairs of the samples `first` to `first + count - 1`, [count / 2]; both numbers are even."""
        n = self.dataset.n_pairs
        passes, indices = np.divmod(np.arange(first // 2, (first + count) // 2), n)
        found = np.empty(len(indices), np.int64)
        for number in np.unique(passes):
            here = passes == number
            [key] = mixed(np.array([self.seed], np.uint64), np.uint64(number))
            found[here] = permuted(indices[here].astype(np.uint64), n, key)
        return found

    def microbatches(self, first: int, batch_size: int, n: int) -> list[Batch]:
        """The next `n * batch_size` samples in `n` batches. The order does not depend on `n`."""
        return [
            self.dataset.pairs(self.numbers(first + i * batch_size, batch_size).tolist())
            for i in range(n)
        ]
