"""The part of a model that all families share: tokens in, through embedding, blocks and final norm, logits out.

Parameter names are those of `architectures`. The letters of the shapes are those of `layers.py`. The twin of
`torch/model.py`; tests compare the two.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Self

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from homespun.architectures.lora import Lora, adapters
from homespun.config import ModelConfig
from homespun.engine.mlx.cache import Cache, LayerCache, Positions
from homespun.engine.mlx.dropout import Dropout, apply_dropout, of_block
from homespun.engine.mlx.layers import Embedding, Linear
from homespun.engine.mlx.mixture import Experts, Router
from homespun.engine.mlx.packed import Packed

Weights = dict[str, mx.array]
"""Parameters by name."""


class Block(nn.Module):
    """A layer of the stream: attention and feed-forward."""

    @abstractmethod
    def __call__(
        self,
        x: mx.array,
        mask: mx.array | None,
        dropout: Dropout | None,
        *,
        positions: Positions,
        cache: LayerCache | None,
    ) -> tuple[mx.array, mx.array | None]:
        """x [B, T, D] -> [B, T, D], and the use of its experts, see `base.RouterUse`, if the block has any."""


class DecoderModel(nn.Module):
    """A language model in a computing dtype; its parameters are zero until it is filled."""

    def __init__(self, config: ModelConfig, dtype: mx.Dtype) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.lm_head: Linear | None = None
        self.packed_head: Packed | None = None
        """The output layer in 8 bits, if decoding uses these."""

    @property
    @abstractmethod
    def embedding(self) -> mx.array:
        """The weight of the token embedding, [V, D]."""

    @property
    @abstractmethod
    def blocks(self) -> Sequence[Block]:
        """The blocks, first to last."""

    @abstractmethod
    def block(self, i: int) -> Block:
        """A new block, with zeros, such as number `i` of this model."""

    @abstractmethod
    def embed(self, tokens: mx.array, positions: Positions) -> mx.array:
        """Tokens [B, T] at some positions -> the stream [B, T, D] in float32."""

    @abstractmethod
    def final_norm(self, x: mx.array) -> mx.array:
        """[B, T, D] -> [B, T, D]."""

    @property
    def head(self) -> mx.array:
        """The weight of the output layer, [V, D]; the embedding where both are tied."""
        return self.embedding if self.lm_head is None else self.lm_head.weight

    def add_head(self) -> None:
        """The output layer, unless it is tied to the embedding."""
        c = self.config
        if not c.tie_embeddings:
            self.lm_head = Linear(c.d_model, c.vocab_size, bias=False)

    def add_adapters(self, lora: Lora) -> None:
        """Add the adapters of LoRA."""
        layers = dict(self.named_modules())
        for adapter in adapters(self.config, lora):
            layers[adapter.layer].add_adapter(lora.rank, lora.scale)

    def filled(self, weights: Weights) -> Self:
        """This model, with these weights in the place of its own."""
        self.update(tree_unflatten(list(weights.items())))
        return self

    def hidden(
        self,
        tokens: mx.array,
        cache: Cache | None = None,
        *,
        gradient_checkpointing: bool = False,
        mask: mx.array | None = None,
        dropout: Dropout | None = None,
    ) -> tuple[mx.array, mx.array | None]:
        """Tokens [B, T] -> the normed stream [B, T, D], and the use of the experts, a row for each block that has any.

        With a cache, the tokens follow those in it.
        """
        n = tokens.shape[1]
        positions: Positions = slice(0, n)
        if cache is not None:
            positions, mask = cache.next_positions(n)
        x = self.stream(tokens, positions, dropout)
        uses: list[mx.array] = []
        for i, block in enumerate(self.blocks):
            run = partial(block, positions=positions, cache=cache.layers[i] if cache else None)
            if gradient_checkpointing:
                # MLX's own `mx.checkpoint` would take the block's weights for constants. A block draws no random
                # numbers: its dropout is among its inputs.
                run = nn.utils.checkpoint(block, run)
            x, use = run(x, mask, of_block(dropout, i))
            if use is not None:
                uses.append(use)
        if cache is not None:
            cache.advance(n)
        return self.final_norm(x), mx.stack(uses) if uses else None

    def stream(self, tokens: mx.array, positions: Positions, dropout: Dropout | None) -> mx.array:
        """Tokens [B, T] -> the stream [B, T, D] that enters the first block."""
        return apply_dropout(self.embed(tokens, positions).astype(self.dtype), dropout, 0)

    def logits(self, hidden: mx.array) -> mx.array:
        """[..., D] -> [..., V], float32."""
        if self.packed_head:
            return self.packed_head.product(hidden).astype(mx.float32)
        return (hidden @ self.head.astype(hidden.dtype).T).astype(mx.float32)

    def for_decoding(self, packed: Mapping[str, Packed]) -> Self:
        """A model with adapters merged into its matrices, and these in the computing dtype, since decoding reads them
        once per token. Routers stay in float32; they are small.

        Args:
            packed: the matrices with 8 bits, if there are any, by name.
        """
        weights: Weights = dict(tree_flatten(self.parameters()))
        routers = set()
        for name, layer in self.named_modules():
            if isinstance(layer, Linear) and layer.lora_scale is not None:
                a, b = weights.pop(f"{name}.lora_a"), weights.pop(f"{name}.lora_b")
                whole = weights[f"{name}.weight"].astype(mx.float32) + layer.lora_scale * (b @ a)
                weights[f"{name}.weight"] = whole
            elif isinstance(layer, Router):
                routers.add(f"{name}.weight")
        model = type(self)(self.config, self.dtype).filled(
            {
                name: weight.astype(self.dtype)
                if weight.ndim > 1 and name not in routers
                else weight
                for name, weight in weights.items()
            }
        )
        model.pack(packed)
        return model

    def pack(self, packed: Mapping[str, Packed]) -> None:
        """Let the layers whose weights are among these compute with 8 bits."""
        nothing = mx.zeros((0,))
        table = self.embedding
        for name, module in self.named_modules():
            weight = f"{name}.weight"
            if isinstance(module, Experts):
                for matrices in ("gate_up_proj", "down_proj"):
                    if found := packed.get(f"{name}.{matrices}"):
                        module.packed[matrices] = found
                        module[matrices] = nothing
            elif weight in packed and (
                isinstance(module, Linear)
                or (isinstance(module, Embedding) and module.weight is table)
            ):
                module.packed = packed[weight]
                if module is self.lm_head or (self.lm_head is None and module.weight is table):
                    self.packed_head = packed[weight]
                module.weight = nothing
