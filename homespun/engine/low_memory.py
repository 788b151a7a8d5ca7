"""The rules of training in little memory, for all engines: which parameters are kept in bfloat16, the keys of their
rounding, and the slices in which they are updated."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from homespun.architectures.base import Parameter
from homespun.engine.dropout import KEY_INCREMENT, Bits, hash_bits

TINY = 1e-30
"""Instead of a mean square of zero, by which it would be divided."""


def narrow_parameters(spec: Iterable[Parameter]) -> frozenset[str]:
    """The names of the parameters that are kept in bfloat16: nearly all numbers of a model. Norms, biases, routers and
    adapters are few, and stay in float32."""
    groups = ("matrix", "embedding", "head")
    return frozenset(p.name for p in spec if p.group in groups and not p.is_router)


def rounding_keys(seed: int, names: Iterable[str]) -> npt.NDArray[np.int32]:
    """A number for each parameter, [N], from which the random bits of its rounding follow in each step."""
    hashes = [hashlib.sha256(f"rounding:{seed}:{name}".encode()).digest() for name in names]
    return np.array([int.from_bytes(h[:4], "little", signed=True) for h in hashes], dtype=np.int32)


def step_keys(keys: npt.NDArray[np.int32], step: int) -> Bits:
    """The keys of a step, [N]. The bits for number i of a parameter are `hash_bits(i ^ key)`."""
    of_step = hash_bits(np.array([step], dtype=np.uint32) + np.uint32(KEY_INCREMENT))
    return hash_bits(keys.view(np.uint32) ^ of_step)


def row_slices(n_rows: int, n_columns: int, size: int) -> Iterator[slice]:
    """The rows of a matrix, in slices of about `size` numbers."""
    n = max(1, size // n_columns)
    for start in range(0, n_rows, n):
        yield slice(start, min(n_rows, start + n))
