"""Qwen3 (Qwen team, 2025): rotary positions, RMSNorm, SwiGLU, grouped key/value heads, normed queries and keys."""

import math
from collections.abc import Mapping
from typing import Any

from homespun.architectures.base import (
    Activations,
    Family,
    GGUFLayout,
    Parameter,
    refuse_other_settings,
)
from homespun.config import ModelConfig
from homespun.errors import UserError


def linear(name: str, n_out: int, n_in: int, std: float, stacked: int = 1) -> Parameter:
    """A matrix without a bias."""
    return Parameter(f"{name}.weight", (n_out, n_in), "matrix", std, stacked=stacked)


class Qwen3(Family):
    """With a head of its own, the head and the matrices that write into the residual stream start at zero. So every
    block is the identity at first, and the first loss is that of a uniform guess.

    A tied head multiplies the stream by the token embeddings. If the blocks were the identity, each token would predict
    itself, the more so the wider the model. So the blocks write from the start, as in GPT-2, with the small embeddings
    of GPT-2."""

    name = "qwen3"
    huggingface_class = "Qwen3ForCausalLM"
    block_prefix = "model.layers"
    has_grouped_heads = True
    has_qk_norm = True
    expert_family = "qwen3_moe"
    gguf = GGUFLayout(norm_eps="attention.layer_norm_rms_epsilon", has_rotary_positions=True)

    def check(self, config: ModelConfig) -> None:
        if config.head_dim % 2:
            raise UserError(
                f"rotary positions need an even head size, not {config.head_dim}: change --n-heads"
            )

    def default_shape(self, n_layers: int, d_model: int, n_heads: int) -> ModelConfig:
        return self.shape(n_layers, d_model)

    def shape(
        self,
        n_layers: int,
        d_model: int,
        *,
        n_kv_heads: int | None = None,
        head_dim: int = 64,
        d_ff: int | None = None,
        tied: bool = False,
    ) -> ModelConfig:
        """A shape whose heads of size `head_dim` fill the width; by default each has its own key/value head."""
        n_heads = max(1, d_model // head_dim)
        return ModelConfig(
            architecture=self.name,
            n_layers=n_layers,
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads or n_heads,
            head_dim=head_dim,
            d_ff=d_ff or self.default_d_ff(d_model),
            tie_embeddings=tied,
            norm_eps=1e-6,
        )

    def default_d_ff(self, d_model: int) -> int:
        """8/3 of the width, as a gated layer has a third matrix, rounded up to a multiple of 64."""
        return 64 * math.ceil(d_model / 24)

    def parameters(self, config: ModelConfig) -> list[Parameter]:
        c = config
        std = c.d_model**-0.5

        def norm(name: str, size: int = c.d_model) -> Parameter:
            return Parameter(f"{name}.weight", (size,), "vector", mean=1.0)

        def heads(name: str, n: int) -> Parameter:
            return linear(name, n * c.head_dim, c.d_model, std, stacked=n)

        def qk_norms(attention: str) -> list[Parameter]:
            names = ("q_norm", "k_norm") if self.has_qk_norm else ()
            return [norm(f"{attention}.{name}", c.head_dim) for name in names]

        embedding_std = 0.02 if c.tie_embeddings else 1.0
        embedding_shape = (c.vocab_size, c.d_model)
        found = [
            Parameter("model.embed_tokens.weight", embedding_shape, "embedding", embedding_std)
        ]
        for i in range(c.n_layers):
            block = f"{self.block_prefix}.{i}"
            attention = f"{block}.self_attn"
            found += [
                norm(f"{block}.input_layernorm"),
                heads(f"{attention}.q_proj", c.n_heads),
                heads(f"{attention}.k_proj", c.n_kv_heads),
                heads(f"{attention}.v_proj", c.n_kv_heads),
                *qk_norms(attention),
                linear(
                    f"{attention}.o_proj",
                    c.d_model,
                    c.n_heads * c.head_dim,
                    self.written_std(c, c.n_heads * c.head_dim),
                ),
                norm(f"{block}.post_attention_layernorm"),
                *self.feed_forward(c, i),
            ]
        found.append(norm("model.norm"))
        if not c.tie_embeddings:
            found.append(Parameter("lm_head.weight", embedding_shape, "head", 0.0))
        return found

    def feed_forward(self, config: ModelConfig, i: int) -> list[Parameter]:
        """The parameters of the feed-forward layer of block i."""
        c, mlp, std = config, f"{self.block_prefix}.{i}.mlp", config.d_model**-0.5
        return [
            linear(f"{mlp}.gate_proj", c.d_ff, c.d_model, std),
            linear(f"{mlp}.up_proj", c.d_ff, c.d_model, std),
            linear(f"{mlp}.down_proj", c.d_model, c.d_ff, self.written_std(c, c.d_ff)),
        ]

    def written_std(self, config: ModelConfig, n_in: int) -> float:
        """The standard deviation of the initial values of a matrix that writes into the residual stream."""
        return (2 * config.n_layers * n_in) ** -0.5 if config.tie_embeddings else 0.0

    def activations(self, config: ModelConfig) -> Activations:
        c = config
        normed_heads = (c.n_heads + c.n_kv_heads) * c.head_dim if self.has_qk_norm else 0
        # Queries, keys and values before and after their rotation, and the result.
        attention = 3 * (c.n_heads + c.n_kv_heads) * c.head_dim
        return Activations(
            float32=2 * c.d_model + normed_heads,
            computed=2 * c.d_model + attention + 4 * c.d_ff,
        )

    def huggingface_config(self, config: ModelConfig) -> dict[str, Any]:
        return {
            "architectures": [self.huggingface_class],
            "model_type": self.name,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.seq_len,
            "hidden_size": config.d_model,
            "num_hidden_layers": config.n_layers,
            "num_attention_heads": config.n_heads,
            "num_key_value_heads": config.n_kv_heads,
            "head_dim": config.head_dim,
            "intermediate_size": config.d_ff,
            "hidden_act": "silu",
            "rms_norm_eps": config.norm_eps,
            "tie_word_embeddings": config.tie_embeddings,
            "rope_theta": config.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        }

    def from_huggingface_config(self, values: Mapping[str, Any]) -> ModelConfig:
        refuse_other_settings(
            values,
            {
                "hidden_act": ("silu",),
                "attention_bias": (False,),
                "mlp_bias": (False,),
                "rope_scaling": (None,),
                "partial_rotary_factor": (1,),
            },
        )
        if any(kind != "full_attention" for kind in values.get("layer_types") or ()) or (
            values.get("use_sliding_window") and values.get("sliding_window") is not None
        ):
            raise UserError("it attends through a sliding window, which is not supported")
        rotary = values.get("rope_parameters") or {}
        refuse_other_settings(rotary, {"rope_type": ("default",), "partial_rotary_factor": (1,)})
        theta = rotary.get("rope_theta", values.get("rope_theta", 10000.0))
        n_heads = values["num_attention_heads"]
        return ModelConfig(
            architecture=self.name,
            vocab_size=values["vocab_size"],
            seq_len=values["max_position_embeddings"],
            n_layers=values["num_hidden_layers"],
            d_model=values["hidden_size"],
            n_heads=n_heads,
            n_kv_heads=values.get("num_key_value_heads") or n_heads,
            head_dim=values.get("head_dim") or values["hidden_size"] // n_heads,
            d_ff=values["intermediate_size"],
            tie_embeddings=values.get("tie_word_embeddings", False),
            norm_eps=values["rms_norm_eps"],
            rope_theta=theta,
        )
