"""float32 numbers flow in, the bits of the nearest bfloat16 numbers flow out, and back; NumPy has no bfloat16.

A bfloat16 number is the upper half of a float32.
"""

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
