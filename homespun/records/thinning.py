"""The values of a curve flow in, the numbers of those that a picture needs come out."""

from typing import Any

import numpy as np


def extremes(values: "np.ndarray[Any, Any]", most: int) -> "np.ndarray[Any, Any]":
    """The numbers of at most `most` values, in order: of each of `most / 2` stretches with equally many values the
    least and the greatest, so that a spike of a single value stays; and the last one.

    Args:
        values: `[n]`, finite.
        most: at least 2.
    """
    n = len(values)
    if n <= most:
        return np.arange(n)
    edges = np.arange(most // 2 + 1) * n // (most // 2)
    starts, lengths = edges[:-1], np.diff(edges)
    # Each stretch is a row; the shorter ones are filled up with their first value.
    columns = np.arange(lengths.max())
    places = starts[:, None] + np.where(columns < lengths[:, None], columns, 0)
    rows = values[places]
    kept = np.concatenate([starts + rows.argmin(axis=1), starts + rows.argmax(axis=1)])
    found = np.unique(kept)
    found[-1] = n - 1
    return found
