"""Matrices with 16 or 8 bits a weight: float32 weights flow in, products and rows in float32 flow out.

A token reads every weight once, so narrow weights are read in a half or a quarter of the time. This module widens them
to float32 and computes with NumPy alone, which is slow. `panels.py` does the same with compiled products, which may
round the vectors, too, and is checked against it.

bfloat16 is the upper half of a float32. With 8 bits, a weight is a whole number from -127 to 127 times the scale of its
row, which is the largest weight of the row divided by 127.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from homespun.bfloat16 import from_bfloat16, to_bfloat16
from homespun.engine.base import Floats

NarrowPrecision = Literal["bfloat16", "int8"]
Cache = Floats | npt.NDArray[np.uint16]
"""Keys and values, in float32 or as the bits of bfloat16."""

WIDENED_AT_A_TIME = 1 << 22
"""Weights. It bounds the memory."""
LARGEST = 127


class Narrow:
    """A matrix [out, in], or several, [E, out, in]; an index of one gives this matrix, a slice of rows these rows."""

    def __init__(
        self, values: npt.NDArray[np.uint16] | npt.NDArray[np.int8], scales: Floats | None
    ) -> None:
        """
        Args:
            values: the bits of bfloat16 numbers, or whole numbers with `scales` [..., out].
        """
        self.values = values
        self.scales = scales

    @classmethod
    def empty(cls, shape: tuple[int, ...], precision: NarrowPrecision) -> "Narrow":
        """Memory for a matrix."""
        if precision == "bfloat16":
            return cls(np.empty(shape, np.uint16), None)
        return cls(np.empty(shape, np.int8), np.empty(shape[:-1], np.float32))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __getitem__(self, place: Any) -> "Narrow":
        return Narrow(self.values[place], None if self.scales is None else self.scales[place])

    def fill(self, weights: Floats) -> None:
        """Round these weights."""
        values, scales = rounded(weights, "bfloat16" if self.scales is None else "int8")
        self.values[...] = values
        if self.scales is not None:
            self.scales[...] = scales

    def rows(self, places: npt.NDArray[np.integer[Any]] | slice) -> Floats:
        """Some rows of one matrix, [..., in]."""
        scales = None if self.scales is None else self.scales[places]
        return widened(self.values[places], scales)

    def product(self, x: Floats) -> Floats:
        """x [N, in] and one matrix [out, in] -> [N, out]."""
        n_out, n_in = self.shape
        y = np.empty((len(x), n_out), np.float32)
        step = max(1, WIDENED_AT_A_TIME // n_in)
        for start in range(0, n_out, step):
            part = self[start : start + step]
            y[:, start : start + step] = x.dot(part.widened().T)
        return y

    def widened(self) -> Floats:
        """The weights of one matrix in float32."""
        return widened(self.values, self.scales)


def rounded(weights: Floats, precision: NarrowPrecision) -> tuple[npt.NDArray[Any], Floats | None]:
    """The nearest narrow weights [..., in], and with 8 bits the scales [...]."""
    if precision == "bfloat16":
        return to_bfloat16(weights), None
    # A row of zeros has any scale. One with a number that is not finite has such a scale, and so has its output.
    largest = np.abs(weights).max(-1)
    scales: Floats = np.where(largest == 0, np.float32(1), largest / np.float32(LARGEST))
    with np.errstate(invalid="ignore"):
        return np.rint(weights / scales[..., None]).astype(np.int8), scales


def widened(values: npt.NDArray[Any], scales: Floats | None) -> Floats:
    """Narrow weights [..., in] in float32, times their scales [...]."""
    if scales is None:
        return from_bfloat16(values)
    wide: Floats = values * scales[..., None]
    return wide


def in_float32(cache: Cache) -> Floats:
    """Keys and values in float32."""
    return (
        from_bfloat16(cache.view(np.uint16)) if cache.dtype == np.uint16 else cache.view(np.float32)
    )
