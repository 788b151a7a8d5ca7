"""Qwen3-MoE (Qwen team, 2025): the block of Qwen3 with a mixture of experts as its feed-forward layer.

A router gives every token to a few experts, by a softmax over all of them; the weights of the chosen ones are divided
by their sum. No expert is shared by all tokens, and no token is dropped.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from homespun.architectures.base import (
    Activations,
    GGUFLayout,
    Parameter,
    Part,
    refuse_other_settings,
)
from homespun.architectures.qwen3 import Qwen3, linear
from homespun.config import ModelConfig
from homespun.errors import UserError

EXPERTS, EXPERTS_PER_TOKEN = 8, 2
"""The usual numbers. They cost little more time than a dense layer; more experts need a longer run to pay."""
WIDTH_UNIT = 8
"""On a GPU the products read rows in units of 16 bytes, which are eight numbers of 16 bits."""
GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"


class Qwen3Moe(Qwen3):
    """Experts have the initial values of Qwen3's feed-forward layers. Those of the router are as large as those of the
    other matrices that read the stream, so that the first choices differ from token to token."""

    name = "qwen3_moe"
    huggingface_class = "Qwen3MoeForCausalLM"
    gguf = GGUFLayout(
        norm_eps="attention.layer_norm_rms_epsilon",
        architecture="qwen3moe",
        has_rotary_positions=True,
        numbers=(
            ("expert_count", "experts"),
            ("expert_used_count", "experts_per_token"),
            ("expert_feed_forward_length", "d_expert"),
        ),
    )

    def check(self, config: ModelConfig) -> None:
        super().check(config)
        c = config
        if not 1 <= c.experts_per_token <= c.experts:
            raise UserError(
                f"a token uses {c.experts_per_token} of {c.experts} experts: --experts-per-token has to be at least "
                "one, and --experts as many or more"
            )
        for name, width in (("--d-expert", c.d_expert), ("--d-model", c.d_model)):
            if not width or width % WIDTH_UNIT:
                raise UserError(
                    f"{self.name} needs a multiple of {WIDTH_UNIT} as {name}, not {width}"
                )
        if c.dense_layers >= c.n_layers:
            raise UserError(
                f"--dense-layers {c.dense_layers} leaves no layer of {c.n_layers} for experts: lower it"
            )

    def shape(self, n_layers: int, d_model: int, **others: Any) -> ModelConfig:
        """As a shape of Qwen3, with experts.

        Args:
            others: as for Qwen3, and the number of experts as `experts`.
        """
        experts = others.pop("experts", EXPERTS)
        dense = super().shape(n_layers, d_model, **others)
        return self.with_experts(dataclasses.replace(dense, experts=experts))

    def with_experts(self, config: ModelConfig) -> ModelConfig:
        """A shape in which open settings of the experts have their usual values. Those that one token uses are together
        as wide as a dense layer."""
        per_token = config.experts_per_token or EXPERTS_PER_TOKEN
        width = config.d_expert or WIDTH_UNIT * math.ceil(config.d_ff / per_token / WIDTH_UNIT)
        return dataclasses.replace(
            config,
            architecture=self.name,
            experts=config.experts or EXPERTS,
            experts_per_token=per_token,
            d_expert=width,
        )

    def feed_forward(self, config: ModelConfig, i: int) -> list[Parameter]:
        c, block, std = config, f"{self.block_prefix}.{i}", config.d_model**-0.5
        if i < c.dense_layers:
            return super().feed_forward(c, i)
        return [
            dataclasses.replace(
                linear(f"{block}.mlp.gate", c.experts, c.d_model, std), is_router=True
            ),
            Parameter(
                f"{block}.{GATE_UP}",
                (c.experts, 2 * c.d_expert, c.d_model),
                "matrix",
                std,
                stacked=2 * c.experts,
            ),
            Parameter(
                f"{block}.{DOWN}",
                (c.experts, c.d_model, c.d_expert),
                "matrix",
                self.written_std(c, c.d_expert),
                stacked=c.experts,
            ),
        ]

    def active_size(self, parameter: Parameter, config: ModelConfig) -> int:
        if parameter.name.endswith((GATE_UP, DOWN)):
            return parameter.size // config.experts * config.experts_per_token
        return parameter.size

    def activations(self, config: ModelConfig) -> Activations:
        c = config
        dense = super().activations(c)
        # For each expert of a token its copy of the token, gate and up, their product, and the result.
        of_expert = 2 * c.d_model + 4 * c.d_expert
        return Activations(
            float32=dense.float32 + 3 * c.experts + c.d_model,
            computed=dense.computed - 4 * c.d_ff + c.experts_per_token * of_expert,
        )

    def huggingface_config(self, config: ModelConfig) -> dict[str, Any]:
        return super().huggingface_config(config) | {
            "num_experts": config.experts,
            "num_experts_per_tok": config.experts_per_token,
            "moe_intermediate_size": config.d_expert,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": list(range(config.dense_layers)),
            "router_aux_loss_coef": 0.001,
            "output_router_logits": False,
        }

    def from_huggingface_config(self, values: Mapping[str, Any]) -> ModelConfig:
        defaults = {"norm_topk_prob": False, "decoder_sparse_step": 1}
        refuse_other_settings(
            defaults | dict(values), {"norm_topk_prob": (True,), "decoder_sparse_step": (1,)}
        )
        dense = sorted(values.get("mlp_only_layers") or [])
        if dense != list(range(len(dense))):
            raise UserError(f"its blocks {dense} have no experts, which must be the first ones")
        return dataclasses.replace(
            super().from_huggingface_config(values),
            experts=values["num_experts"]
            if "num_experts" in values
            else values["num_local_experts"],
            experts_per_token=values["num_experts_per_tok"],
            d_expert=values["moe_intermediate_size"],
            dense_layers=len(dense),
        )

    def huggingface_parts(self, parameter: Parameter) -> list[Part]:
        """Published folders hold a tensor for each matrix of each expert."""
        merged = self.merged_parts(parameter)
        if not parameter.name.endswith((GATE_UP, DOWN)):
            return merged
        return [
            Part(part.name.replace(".experts.", f".experts.{expert}."), (expert, *part.place[1:]))
            for expert in range(parameter.shape[0])
            for part in merged
        ]

    def merged_parts(self, parameter: Parameter) -> list[Part]:
        """The matrices of all experts are one tensor, and gate and up are two."""
        name = parameter.name
        if name.endswith(DOWN):
            return [Part(f"{name}.weight", (slice(None),))]
        if not name.endswith(GATE_UP):
            return [Part(name)]
        stem, half = name.removesuffix("gate_up_proj"), parameter.shape[1] // 2
        return [
            Part(f"{stem}gate_proj.weight", (slice(None), slice(half))),
            Part(f"{stem}up_proj.weight", (slice(None), slice(half, None))),
        ]

    def mlx_name(self, name: str) -> str:
        return name.replace(".mlp.experts.", ".mlp.switch_mlp.")

    def check_for_gguf(self, config: ModelConfig) -> None:
        if config.dense_layers:
            raise UserError(
                f"llama.cpp has {self.name} only with experts in all blocks, not with --dense-layers "
                f"{config.dense_layers}: export to another format"
            )
