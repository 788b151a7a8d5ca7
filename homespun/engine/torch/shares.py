"""The rows of a step flow in; those of one rank come out, and bytes that take a step to another rank."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from homespun.data.batch import IGNORED, PADDING, Batch
from homespun.engine.launcher import Place

Command = dict[str, Any]
"""Told by rank 0 to all others; JSON."""
FILLED = {"inputs": 0, "targets": IGNORED, "documents": PADDING, "weights": 0}
"""The fields of a batch, and their values after the end of a row that is shorter than others."""


def share_of(microbatches: Sequence[Batch], place: Place) -> tuple[int, list[Batch]]:
    """The number of rows of a step before those of a rank, and these rows in micro-batches that are as large at most.

    Each rank takes rows that follow each other, as many as any other or one less. If the number of micro-batches is a
    multiple of that of the ranks, the micro-batches are the same as without ranks.
    """
    whole = _stacked(microbatches)
    n_rows = len(whole["inputs"])
    largest = max(len(batch.inputs) for batch in microbatches)
    start, end = (n_rows * rank // place.size for rank in (place.rank, place.rank + 1))
    cuts = [(at, min(end, at + largest)) for at in range(start, end, largest)]
    return start, [_rows(whole, first, last) for first, last in cuts]


def filled_up(mine: list[Batch], microbatches: Sequence[Batch], place: Place) -> list[Batch]:
    """The micro-batches of a rank, and after them such without targets, so that all ranks have equally many."""
    n_rows = sum(len(batch.inputs) for batch in microbatches)
    largest = max(len(batch.inputs) for batch in microbatches)
    most_rows = max(
        n_rows * (rank + 1) // place.size - n_rows * rank // place.size
        for rank in range(place.size)
    )
    length = max(batch.inputs.shape[1] for batch in microbatches)
    empty = Batch(np.zeros((1, length), np.int32), np.full((1, length), IGNORED, np.int32))
    return mine + [empty] * (-(-most_rows // largest) - len(mine))


def _stacked(microbatches: Sequence[Batch]) -> dict[str, Any]:
    """The arrays of a step by the names of their fields, all rows below each other, and filled up to one length."""
    length = max(batch.inputs.shape[1] for batch in microbatches)
    whole = {}
    for name, value in FILLED.items():
        arrays = [getattr(batch, name) for batch in microbatches]
        if any(array is not None for array in arrays):
            rows = [
                np.pad(a, ((0, 0), (0, length - a.shape[1])), constant_values=value) for a in arrays
            ]
            whole[name] = np.concatenate(rows)
    return whole


def _rows(whole: dict[str, Any], first: int, end: int) -> Batch:
    return Batch(**{name: array[first:end] for name, array in whole.items()})


def sent(microbatches: Sequence[Batch]) -> tuple[Command, bytes]:
    """The arrays of a step, and their types and shapes."""
    whole = _stacked(microbatches)
    arrays = {name: (array.dtype.str, array.shape) for name, array in whole.items()}
    rows = [len(batch.inputs) for batch in microbatches]
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in whole.values())
    return {"arrays": arrays, "rows": rows}, data


def received(command: Command, data: bytes) -> list[Batch]:
    """The inverse of `sent`."""
    whole, at = {}, 0
    for name, (dtype, shape) in command["arrays"].items():
        count = math.prod(shape)
        array = np.frombuffer(data, dtype, count, at).reshape(shape)
        whole[name] = array.copy()  # of its own memory, which may be written
        at += array.nbytes
    ends = list(itertools.accumulate(command["rows"]))
    return [_rows(whole, end - n, end) for n, end in zip(command["rows"], ends, strict=True)]
