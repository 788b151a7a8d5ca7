"""The compiled parts of a decoding step: NumPy arrays flow in and out of the functions of `products.c`, `steps.c` and
`drawing.c`.

They are compiled for this machine (`compiling.py`). Where that is not possible, `layers.py` and
`sampler.py` compute the same with NumPy, but more slowly.
"""

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from homespun.bfloat16 import to_bfloat16
from homespun.engine.base import Floats
from homespun.engine.hardware import usable_cpus
from homespun.engine.numpy.compiling import library
from homespun.engine.numpy.narrow import Cache

SOURCES = tuple(Path(__file__).with_name(name) for name in ("products.c", "steps.c", "drawing.c"))
MOST_IN_CHUNK = 16
"""Numbers of a vector register, at most."""
KINDS: dict[np.dtype[Any], str] = {
    np.dtype(np.float32): "float32",
    np.dtype(np.uint16): "bfloat16",
    np.dtype(np.int8): "int8",
}
"""The names of the functions by the dtype of the weights; NumPy has no bfloat16, so they are its bits."""
PANEL = 32
"""Rows of a panel of a matrix, as in `products.c`."""
DRAWING_BLOCK = 64
"""Logits whose weights are summed up at once, as in `drawing.c`."""
SCRATCH = 9
"""Numbers of 16 bits that a vector may need more than it has inputs, as in `products.c`."""

addressof = ctypes.addressof
from_buffer: Callable[[Any], ctypes.c_char] = ctypes.c_char.from_buffer


