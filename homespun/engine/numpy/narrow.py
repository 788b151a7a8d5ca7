"""Matrices with 16 or 8 bits a weight: float32 weights flow in, products and rows in float32 flow out.

A token reads every weight once, so narrow weights are read in a half or a quarter of the time. The computation itself
stays in float32.

bfloat16 is the upper half of a float32. With 8 bits, a weight is a whole number from -127 to 127 times the scale of its
row, which is the largest weight of the row divided by 127.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from homespun.bfloat16 import from_bfloat16, to_bfloat16
from homespun.engine.base import Floats
from homespun.engine.numpy.products import Place, Products

NarrowPrecision = Literal["bfloat16", "int8"]

MOST_VECTORS = 16
"""With more vectors, a matrix is widened to float32 first: the product of BLAS is faster then."""
WIDENED_AT_A_TIME = 1 << 22
"""Weights. It bounds the memory."""
LARGEST = 127


class Narrow:
    """A matrix [out, in], or several, [E, out, in]; an index of one gives this matrix, a slice of rows these rows."""

    def __init__(
        self,
        values: npt.NDArray[np.uint16] | npt.NDArray[np.int8],
        scales: Floats | None,
        products: Products | None,
    ) -> None:
        """
        Args:
            values: the bits of bfloat16 numbers, or whole numbers with `scales` [..., out].
            products: the compiled functions; without them NumPy computes the same.
        """
        self.values = values
        self.scales = scales
        self.products = products
        self._place = Place(values, scales) if products and values.ndim == 2 else None

    @classmethod
    def empty(
        cls, shape: tuple[int, ...], precision: NarrowPrecision, products: Products | None
    ) -> "Narrow":
        """Memory for a matrix."""
        if precision == "bfloat16":
            return cls(np.empty(shape, np.uint16), None, products)
        return cls(np.empty(shape, np.int8), np.empty(shape[:-1], np.float32), products)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __getitem__(self, place: Any) -> "Narrow":
        scales = None if self.scales is None else self.scales[place]
        return Narrow(self.values[place], scales, self.products)

    def fill(self, weights: Floats) -> None:
        """Round these weights."""
        if self.scales is None:
            self.values[...] = to_bfloat16(weights)
            return
        # A row of zeros has any scale. One with a number that is not finite has such a scale, and so has its output.
        largest = np.abs(weights).max(-1)
        self.scales[...] = np.where(largest == 0, 1, largest / LARGEST)
        with np.errstate(invalid="ignore"):
            np.copyto(self.values, np.rint(weights / self.scales[..., None]), casting="unsafe")

    def rows(self, places: npt.NDArray[np.integer[Any]] | slice) -> Floats:
        """Some rows of one matrix, [..., in]."""
        scales = None if self.scales is None else self.scales[places]
        return _widened(self.values[places], scales)

    def product(self, x: Floats) -> Floats:
        """x [N, in] and one matrix [out, in] -> [N, out]."""
        if self.products is not None and self._place is not None and len(x) <= MOST_VECTORS:
            return self.products.product(x, self._place)
        n_out, n_in = self.shape
        y = np.empty((len(x), n_out), np.float32)
        step = max(1, WIDENED_AT_A_TIME // n_in)
        for start in range(0, n_out, step):
            part = self[start : start + step]
            y[:, start : start + step] = x.dot(part.widened().T)
        return y

    def widened(self) -> Floats:
        """The weights of one matrix in float32."""
        if self.products is not None and self._place is not None:
            return self.products.widened(self._place)
        return _widened(self.values, self.scales)


def _widened(values: npt.NDArray[Any], scales: Floats | None) -> Floats:
    """By NumPy alone."""
    if scales is None:
        return from_bfloat16(values)
    wide: Floats = values * scales[..., None]
    return wide
