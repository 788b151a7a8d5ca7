"""The parameters that training in little memory keeps in bfloat16, and the keys of their rounding, for all engines."""

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from homespun.architectures.base import Parameter
from homespun.errors import UserError


def narrow_parameters(spec: Iterable[Parameter]) -> frozenset[str]:
    """The names of the parameters that are kept in bfloat16: nearly all numbers of a model. Norms, biases, routers and
    adapters are few, and stay in float32."""
    groups = ("matrix", "embedding", "head")
    return frozenset(p.name for p in spec if p.group in groups and not p.is_router)


def no_low_memory() -> UserError:
    """The error of an engine that trains in float32 only."""
    return UserError(
        "--memory low exists with PyTorch only: leave it out, or choose --engine torch"
    )


def rounding_keys(seed: int, names: Iterable[str]) -> npt.NDArray[np.int32]:
    """A number for each parameter, [N], from which the random bits of its rounding follow in each step."""
    hashes = [hashlib.sha256(f"rounding:{seed}:{name}".encode()).digest() for name in names]
    return np.array([int.from_bytes(h[:4], "little", signed=True) for h in hashes], dtype=np.int32)