class Products:
    """The compiled functions. Their number of threads is set like that of a BLAS library."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            OSError: the file is not a library that works here.
            AttributeError: it lacks a function.
            ValueError: it lacks a constant.
        """
        library = ctypes.CDLL(str(path))
        pointer, size, number, count = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int
        arguments: dict[str, tuple[Any, ...]] = {
            f"product_{kind}": (pointer, size, *[pointer] * 3, size, size, pointer, pointer, count)
            for kind in KINDS.values()
        }
        arguments |= {
            f"products_{kind}": (
                *(pointer, size, pointer, size, pointer, pointer, size, size, pointer, pointer),
                count,
            )
            for kind in KINDS.values()
        }
        arguments |= {
            "attention_float32": (*[pointer] * 3, *[size] * 5, pointer, pointer, count),
            "attention_bfloat16": (*[pointer] * 3, *[size] * 5, pointer, pointer, count),
            "rotary": (pointer, pointer, *[size] * 4, pointer, number, pointer, size, count),
            "gelu": (pointer, size, count),
            "swiglu": (pointer, size, size, pointer, count),
            "norm": (pointer, size, size, pointer, pointer, number, pointer),
            "route": (pointer, size, size, size, *[pointer] * 5),
            "combine": (pointer, pointer, pointer, size, size, size, pointer),
            "draw": (pointer, size, size, *[pointer] * 4),
        }
        functions = {}
        for name, types in arguments.items():
            functions[name] = library[name]
            functions[name].argtypes, functions[name].restype = types, None
        self._product = {dtype: functions[f"product_{kind}"] for dtype, kind in KINDS.items()}
        self._products = {dtype: functions[f"products_{kind}"] for dtype, kind in KINDS.items()}
        self.groups: dict[np.dtype[Any], int] = {
            dtype: count.in_dll(library, f"group_{kind}").value for dtype, kind in KINDS.items()
        }
        """The inputs that are multiplied at once, by the dtype of the weights."""
        self._attention = {
            np.dtype(np.float32): functions["attention_float32"],
            np.dtype(np.uint16): functions["attention_bfloat16"],
        }
        self._rotary = functions["rotary"]
        self._gelu, self._swiglu = functions["gelu"], functions["swiglu"]
        self._norm, self._draw = functions["norm"], functions["draw"]
        self._route, self._combine = functions["route"], functions["combine"]
        self._threads, self._most = 1, usable_cpus()
        # The threads of OpenMP do not exist in a forked process: it would wait for them forever.
        os.register_at_fork(after_in_child=self._use_one_thread)

    def _use_one_thread(self) -> None:
        self._threads = self._most = 1

    def get_num_threads(self) -> int:
        return self._threads

    def set_num_threads(self, n: int) -> None:
        self._threads = min(n, self._most)

    def product(self, x: Floats, matrix: "Place", bias: Floats | None = None) -> Floats:
        """x [N, in] and a matrix [out, in] -> [N, out], plus `bias` [out] if there is one. The result for a vector does
        not depend on the others. Narrow weights may be multiplied with rounded vectors; see `products.c`."""
        x, y, scratch = _arrays(x, matrix)
        # `ctypes.data` of an array would take four times as long.
        self._product[matrix.dtype](
            addressof(from_buffer(x)),
            len(x),
            matrix.values,
            matrix.scales,
            None if bias is None else addressof(from_buffer(bias)),
            matrix.n_out,
            matrix.n_in,
            addressof(from_buffer(y)),
            None if scratch is None else addressof(from_buffer(scratch)),
            self._threads,
        )
        return y

    def products(self, x: Floats, ends: npt.NDArray[np.int64], matrices: "Place") -> Floats:
        """x [N, in] and several matrices [E, out, in] -> [N, out]: the vectors of the first matrix are x[: ends[0]],
        those of the second one x[ends[0] : ends[1]], and so on. Bits as in `product`."""
        x, y, scratch = _arrays(x, matrices)
        self._products[matrices.dtype](
            addressof(from_buffer(x)),
            len(x),
            addressof(from_buffer(ends)),
            len(ends),
            matrices.values,
            matrices.scales,
            matrices.n_out,
            matrices.n_in,
            addressof(from_buffer(y)),
            None if scratch is None else addressof(from_buffer(scratch)),
            self._threads,
        )
        return y

    def attention(self, heads: Floats, cache: Cache, positions: npt.NDArray[np.int64]) -> Floats:
        """As `layers.attention` for one new token of each sequence, at `positions` [B]."""
        batch, n_rows, _, channels = heads.shape
        n_kv, max_len = cache.shape[1] // 2, cache.shape[2]
        n_heads = n_rows - 2 * n_kv
        y = np.empty((batch, n_heads * channels), np.float32)
        threads = self._threads  # another engine may set it meanwhile
        scratch = np.empty((threads, max_len + MOST_IN_CHUNK), np.float32)
        self._attention[cache.dtype](
            addressof(from_buffer(heads)),
            addressof(from_buffer(cache)),
            addressof(from_buffer(positions)),
            batch,
            n_heads,
            n_kv,
            channels,
            max_len,
            addressof(from_buffer(scratch)),
            addressof(from_buffer(y)),
            threads,
        )
        return y

    def rotary(
        self,
        heads: Floats,
        n_turned: int,
        positions: npt.NDArray[np.int64],
        tables: Floats,
        norm: Floats | None,
        eps: float,
    ) -> None:
        """Norm the first `n_turned` heads of one new token of each sequence, and rotate them, in place.

        Args:
            heads: [B, heads, 1, C]
            positions: [B]
            tables: cos and sin of the angles of all positions, [2, S, C].
            norm: the weights of the norms, [n_turned, 1, C], if there are any.
        """
        batch, n_heads, _, channels = heads.shape
        self._rotary(
            addressof(from_buffer(heads)),
            addressof(from_buffer(positions)),
            batch,
            n_heads,
            n_turned,
            channels,
            None if norm is None else addressof(from_buffer(norm)),
            eps,
            addressof(from_buffer(tables)),
            tables.shape[1],
            self._threads,
        )

    def gelu(self, x: Floats) -> Floats:
        """`layers.gelu` of x [N, D], in place."""
        self._gelu(addressof(from_buffer(x)), x.size, self._threads)
        return x

    def swiglu(self, x: Floats) -> Floats:
        """`layers.swiglu`: x [N, 2 * F] -> [N, F]."""
        n, width = len(x), x.shape[1] // 2
        y = np.empty((n, width), np.float32)
        pointers = addressof(from_buffer(x)), addressof(from_buffer(y))
        self._swiglu(pointers[0], n, width, pointers[1], self._threads)
        return y

    def norm(self, x: Floats, weight: Floats, bias: Floats | None, eps: float) -> Floats:
        """LayerNorm of the rows of x [N, D]; RMSNorm without a bias."""
        x = np.ascontiguousarray(x)
        y = np.empty_like(x)
        self._norm(
            addressof(from_buffer(x)),
            len(x),
            x.shape[1],
            addressof(from_buffer(weight)),
            None if bias is None else addressof(from_buffer(bias)),
            eps,
            addressof(from_buffer(y)),
        )
        return y

    def route(self, logits: Floats, k: int) -> "Routes":
        """`layers.route`"""
        n, n_experts = logits.shape
        numbers = np.empty(n_experts + 3 * n * k, np.int64)
        ends, pairs = numbers[:n_experts], numbers[n_experts:].reshape(3, n, k)
        weights = np.empty((n, k), np.float32)
        start = addressof(from_buffer(numbers))
        after_ends = start + ends.nbytes
        self._route(
            addressof(from_buffer(logits)),
            *(n, n_experts, k, after_ends, addressof(from_buffer(weights)), start),
            *(after_ends + pairs[0].nbytes, after_ends + pairs[:2].nbytes),
        )
        return Routes(pairs[0], weights, ends, pairs[1], pairs[2].reshape(-1))

    def combine(self, outputs: Floats, routes: "Routes") -> Floats:
        """`layers.combine`"""
        n, k = routes.weights.shape
        y = np.empty((n, outputs.shape[1]), np.float32)
        self._combine(
            addressof(from_buffer(outputs)),
            addressof(from_buffer(routes.places)),
            addressof(from_buffer(routes.weights)),
            *(n, k, y.shape[1], addressof(from_buffer(y))),
        )
        return y

    def draw(
        self, logits: Sequence[Floats], settings: npt.NDArray[np.float64]
    ) -> tuple[list[int], list[int]]:
        """See `Draw`."""
        n, size = len(logits), len(logits[0])
        assert all(row.dtype == np.float32 and row.shape == (size,) for row in logits)
        rows = [np.ascontiguousarray(row) if row.flags.writeable else row.copy() for row in logits]
        places = (ctypes.c_void_p * n)(*[addressof(from_buffer(row)) for row in rows])
        sums = np.empty(-(-size // DRAWING_BLOCK), np.float64)
        tokens, are_random = np.empty(n, np.int64), np.empty(n, np.intc)
        self._draw(
            addressof(places),
            n,
            size,
            addressof(from_buffer(settings)),
            addressof(from_buffer(sums)),
            addressof(from_buffer(tokens)),
            addressof(from_buffer(are_random)),
        )
        return tokens.tolist(), are_random.tolist()


def _arrays(x: Floats, matrix: "Place") -> tuple[Floats, Floats, npt.NDArray[np.uint16] | None]:
    """Vectors x [N, in] in one piece, room for their products [N, out], and room for the vectors as they are
    multiplied, if this is not as they are."""
    y = np.empty((len(x), matrix.n_out), np.float32)
    scratch = None
    if matrix.group > 1:
        scratch = np.empty((len(x), matrix.n_in + SCRATCH), np.uint16)
    return np.ascontiguousarray(x), y, scratch


class Routes(NamedTuple):
    """The experts of each token. The pairs of a token and an expert are also sorted by expert, then by token."""

    chosen: npt.NDArray[np.int64]
    """The experts, in their order, [N, k]."""
    weights: Floats
    """Their weights, [N, k]."""
    ends: npt.NDArray[np.int64]
    """The place at which the sorted pairs of each expert end, [E]."""
    places: npt.NDArray[np.int64]
    """The place of each pair among the sorted ones, [N, k]."""
    tokens: npt.NDArray[np.int64]
    """The tokens of the sorted pairs, [N * k]."""


class Place:
    """Where the memory of a matrix [out, in] in panels is, or of several [E, out, in], as long as its arrays exist."""

    def __init__(
        self, values: npt.NDArray[Any], scales: Floats | None, n_out: int, n_in: int
    ) -> None:
        """
        Args:
            values: [..., panels, in / group, rows of a panel, group]
            scales: of the rows, [..., panels * rows of a panel], if they have any.
        """
        assert values.flags.c_contiguous
        assert scales is None or scales.flags.c_contiguous
        self.dtype, self.group = values.dtype, values.shape[-1]
        self.n_out, self.n_in = n_out, n_in
        self.values: int = values.ctypes.data
        self.scales: int | None = None if scales is None else scales.ctypes.data


@functools.cache
def compiled() -> Products | None:
    """The functions for this machine; None where there is no C compiler that works."""
    return library(SOURCES, _working)


def _working(path: Path) -> Products | None:
    """The functions of a library, if it has them and small products are right."""
    try:
        products = Products(path)
    except (OSError, AttributeError, ValueError):
        return None
    weights = (np.arange(40 * 50) % 251 - 125).astype(np.int8).reshape(40, 50)
    x = np.linspace(-1, 1, 5 * 50, dtype=np.float32).reshape(5, 50)
    scales = np.linspace(0.5, 3, 64, dtype=np.float32)
    for dtype, group in products.groups.items():
        rows = to_bfloat16(weights.astype(np.float32)) if dtype == np.uint16 else weights
        panels = np.zeros((2, PANEL, -(-50 // group) * group), dtype)
        panels.reshape(64, -1)[:40, :50] = rows
        values = np.ascontiguousarray(panels.reshape(2, PANEL, -1, group).swapaxes(1, 2))
        place = Place(values, scales, 40, 50)
        expected = x @ (weights * scales[:40, None].astype(np.float64)).T
        for found in (products.product(x, place), products.products(x, np.array([5]), place)):
            if not np.allclose(found, expected, rtol=0, atol=0.002 * np.abs(expected).max()):
                return None
    # A score that is not a number, and those behind the last one, have no weight.
    scores = np.zeros((2, DRAWING_BLOCK + 1), np.float32)
    scores[1, 7] = np.nan
    routes = products.route(scores[:, :9].copy(), 2)
    settings = np.array([[1.0, -np.inf, 0.999], [1.0, -np.inf, 0.999]])
    draws = products.draw(list(scores), settings)
    if (draws[0], np.isnan(routes.weights[1]).any()) != ([DRAWING_BLOCK, -1], True):
        return None
    return products
