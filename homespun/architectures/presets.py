"""Model sizes by name. A name is the size with GPT-2's vocabulary of 50,257 tokens; the real count is printed.

The `gpt2` presets are the well-known shapes; the small ones and the largest are the modern block.
"""

import dataclasses
import math
from typing import Any

from homespun.config import Architecture, ModelConfig
from homespun.errors import UserError


def _usual_d_ff(architecture: Architecture, d_model: int) -> int:
    """4 widths, or with the third matrix of a gated layer 8/3 of them, in steps of 64."""
    return 4 * d_model if architecture == "gpt2" else 64 * math.ceil(d_model / 24)


def _gpt2(n_layers: int, d_model: int, n_heads: int) -> ModelConfig:
    return ModelConfig(
        architecture="gpt2",
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=d_model // n_heads,
        d_ff=_usual_d_ff("gpt2", d_model),
    )


def _qwen3(
    n_layers: int,
    d_model: int,
    *,
    n_kv_heads: int | None = None,
    head_dim: int = 64,
    d_ff: int | None = None,
    tied: bool = False,
) -> ModelConfig:
    """The modern block with the usual proportions: heads that fill the width, each with keys and values of its own."""
    n_heads = max(1, d_model // head_dim)
    return ModelConfig(
        architecture="qwen3",
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads or n_heads,
        head_dim=head_dim,
        d_ff=d_ff or _usual_d_ff("qwen3", d_model),
        tie_embeddings=tied,
        norm_eps=1e-6,
    )


PRESETS: dict[str, ModelConfig] = {
    # In a minute or two, many small steps teach more than a deep or wide block could: see benchmarks/prose.py. Six
    # narrow heads learned to tell two friends of a story apart with every seed, three wide ones with two of three.
    "pico": _qwen3(2, 192, head_dim=32, d_ff=256),
    "nano": _qwen3(4, 256),
    "micro": _qwen3(5, 320),
    "mini": _qwen3(6, 384),
    "small": _qwen3(8, 512),
    "tiny": _gpt2(8, 512, 8),
    "gpt2-small": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "3b": _qwen3(36, 2560, n_kv_heads=4, head_dim=128, d_ff=8192, tied=True),
}


def preset(name: str) -> ModelConfig:
    """The shape of that name.

    Raises:
        UserError: there is none.
    """
    if name not in PRESETS:
        raise UserError(f"--model-size '{name}' is unknown: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def shaped(base: ModelConfig, overrides: dict[str, Any]) -> ModelConfig:
    """`base` with some shape settings replaced; what follows from them (heads, feed-forward width) follows.

    `overrides` may hold architecture, n_layers, n_heads, n_kv_heads, d_model, d_ff, vocab_size, seq_len; None leaves
    a setting as it is.

    Raises:
        UserError: no such model can be built.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    architecture = given.get("architecture", base.architecture)
    if architecture != base.architecture:
        if architecture == "gpt2":
            base = _gpt2(base.n_layers, base.d_model, base.n_heads)
        else:
            base = _qwen3(base.n_layers, base.d_model)
    d_model = given.get("d_model", base.d_model)
    if d_model != base.d_model:
        n_heads = max(1, d_model // base.head_dim)
        d_ff = _usual_d_ff(architecture, d_model)
        given = {"n_heads": n_heads, "d_ff": d_ff, **given}
    n_heads = given.get("n_heads", base.n_heads)
    if (d_model, n_heads) != (base.d_model, base.n_heads):
        if d_model % n_heads:
            raise UserError(
                f"--d-model {d_model} cannot be divided into --n-heads {n_heads} heads of equal size"
            )
        given = {"head_dim": d_model // n_heads, "n_kv_heads": n_heads, **given}
    return dataclasses.replace(base, **given)
