"""Matrices with 8 bits a weight: a matrix in floating point flows in, products and rows of the rounded one flow out.

The format and its products are MLX's own: a group of weights has a scale and an offset.
"""

from dataclasses import dataclass
from typing import Self

import mlx.core as mx

BITS = 8
GROUP_SIZES = (64, 32)
"""Weights of a row that share a scale. The first size that divides a row is taken."""


@dataclass(frozen=True)
class Packed:
    """A matrix [out, in], or several, [E, out, in]."""

    values: mx.array
    scales: mx.array
    offsets: mx.array
    group_size: int

    @classmethod
    def of(cls, matrix: mx.array) -> Self | None:
        """Round a matrix; None if its rows cannot be divided into groups."""
        sizes = [size for size in GROUP_SIZES if matrix.shape[-1] % size == 0]
        if not sizes:
            return None
        values, scales, offsets = mx.quantize(matrix, group_size=sizes[0], bits=BITS)
        return cls(values, scales, offsets, sizes[0])

    def product(self, x: mx.array) -> mx.array:
        """x [..., in] -> [..., out]."""
        return mx.quantized_matmul(
            x,
            self.values,
            self.scales,
            self.offsets,
            transpose=True,
            group_size=self.group_size,
            bits=BITS,
        )

    def products(self, rows: mx.array, matrices: mx.array) -> mx.array:
        """Rows [N, 1, in], each times one of the matrices [N], sorted by these -> [N, 1, out]."""
        return mx.gather_qmm(
            rows,
            self.values,
            self.scales,
            self.offsets,
            rhs_indices=matrices,
            transpose=True,
            group_size=self.group_size,
            bits=BITS,
            sorted_indices=True,
        )

    def rows(self, places: mx.array) -> mx.array:
        """Some rows of one matrix, [..., in]."""
        parts = (self.values[places], self.scales[places], self.offsets[places])
        return mx.dequantize(*parts, group_size=self.group_size, bits=BITS)

    def widened(self) -> mx.array:
        """The rounded weights."""
        return mx.dequantize(
            self.values, self.scales, self.offsets, group_size=self.group_size, bits=BITS
        )
