"""LoRA (Hu et al., 2021): a model and a choice of its matrices flow in, the parameters of their adapters come out.

An adapter adds a product of low rank to a matrix that stays as it is: W + alpha / rank * B A. Training changes A and B
alone. Merged into the matrix, they are an ordinary model again.

Shapes: W [out, in], A [rank, in], B [out, rank].
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from homespun.architectures.base import Parameter
from homespun.architectures.families import parameters
from homespun.config import ModelConfig
from homespun.errors import UserError, did_you_mean

Floats = npt.NDArray[np.float32]

ALL, ATTENTION = "all", "attention"
"""Targets that stand for every matrix of the blocks, but for experts and their routers, and for those of the attention
layers."""


@dataclass(frozen=True)
class Lora:
    """Which matrices have adapters, and of what size."""

    rank: int
    alpha: float
    targets: tuple[str, ...] = (ALL,)
    """`all`, `attention`, or the last parts of names of matrices, such as `q_proj` or `mlp.c_proj`."""

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: no adapters have this rank or factor.
        """
        if self.rank < 1 or not 0 < self.alpha < math.inf:
            raise ValueError(f"rank {self.rank} and alpha {self.alpha} are not those of adapters")

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return self.alpha / self.rank


class Adapter(NamedTuple):
    """The two parameters of an adapter, and the matrix that they belong to."""

    matrix: Parameter
    a: Parameter
    b: Parameter

    @property
    def layer(self) -> str:
        """The name of the layer that holds the matrix."""
        return self.matrix.name.removesuffix(".weight")


def adapters(config: ModelConfig, lora: Lora) -> list[Adapter]:
    """The adapters of a model, in the order of its matrices.

    A is random at first and B is zero, so that the model begins as it was. The standard deviation of A is that of the
    initial values of PEFT.

    Raises:
        UserError: a target is no matrix of the model, or the rank is larger than a matrix.
    """
    found = []
    for p in _targeted(config, lora.targets):
        n_out, n_in = p.shape
        if lora.rank > min(n_out, n_in):
            raise UserError(
                f"--lora-rank {lora.rank} is more than {p.name} has, which is {n_out} x {n_in}: lower it"
            )
        layer = p.name.removesuffix(".weight")
        a = Parameter(f"{layer}.lora_a", (lora.rank, n_in), "adapter", std=1 / math.sqrt(3 * n_in))
        b = Parameter(f"{layer}.lora_b", (n_out, lora.rank), "adapter")
        found.append(Adapter(p, a, b))
    return found


def adapter_parameters(config: ModelConfig, lora: Lora) -> list[Parameter]:
    """The parameters of all adapters. Raises as `adapters`."""
    return [p for adapter in adapters(config, lora) for p in (adapter.a, adapter.b)]


def trained_parameters(config: ModelConfig, lora: Lora | None) -> list[Parameter]:
    """The parameters that a run trains and saves: those of the adapters, or all without LoRA."""
    return parameters(config) if lora is None else adapter_parameters(config, lora)


def count_trained(config: ModelConfig, lora: Lora | None) -> int:
    """Number of weights that a run trains."""
    return sum(p.size for p in trained_parameters(config, lora))


def merged(
    base: Iterable[tuple[str, npt.NDArray[np.generic]]],
    values: Mapping[str, npt.NDArray[np.generic]],
    config: ModelConfig,
    lora: Lora,
) -> Iterator[tuple[str, Floats]]:
    """The weights of a model with its adapters merged in, one tensor at a time, in float32.

    Args:
        base: the weights of the model without adapters.
        values: all parameters of the adapters, by name.
    """
    of_matrix = {adapter.matrix.name: adapter for adapter in adapters(config, lora)}
    for name, array in base:
        weight = array.astype(np.float32, copy=False)
        if adapter := of_matrix.get(name):
            a, b = (values[p.name].astype(np.float32, copy=False) for p in adapter[1:])
            weight = weight + np.float32(lora.scale) * (b @ a)
        yield name, weight


def short_names(config: ModelConfig, lora: Lora) -> list[str]:
    """The last parts of the names of all layers with adapters, as short as they can be without naming another layer."""
    names = {p.name.removesuffix(".weight") for p in _matrices(config)}
    chosen = {adapter.layer for adapter in adapters(config, lora)}
    found: dict[str, None] = {}
    for layer in (adapter.layer for adapter in adapters(config, lora)):
        parts = layer.split(".")
        endings = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        found[next(e for e in endings if all(n in chosen for n in names if _ends_with(n, e)))] = (
            None
        )
    return list(found)


def _matrices(config: ModelConfig) -> list[Parameter]:
    """The matrices that may have adapters: those of the blocks, but for experts and their routers."""
    return [
        p
        for p in parameters(config)
        if p.group == "matrix" and len(p.shape) == 2 and not p.is_router
    ]


def _targeted(config: ModelConfig, targets: tuple[str, ...]) -> list[Parameter]:
    """The matrices that the targets name.

    Raises:
        UserError: a target names none.
    """
    matrices, chosen = _matrices(config), set()
    for target in targets:
        named = [p.name for p in matrices if _is_named(p.name.removesuffix(".weight"), target)]
        if not named:
            known = [ALL, ATTENTION, *dict.fromkeys(p.name.split(".")[-2] for p in matrices)]
            meant = did_you_mean(target, known, f"choose {', '.join(known)}")
            raise UserError(
                f"--lora-targets '{target}' is no matrix of {config.architecture}: {meant}"
            )
        chosen.update(named)
    return [p for p in matrices if p.name in chosen]


def _is_named(layer: str, target: str) -> bool:
    if target == ATTENTION:
        return layer.split(".")[-2].endswith("attn")
    return target == ALL or _ends_with(layer, target)


def _ends_with(layer: str, ending: str) -> bool:
    """Whether the last parts of a layer's name are `ending`."""
    return f".{layer}".endswith(f".{ending}")
