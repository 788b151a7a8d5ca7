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


def bits_of(values: Floats) -> npt.NDArray[np.uint16]:
    """The bits of numbers that are bfloat16 numbers already. Unlike `to_bfloat16`, it needs no memory but for these.

    Raises:
        ValueError: a number is none.
    """
    halves = np.ascontiguousarray(values, "<f4").reshape(-1).view("<u2")
    if halves[::2].any():
        raise ValueError("a number is not a bfloat16 number")
    return halves[1::2].reshape(values.shape)


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> Floats:
    """The exact values of bfloat16 numbers."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
