"""Matrices for the compiled products: float32 weights flow in, products and rows in float32 flow out.

A matrix [out, in] lies in panels of 32 rows, as `products.c` reads them: [out / 32, in / group, 32, group], where a
group is as many inputs as the processor multiplies at once. Its weights have 32 bits, or 16 or 8 as in `narrow.py`.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.engine.base import Floats
from homespun.engine.numpy.narrow import NarrowPrecision, rounded, widened
from homespun.engine.numpy.products import PANEL, Place, Products

LINE = 64
"""Bytes that a processor reads from the memory at a time."""
DTYPES: dict[NarrowPrecision | None, npt.DTypeLike] = {
    None: np.float32,
    "bfloat16": np.uint16,
    "int8": np.int8,
}


class Memory:
    """One array for the weights of a model, which the system maps in large pages: this saves time in each product."""

    def __init__(self, size: int) -> None:
        """`size` in bytes, each array rounded up by `padded`."""
        whole = np.empty(size + LINE, np.uint8)
        self._free = whole[-whole.ctypes.data % LINE :]

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The next part, which begins with a line of the memory."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        taken, self._free = self._free[:size], self._free[padded(size) :]
        return taken.view(dtype).reshape(shape)


def padded(size: int) -> int:
    """Bytes that an array of `size` bytes takes of a `Memory`."""
    return -size % LINE + size


class Panels:
    """A matrix [out, in], or several, [E, out, in], of which an index gives one. `part` gives some rows."""

    def __init__(
        self,
        values: npt.NDArray[Any],
        scales: Floats | None,
        products: Products,
        first: int,
        n_out: int,
        n_in: int,
    ) -> None:
        """
        Args:
            values: [..., panels, in / group, 32, group]; the rest of the last panel and group is zero.
            scales: of the rows, [..., panels * 32], with 8 bits.
            first: the first of the rows.
            n_out: the number of rows.
            n_in: the number of columns.
        """
        self.values = values
        self.scales = scales
        self.products = products
        self._first = first
        self._n_out = n_out
        self._n_in = n_in
        self._place: Place | None = None

    @staticmethod
    def size(shape: tuple[int, ...], precision: NarrowPrecision | None, products: Products) -> int:
        """Bytes of a `Memory` that a matrix takes."""
        dtype = np.dtype(DTYPES[precision])
        rows = math.prod(shape[:-2]) * _up(shape[-2], PANEL)
        size = padded(rows * _up(shape[-1], products.groups[dtype]) * dtype.itemsize)
        return size + (padded(4 * rows) if precision == "int8" else 0)

    @classmethod
    def empty(
        cls,
        shape: tuple[int, ...],
        precision: NarrowPrecision | None,
        products: Products,
        memory: Memory | None = None,
    ) -> "Panels":
        """Room for a matrix, in an array of its own or in one of many."""
        memory = memory or Memory(cls.size(shape, precision, products))
        *several, n_out, n_in = shape
        dtype = np.dtype(DTYPES[precision])
        group = products.groups[dtype]
        n_panels, n_groups = _up(n_out, PANEL) // PANEL, _up(n_in, group) // group
        values = memory.array((*several, n_panels, n_groups, PANEL, group), dtype)
        values[..., -1, :, n_out % PANEL or PANEL :, :] = 0
        values[..., -1, :, n_in % group or group :] = 0
        scales = None
        if precision == "int8":
            scales = memory.array((*several, n_panels * PANEL), np.float32)
        return cls(values, scales, products, 0, n_out, n_in)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.values.shape[:-4], self._n_out, self._n_in)

    def __getitem__(self, number: int) -> "Panels":
        values, scales = self.values[number], None if self.scales is None else self.scales[number]
        return Panels(values, scales, self.products, self._first, self._n_out, self._n_in)

    def part(self, first: int, end: int) -> "Panels":
        """Rows of the matrix, to be filled or read, but not multiplied."""
        start = self._first + first
        return Panels(self.values, self.scales, self.products, start, end - first, self._n_in)

    def fill(self, weights: Floats) -> None:
        """Take these weights, and round them where they are narrow."""
        if weights.ndim > 2:
            for number, one in enumerate(weights):
                self[number].fill(one)
            return
        precision = {np.dtype(np.uint16): "bfloat16", np.dtype(np.int8): "int8"}
        narrow: Any = precision.get(self.values.dtype)
        values, scales = rounded(weights, narrow) if narrow else (weights, None)
        places = self._first + np.arange(self._n_out)
        if self._n_in % self.values.shape[-1]:
            values = np.pad(values, ((0, 0), (0, -self._n_in % self.values.shape[-1])))
        n_groups, _, group = self.values.shape[-3:]
        self.values[places // PANEL, :, places % PANEL] = values.reshape(-1, n_groups, group)
        if self.scales is not None:
            self.scales[places] = scales

    def rows(self, places: npt.NDArray[np.integer[Any]] | slice) -> Floats:
        """Some rows of one matrix, [..., in]."""
        if isinstance(places, slice):
            places = np.arange(self._n_out)[places]
        places = places + self._first
        found = self.values[places // PANEL, :, places % PANEL]  # [..., in / group, group]
        found = found.reshape(*places.shape, -1)[..., : self._n_in]
        if found.dtype == np.float32:
            return found
        return widened(found, None if self.scales is None else self.scales[places])

    def product(self, x: Floats, bias: Floats | None = None) -> Floats:
        """x [N, in] and one matrix [out, in] -> [N, out], plus `bias` [out]."""
        return self.products.product(x, self._placed(), bias)

    def grouped_product(self, x: Floats, ends: npt.NDArray[np.int64]) -> Floats:
        """x [N, in] and several matrices [E, out, in] -> [N, out], as in `layers.grouped_linear`."""
        return self.products.products(x, ends, self._placed())

    def _placed(self) -> Place:
        if self._place is None:
            assert self._first == 0
            self._place = Place(self.values, self.scales, self._n_out, self._n_in)
        return self._place

    def widened(self) -> Floats:
        """The weights of one matrix or of all in float32."""
        if self.values.ndim > 4:
            return np.stack([self[number].widened() for number in range(len(self.values))])
        return self.rows(slice(None))


def _up(n: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -n % unit + n
