"""Arrays flow in, the same values in the number formats of other programs' files flow out."""

from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.bfloat16 import to_bfloat16

Floats = npt.NDArray[np.float32]


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
