"""Model sizes by name. A name that is a number is the size with GPT-2's vocabulary of 50,257 tokens.

The presets called gpt2 have the published shapes. The small ones and the largest use the modern block (qwen3).
"""

import dataclasses
import difflib
from typing import Any

from homespun.architectures.families import family, model_config
from homespun.architectures.gpt2 import GPT2
from homespun.architectures.qwen3 import Qwen3
from homespun.architectures.qwen3_moe import Qwen3Moe
from homespun.config import ModelConfig
from homespun.errors import UserError

_GPT2, _QWEN3, _QWEN3_MOE = GPT2(), Qwen3(), Qwen3Moe()

PRESETS: dict[str, ModelConfig] = {
    # In a minute or two, many small steps teach more than a deeper or wider model: see benchmarks/prose.py. With six
    # narrow heads the model learned to tell the two friends of a story apart with each of three seeds, with three wide
    # heads with two of them.
    "pico": _QWEN3.shape(2, 192, head_dim=32, d_ff=256),
    "nano": _QWEN3.shape(4, 256),
    "micro": _QWEN3.shape(5, 320),
    "mini": _QWEN3.shape(6, 384),
    "small": _QWEN3.shape(8, 512),
    # The same block with eight experts, of which a token uses two: as much computation for a token as without experts.
    "nano-moe": _QWEN3_MOE.shape(4, 256),
    "mini-moe": _QWEN3_MOE.shape(6, 384),
    "tiny-moe": _QWEN3_MOE.shape(8, 384, experts=16, d_ff=384, tied=True),
    "tiny": _GPT2.default_shape(8, 512, 8),
    "gpt2-small": _GPT2.default_shape(12, 768, 12),
    "gpt2-medium": _GPT2.default_shape(24, 1024, 16),
    "gpt2-large": _GPT2.default_shape(36, 1280, 20),
    "gpt2-xl": _GPT2.default_shape(48, 1600, 25),
    "3b": _QWEN3.shape(36, 2560, n_kv_heads=4, head_dim=128, d_ff=8192, tied=True),
}


OTHER_NAMES = {
    "gpt2": "gpt2-small",
    "gpt": "gpt2-small",
    "124m": "gpt2-small",
    "345m": "gpt2-medium",
    "350m": "gpt2-medium",
    "355m": "gpt2-medium",
    "774m": "gpt2-large",
    "1.5b": "gpt2-xl",
    "1558m": "gpt2-xl",
}
"""Presets by the names that other programs give to their sizes."""


def preset(name: str) -> ModelConfig:
    """The shape of that name.

    Raises:
        UserError: there is no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"--model-size '{name}' is unknown: {_meant(name)}")
    return PRESETS[name]


def _meant(name: str) -> str:
    """Advice for an unknown name: the preset that may be meant, and all names."""
    plain = name.lower().replace("_", "-").removeprefix("openai-community/")
    meant = OTHER_NAMES.get(plain.removeprefix("gpt2-"), plain)
    close = difflib.get_close_matches(meant, PRESETS, n=1, cutoff=0.7)
    choices = f"choose one of {', '.join(PRESETS)}"
    if not close:
        return choices
    shape = PRESETS[close[0]]
    described = f"{shape.architecture}, {shape.n_layers} layers x {shape.d_model}"
    return f"did you mean {close[0]} ({described})? Or {choices}"


def shaped(base: ModelConfig, overrides: dict[str, Any]) -> ModelConfig:
    """`base` with some settings replaced; heads and feed-forward width follow a new d_model unless they are given, and
    the width of an expert follows the feed-forward width.

    `overrides` may hold architecture, n_layers, n_heads, n_kv_heads, d_model, d_ff, experts, experts_per_token,
    d_expert, dense_layers, vocab_size and seq_len. None leaves a setting as it is. Where only experts are given, the
    family is the one that has the block of `base` with experts.

    Raises:
        UserError: no such model can be built.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    architecture = family(given.get("architecture", base.architecture))
    wants_experts = any(given.get(name) for name in ("experts", "experts_per_token", "d_expert"))
    if wants_experts and "architecture" not in given and architecture.expert_family:
        architecture = family(architecture.expert_family)
        base = dataclasses.replace(base, architecture=architecture.name)
    elif architecture.name != base.architecture:
        base = architecture.default_shape(base.n_layers, base.d_model, base.n_heads)
    d_model = given.get("d_model", base.d_model)
    if d_model != base.d_model:
        n_heads = max(1, d_model // base.head_dim)
        given = {"n_heads": n_heads, "d_ff": architecture.default_d_ff(d_model), **given}
    n_heads = given.get("n_heads", base.n_heads)
    if (d_model, n_heads) != (base.d_model, base.n_heads):
        if d_model % n_heads:
            raise UserError(
                f"--d-model {d_model} cannot be divided into --n-heads {n_heads} heads of equal size"
            )
        given = {"head_dim": d_model // n_heads, "n_kv_heads": n_heads, **given}
    widths = {name: given.get(name, getattr(base, name)) for name in ("d_ff", "experts_per_token")}
    if any(width != getattr(base, name) for name, width in widths.items()):
        given = {"d_expert": 0, **given}
    open_shape = ModelConfig(**dataclasses.asdict(base) | given)
    return model_config(dataclasses.asdict(architecture.with_experts(open_shape)))
