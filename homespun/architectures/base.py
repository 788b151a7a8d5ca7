"""Every parameter of an architecture, once: name, shape, initial values, weight decay, optimizer group.

From the list follow the counts, the cost of a token and the initial weights, in NumPy, the same for every engine.
Names are those of Hugging Face's model of the architecture; matrices are stored [out, in].
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from homespun.config import ModelConfig

Group = Literal["matrix", "embedding", "head", "vector"]
"""What an optimizer may treat differently: Muon takes the matrices, AdamW everything (else)."""


@dataclass(frozen=True)
class Parameter:
    """One tensor of a model."""

    name: str
    shape: tuple[int, ...]
    group: Group
    std: float = 0.0
    """Of the normal distribution that initial values are drawn from, around `mean`."""
    mean: float = 0.0
    stacked: int = 1
    """How many matrices lie one above the other in it, such as those of the heads of attention; Muon orthogonalises
    each by itself, which costs less than all as one and teaches as much."""

    @property
    def decay(self) -> bool:
        """Matrices and embeddings decay; biases and norms do not."""
        return self.group != "vector"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def parameters(config: ModelConfig) -> list[Parameter]:
    """All parameters of a model, in the order in which the model uses them."""
    return _gpt2(config) if config.architecture == "gpt2" else _qwen3(config)


def _gpt2(c: ModelConfig) -> list[Parameter]:
    """GPT2LMHeadModel (Radford et al., 2019): initial values of std 0.02, those that write into the residual stream
    divided by the square root of their number."""
    std, residual_std = 0.02, 0.02 / math.sqrt(2 * c.n_layers)

    def norm(name: str) -> list[Parameter]:
        return [
            Parameter(f"{name}.weight", (c.d_model,), "vector", mean=1.0),
            Parameter(f"{name}.bias", (c.d_model,), "vector"),
        ]

    def linear(name: str, n_out: int, n_in: int, std: float, stacked: int = 1) -> list[Parameter]:
        return [
            Parameter(f"{name}.weight", (n_out, n_in), "matrix", std, stacked=stacked),
            Parameter(f"{name}.bias", (n_out,), "vector"),
        ]

    found = [
        Parameter("transformer.wte.weight", (c.vocab_size, c.d_model), "embedding", std),
        Parameter("transformer.wpe.weight", (c.seq_len, c.d_model), "embedding", std),
    ]
    for i in range(c.n_layers):
        block = f"transformer.h.{i}"
        found += norm(f"{block}.ln_1")
        found += linear(
            f"{block}.attn.c_attn", 3 * c.d_model, c.d_model, std, stacked=3 * c.n_heads
        )
        found += linear(f"{block}.attn.c_proj", c.d_model, c.d_model, residual_std)
        found += norm(f"{block}.ln_2")
        found += linear(f"{block}.mlp.c_fc", c.d_ff, c.d_model, std)
        found += linear(f"{block}.mlp.c_proj", c.d_model, c.d_ff, residual_std)
    found += norm("transformer.ln_f")
    if not c.tie_embeddings:
        found.append(Parameter("lm_head.weight", (c.vocab_size, c.d_model), "head", std))
    return found


def _qwen3(c: ModelConfig) -> list[Parameter]:
    """Qwen3ForCausalLM (Qwen team, 2025). What writes into the residual stream, and an untied head, start at zero, so
    that every block is the identity at first and the first loss is that of a uniform guess."""

    def norm(name: str, size: int = c.d_model) -> Parameter:
        return Parameter(f"{name}.weight", (size,), "vector", mean=1.0)

    def linear(name: str, n_out: int, n_in: int, std: float, stacked: int = 1) -> Parameter:
        return Parameter(f"{name}.weight", (n_out, n_in), "matrix", std, stacked=stacked)

    def heads(name: str, n: int) -> Parameter:
        return linear(name, n * c.head_dim, c.d_model, std, stacked=n)

    std = c.d_model**-0.5
    found = [
        Parameter(
            "model.embed_tokens.weight",
            (c.vocab_size, c.d_model),
            "embedding",
            0.02 if c.tie_embeddings else 1.0,
        )
    ]
    for i in range(c.n_layers):
        block = f"model.layers.{i}"
        found += [
            norm(f"{block}.input_layernorm"),
            heads(f"{block}.self_attn.q_proj", c.n_heads),
            heads(f"{block}.self_attn.k_proj", c.n_kv_heads),
            heads(f"{block}.self_attn.v_proj", c.n_kv_heads),
            norm(f"{block}.self_attn.q_norm", c.head_dim),
            norm(f"{block}.self_attn.k_norm", c.head_dim),
            linear(f"{block}.self_attn.o_proj", c.d_model, c.n_heads * c.head_dim, 0.0),
            norm(f"{block}.post_attention_layernorm"),
            linear(f"{block}.mlp.gate_proj", c.d_ff, c.d_model, std),
            linear(f"{block}.mlp.up_proj", c.d_ff, c.d_model, std),
            linear(f"{block}.mlp.down_proj", c.d_model, c.d_ff, 0.0),
        ]
    found.append(norm("model.norm"))
    if not c.tie_embeddings:
        found.append(Parameter("lm_head.weight", (c.vocab_size, c.d_model), "head", 0.0))
    return found


def initial_weights(
    config: ModelConfig, seed: int
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Initial values, one tensor at a time; each depends on the seed and its own name alone."""
    for p in parameters(config):
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


def flops_per_token(config: ModelConfig) -> int:
    """Floating-point operations of training on one token: 6 per weight of a matrix product (2 forward, 4 backward), and
    attention over a full context (PaLM, Chowdhery et al., 2022, appendix B)."""
    in_products = sum(p.size for p in parameters(config) if p.group in ("matrix", "head"))
    if config.tie_embeddings:
        in_products += config.vocab_size * config.d_model
    attention = 12 * config.n_layers * config.n_heads * config.head_dim * config.seq_len
    return 6 * in_products + attention
