"""The part of a model that all families share: tokens in, through embedding, blocks and final norm, logits out.

Parameter names are those of `architectures`, in the same order. The letters of the shapes are those of `layers.py`.
"""

from abc import abstractmethod
from collections.abc import Collection
from copy import deepcopy
from functools import cache
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from homespun.architectures.lora import Lora, adapters
from homespun.config import ModelConfig
from homespun.engine.torch.cache import Cache, LayerCache
from homespun.engine.torch.dropout import Dropout, apply_dropout
from homespun.engine.torch.eight_bits import EightBitEmbedding, EightBitLinear, fits, rounded
from homespun.engine.torch.layers import Embedding, Linear
from homespun.engine.torch.mixture import Experts


class Block(nn.Module):
    """A layer of the stream: attention and feed-forward."""

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        rope: Tensor | None,
        cache: LayerCache | None,
        mask: Tensor | None,
        dropout: Dropout | None,
    ) -> tuple[Tensor, Tensor | None]:
        """x [B, T, D] -> [B, T, D], and the use of its experts, see `base.RouterUse`, if the block has any."""

    def join_projections(self) -> None:
        """Replace the matrices that take the same input by one, for decoding. By default a block has none."""


class DecoderModel(nn.Module):
    """A language model in a computing dtype. Its parameters are float32, unless `allocate` has made others."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.lm_head: Linear | None = None
        self.head_of_8_bits: EightBitLinear | None = None

    @property
    @abstractmethod
    def embedding(self) -> Tensor:
        """The weight of the token embedding, [V, D]."""

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The blocks, first to last."""

    @abstractmethod
    def embed(
        self, tokens: Tensor, positions: slice | Tensor, end: int
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens [B, T] at some positions below `end`, a slice for all rows or [B, T] -> the stream [B, T, D] in
        float32, and the rotary tables of these positions if the blocks use them."""

    @abstractmethod
    def final_norm(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""

    @property
    def head(self) -> Tensor:
        """The weight of the output layer, [V, D]; the embedding where both are tied."""
        return self.embedding if self.lm_head is None else self.lm_head.weight

    def add_head(self) -> None:
        """The output layer, unless it is tied to the embedding. The last parameter of a model."""
        c = self.config
        if not c.tie_embeddings:
            self.lm_head = Linear(c.d_model, c.vocab_size, bias=False)

    def allocate(self, narrow: Collection[str], device: torch.device) -> None:
        """Make all parameters of a model on the meta device, as zeros: those that are named in bfloat16, so that they
        are never in memory in float32."""
        for name, shape in [(name, p.shape) for name, p in self.named_parameters()]:
            dtype = torch.bfloat16 if name in narrow else torch.float32
            parent, _, own = name.rpartition(".")
            values = torch.zeros(shape, dtype=dtype, device=device)
            setattr(self.get_submodule(parent), own, nn.Parameter(values))

    def add_adapters(self, lora: Lora) -> None:
        """Add the adapters of LoRA, and leave all other parameters without gradients. The matrices and an untied head
        are only read from now on, so they are kept in the computing dtype."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Linear):
                module.is_frozen = True
                module.weight.data = module.weight.data.to(self.dtype)
            elif isinstance(module, Experts):
                for matrices in module.parameters():
                    matrices.data = matrices.data.to(self.dtype)
        for adapter in adapters(self.config, lora):
            layer = self.get_submodule(adapter.layer)
            assert isinstance(layer, Linear)
            layer.add_adapter(lora.rank, lora.scale)

    def hidden(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        *,
        gradient_checkpointing: bool = False,
        mask: Tensor | None = None,
        dropout: Dropout | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens [B, T] -> the normed stream [B, T, D], and the use of the experts, a row for each block that has any.

        With a cache, the tokens follow those in it.
        """
        n = tokens.shape[1]
        positions: slice | Tensor = slice(0, n)
        end = n
        if cache is not None:
            end = cache.length + n
            positions, mask = cache.next_positions(n)
        x, rope = self.embed(tokens, positions, end)
        x = apply_dropout(x.to(self.dtype), dropout, 0)
        uses: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            inputs = (
                x,
                rope,
                cache.layers[i] if cache else None,
                mask,
                dropout.of_block(i) if dropout else None,
            )
            if gradient_checkpointing:
                # A block draws no random numbers: its dropout is among its inputs.
                x, use = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                x, use = block(*inputs)
            if use is not None:
                uses.append(use)
        if cache is not None:
            cache.advance(n)
        return self.final_norm(x), torch.stack(uses) if uses else None

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V], float32."""
        if self.head_of_8_bits is not None:
            logits: Tensor = self.head_of_8_bits(hidden)
            return logits.float()
        return nn.functional.linear(hidden, self.head.to(hidden.dtype)).float()

    def for_decoding(self, *, copy: bool, eight_bits: bool = False) -> Self:
        """A model without gradients, with weights in the computing dtype, but for those of norms and routers, and
        matrices with the same input joined into one.

        Args:
            eight_bits: the matrices, and the embedding of tokens, have 8 bits a weight instead.
            copy: whether later changes of this model's weights must leave the result as it is. Otherwise weights that
                need no cast are shared.
        """
        ready: dict[int, Tensor] = {}
        for module in self.modules():
            in_dtype = isinstance(module, (Linear, Embedding, Experts))
            for name, weight in module.named_parameters(recurse=False):
                dtype = self.dtype if in_dtype and not eight_bits else weight.dtype
                tensor = weight.detach()
                if isinstance(module, Linear) and name == "weight":
                    tensor = module.merged()
                tensor = tensor.to(dtype, copy=copy)
                ready[id(weight)] = nn.Parameter(tensor, requires_grad=False)
        model = deepcopy(self, ready)  # copies the modules, and takes the tensors from `ready`
        for module in model.modules():
            if isinstance(module, Linear):
                module.drop_adapter()
        for block in model.blocks:
            assert isinstance(block, Block)
            block.join_projections()
        if eight_bits:
            model._round()
        for module in model.modules():
            without_overhead(module)
        return model

    def _round(self) -> None:
        """Put the matrices, and the embedding of tokens, into 8 bits."""
        table, head = self.embedding, self.lm_head
        for parent in list(self.modules()):
            if isinstance(parent, Experts):
                parent.round()
            for name, layer in list(parent.named_children()):
                if not isinstance(layer, Linear | Embedding):
                    continue
                if not fits(layer.weight):
                    layer.to(self.dtype)
                elif isinstance(layer, Linear):
                    packed = EightBitLinear(*rounded(layer.weight), layer.bias)
                    setattr(parent, name, packed)
                    if layer is head:
                        self.head_of_8_bits = packed
                elif layer.weight is table:
                    values, scales = rounded(table)
                    setattr(parent, name, EightBitEmbedding(values, scales))
                    if head is None:
                        self.head_of_8_bits = EightBitLinear(values, scales, None)


def without_overhead(module: nn.Module) -> None:
    """Let a module that is ready for decoding find its parts at once, call `forward` directly, without hooks, and cast
    nothing. Otherwise these take a tenth or more of the time of a small model's token."""
    parameters = {name: p if p is None else p.detach() for name, p in module._parameters.items()}
    vars(module).update(parameters | module._modules)
    kind = type(module)
    module.__class__ = _without_hooks(nn.Linear if kind is Linear else kind)  # type: ignore[arg-type]


@cache
def _without_hooks(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"__call__": kind.forward})
