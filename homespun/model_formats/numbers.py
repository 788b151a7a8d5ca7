"""Arrays flow in, the same values in the number formats of other programs' files flow out, and back.

NumPy has no bfloat16. Its numbers are the upper halves of float32, and stand here as their 16 bits.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def to_bfloat16(values: Floats) -> npt.NDArray[np.uint16]:
    """The bits of the nearest bfloat16 numbers; of two that are equally near, the even one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet = (bits >> 16) | 0x40  # rounding would turn some NaNs into infinities
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> Floats:
    """The exact values of bfloat16 numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def in_precision(values: Floats, precision: str) -> npt.NDArray[Any]:
    """The numbers as `float32`, `float16`, or the bits of `bfloat16`.

    Raises:
        OverflowError: a number is too large for float16.
    """
    if precision == "bfloat16":
        return to_bfloat16(values)
    if precision == "float16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.isinf(half).any() and not np.isinf(values).any():
            raise OverflowError("a weight is above 65,504, the largest number of float16")
        return half
    return values
