"""All families by name. A model's shape flows in; its parameters, initial weights, counts and FLOPs come out.

A new family is one file in this folder, an entry in `FAMILIES`, and one file in `models` of each engine.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.architectures.base import Family, Parameter
from homespun.architectures.gpt2 import GPT2
from homespun.architectures.llama import Llama
from homespun.architectures.qwen3 import Qwen3
from homespun.architectures.qwen3_moe import Qwen3Moe
from homespun.config import ModelConfig
from homespun.errors import UserError, did_you_mean

FAMILIES: dict[str, Family] = {
    family.name: family for family in (GPT2(), Llama(), Qwen3(), Qwen3Moe())
}


def family(name: str) -> Family:
    """The family of that name.

    Raises:
        UserError: there is no such family.
    """
    if name not in FAMILIES:
        meant = did_you_mean(name, FAMILIES, f"choose one of {', '.join(FAMILIES)}")
        raise UserError(f"--architecture '{name}' is unknown: {meant}")
    return FAMILIES[name]


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """The shape of a model, checked against its family.

    Raises:
        UserError: the family is unknown or has no model of this shape.
        TypeError: a field is unknown, or one without a default is missing.
    """
    config = ModelConfig(**values)
    of = family(config.architecture)
    of_experts = (config.experts, config.experts_per_token, config.d_expert, config.dense_layers)
    if of.expert_family != of.name and any(of_experts):
        others = [name for name, other in FAMILIES.items() if other.expert_family == name]
        raise UserError(
            f"{of.name} has no experts: leave --experts, --experts-per-token, --d-expert and --dense-layers out, or "
            f"choose --architecture {' or '.join(others)}"
        )
    of.check(config)
    return config


def parameters(config: ModelConfig) -> list[Parameter]:
    """All parameters of a model, in the order in which the model uses them."""
    return family(config.architecture).parameters(config)


def initial_weights(
    config: ModelConfig, seed: int
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Initial values of a model, one tensor at a time."""
    return initial_values(parameters(config), seed)


def initial_values(
    spec: Iterable[Parameter], seed: int
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Initial values, one tensor at a time. Each depends only on the seed and on its own name and shape."""
    for p in spec:
        values = np.full(p.shape, p.mean, dtype=np.float32)
        if p.std:
            key = int.from_bytes(
                hashlib.sha256(f"{seed}:{p.name}".encode()).digest()[:16], "little"
            )
            noise = np.random.Generator(np.random.Philox(key=key)).standard_normal(
                p.shape, dtype=np.float32
            )
            values += np.float32(p.std) * noise
        yield p.name, values


def count_parameters(config: ModelConfig) -> int:
    """Number of weights; tied ones count once."""
    return sum(p.size for p in parameters(config))


def count_in_blocks(config: ModelConfig) -> int:
    """Number of weights without those of embeddings, last norm and head."""
    prefix = family(config.architecture).block_prefix
    return sum(p.size for p in parameters(config) if p.name.startswith(prefix))


def count_active_parameters(config: ModelConfig) -> int:
    """Number of weights that one token uses."""
    return family(config.architecture).active_parameters(config)


def described_size(config: ModelConfig) -> str:
    """The number of weights in words, and the number that a token uses if there are experts."""
    size = f"{count_parameters(config) / 1e6:.1f} M parameters"
    if not config.experts:
        return size
    active = count_active_parameters(config) / 1e6
    return (
        f"{size}, of which a token uses {active:.1f} M ({config.experts_per_token} of {config.experts} experts "
        f"of width {config.d_expert})"
    )


def flops_per_token(config: ModelConfig) -> int:
    """Floating-point operations of training on one token; see `Family.flops_per_token`."""
    return family(config.architecture).flops_per_token(config)
