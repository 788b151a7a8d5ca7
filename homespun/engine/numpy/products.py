"""Products with narrow weights: vectors and a matrix of 16 or 8 bits flow in, the products in float32 flow out.

NumPy has no such products. `products.c` is compiled for this machine when a model with narrow weights is first loaded,
which takes less than a second. Where that is not possible, `narrow.py` computes the same with NumPy, but slowly.
"""

import ctypes
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.engine.base import Floats

SOURCE = Path(__file__).with_name("products.c")
COMPILERS = "cc", "gcc", "clang"
FLAGS = (
    *("-O3", "-march=native", "-shared", "-fPIC"),
    # Sums may be taken in any order. -ffast-math would do more: it makes the whole process round tiny numbers to zero.
    *("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno"),
)
WITH_THREADS: tuple[tuple[str, ...], ...] = (("-fopenmp",), ())
"""Flags for several threads, and those of a compiler that lacks them."""
COMPILE_SECONDS = 20.0
addressof = ctypes.addressof
from_buffer: Callable[[Any], ctypes.c_char] = ctypes.c_char.from_buffer
KINDS: dict[np.dtype[Any], str] = {np.dtype(np.uint16): "bfloat16", np.dtype(np.int8): "int8"}
"""The names of the functions by the dtype of the weights; NumPy has no bfloat16, so they are its bits."""


class Products:
    """The compiled functions. Their number of threads is set like that of a BLAS library."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            OSError: the file is not a library that works here.
        """
        library = ctypes.CDLL(str(path))
        pointer, size = ctypes.c_void_p, ctypes.c_long
        self._product: dict[np.dtype[Any], Any] = {}
        self._widened: dict[np.dtype[Any], Any] = {}
        for dtype, kind in KINDS.items():
            product, widened = library[f"product_{kind}"], library[f"widened_{kind}"]
            product.argtypes = pointer, size, pointer, pointer, size, size, pointer, ctypes.c_int
            widened.argtypes = pointer, pointer, size, size, pointer, ctypes.c_int
            product.restype = widened.restype = None
            self._product[dtype], self._widened[dtype] = product, widened
        self._threads = 1

    def get_num_threads(self) -> int:
        return self._threads

    def set_num_threads(self, n: int) -> None:
        self._threads = n

    def product(self, x: Floats, matrix: "Place") -> Floats:
        """x [N, in] and a matrix [out, in], times the scales of its rows -> [N, out]."""
        x = np.ascontiguousarray(x)
        y = np.empty((len(x), matrix.n_out), np.float32)
        # `ctypes.data` of an array would take four times as long.
        self._product[matrix.dtype](
            addressof(from_buffer(x)),
            len(x),
            matrix.values,
            matrix.scales,
            matrix.n_out,
            matrix.n_in,
            addressof(from_buffer(y)),
            self._threads,
        )
        return y

    def widened(self, matrix: "Place") -> Floats:
        """A matrix [out, in] in float32, times the scales of its rows."""
        y = np.empty((matrix.n_out, matrix.n_in), np.float32)
        self._widened[matrix.dtype](
            matrix.values, matrix.scales, matrix.n_out, matrix.n_in, y.ctypes.data, self._threads
        )
        return y


class Place:
    """Where the memory of a matrix [out, in] is, as long as its arrays exist."""

    def __init__(self, values: npt.NDArray[Any], scales: Floats | None) -> None:
        """`scales` [out] of the rows, if they have any."""
        assert values.flags.c_contiguous
        assert scales is None or scales.flags.c_contiguous
        self.dtype = values.dtype
        self.n_out, self.n_in = values.shape
        self.values: int = values.ctypes.data
        self.scales: int | None = None if scales is None else scales.ctypes.data


@functools.cache
def compiled() -> Products | None:
    """The functions for this machine; None where there is no C compiler that works.

    On a Mac the command of a compiler that is missing opens a window, so none is tried there.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if sys.platform != "linux" or compiler is None:
        return None
    try:
        # Nobody else can write into this folder. Once the file is loaded, it is not needed any more.
        with tempfile.TemporaryDirectory(prefix="homespun-") as folder:
            found = _built(compiler, Path(folder) / "products.so")
    except (OSError, subprocess.TimeoutExpired):  # no room for files, or a compiler that hangs
        return None
    return found if found and _computes(found) else None


def _built(compiler: str, library: Path) -> Products | None:
    """The functions, in several threads if the compiler knows how; None if it does not work.

    Raises:
        TimeoutExpired: it takes too long.
    """
    for more in WITH_THREADS:
        command = [compiler, *FLAGS, *more, str(SOURCE), "-o", str(library)]
        try:
            subprocess.run(
                command,
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMPILE_SECONDS,
            )
            return Products(library)
        except (subprocess.CalledProcessError, OSError, AttributeError):
            continue
    return None


def _computes(products: Products) -> bool:
    """Whether a small product is right."""
    values = (np.arange(3 * 150) % 251 - 125).astype(np.int8).reshape(3, 150)
    x = np.linspace(-1, 1, 5 * 150, dtype=np.float32).reshape(5, 150)
    scales = np.array([0.5, 2, 3], np.float32)
    expected = x.astype(np.float64) @ (values * scales[:, None].astype(np.float64)).T
    found = products.product(x, Place(values, scales))
    return np.allclose(found, expected, rtol=1e-4, atol=1e-2)
