"""Samples of a new text and of an earlier one flow in; samples of both in one order flow out.

A share of the samples, evenly spread, is of the earlier text: sample n is one of them if floor((n + 1) * share) is more
than floor(n * share). So the position of a run is still one number, from which all follows, and a resumed run goes on
with the same samples.

The two kinds differ in their number of targets: a row of conversations has a few answers, a row of text a target at
each position. Weights make up for it: the loss of a step is (1 - share) times the mean over the targets of the new text
plus share times the mean over those of the earlier one. Where a step has samples of one kind alone, it is their mean.
"""

import math

import numpy as np

from homespun.data.batch import Batch, Tokens, Weights
from homespun.data.samples import Dataset, Sampled


class ReplayDataset:
    """Samples of two texts; a pass has all samples of the new one."""

    def __init__(self, new: Dataset, earlier: Dataset, share: float, document_mark: int) -> None:
        """
        Args:
            new: the text to learn.
            earlier: the text to replay, in samples of the same length.
            share: that of the earlier text among the samples, between 0 and 1.
            document_mark: the token that begins a document.
        """
        self.new, self.earlier, self.share = new, earlier, share
        self.document_mark = document_mark

    @property
    def samples_per_pass(self) -> int:
        """Number of samples in which the new text has all of its own."""
        return math.ceil(self.new.samples_per_pass / (1 - self.share))

    def batches(self, seed: int) -> "ReplayBatches":
        """The samples in the order of this seed."""
        return ReplayBatches(self, seed)

    def targets(self, first: int) -> Tokens:
        """The targets among so many first tokens of the new text."""
        return self.new.targets(first)


class ReplayBatches:
    """Shuffled samples of both texts by number."""

    def __init__(self, dataset: ReplayDataset, seed: int) -> None:
        self._share, self._mark = dataset.share, dataset.document_mark
        self._new: Sampled = dataset.new.batches(seed)
        self._earlier: Sampled = dataset.earlier.batches(seed)

    def microbatches(self, first: int, batch_size: int, n: int) -> list[Batch]:
        """The next `n * batch_size` samples in `n` batches. The order and the weights do not depend on `n`."""
        count = batch_size * n
        before = [math.floor(number * self._share) for number in range(first, first + count + 1)]
        is_earlier = np.diff(before) > 0
        n_earlier = int(is_earlier.sum())
        inputs = np.empty((count, 0), np.int32)
        targets, documents = inputs, inputs
        for kind, samples, start in (
            (~is_earlier, self._new, first - before[0]),
            (is_earlier, self._earlier, before[0]),
        ):
            size = n_earlier if samples is self._earlier else count - n_earlier
            if not size:
                continue
            [batch] = samples.microbatches(start, size, 1)
            if not inputs.size:
                shape = (count, batch.inputs.shape[1])
                inputs, targets, documents = (np.empty(shape, np.int32) for _ in range(3))
            inputs[kind], targets[kind] = batch.inputs, batch.targets
            documents[kind] = documents_of(batch, self._mark)
        whole = Batch(inputs, targets, documents)
        weights = _weights(whole, is_earlier, self._share)
        parts = [slice(i * batch_size, (i + 1) * batch_size) for i in range(n)]
        return [
            Batch(
                inputs[part],
                targets[part],
                documents[part],
                None if weights is None else weights[part],
            )
            for part in parts
        ]


def documents_of(batch: Batch, mark: int) -> Tokens:
    """The number of the document of each position, as an engine finds it by the mark where none is given. [B, T]"""
    if batch.documents is not None:
        return batch.documents
    return np.cumsum(batch.inputs == mark, axis=1, dtype=np.int32)


def _weights(
    batch: Batch, is_earlier: "np.ndarray[tuple[int], np.dtype[np.bool_]]", share: float
) -> Weights | None:
    """The weight of each target in a step, [B, T]; None: all are 1."""
    of_row = batch.is_target.sum(axis=1)
    n_new, n_earlier = int(of_row[~is_earlier].sum()), int(of_row[is_earlier].sum())
    if not n_new or not n_earlier:
        return None
    n = n_new + n_earlier  # the engine divides the sum by this number
    rows = np.where(is_earlier, share * n / n_earlier, (1 - share) * n / n_new)
    return np.repeat(rows[:, None], batch.inputs.shape[1], axis=1).astype(np.float32)
