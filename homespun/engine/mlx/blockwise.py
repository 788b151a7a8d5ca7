"""Gradients with the activations of one block at a time: weights and a micro-batch flow in, summed gradients flow out.

MLX computes lazily, and frees what nothing refers to. A backward pass of the whole model would leave the order of its
parts, and so the memory, to MLX. Here each block is computed before the next one is begun: forward, of which only the
input of each block stays, and then backward, last block first, where a block is computed again for its gradients.
These take the dtype of their weights at once.

The letters of the shapes are those of `layers.py`.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten

from homespun.architectures.base import Group, Parameter
from homespun.data.batch import IGNORED
from homespun.engine.mlx.dropout import Dropout, of_block
from homespun.engine.mlx.loss import losses_and_gradients
from homespun.engine.mlx.microbatch import MicroBatch, Sums, attention_mask
from homespun.engine.mlx.model import DecoderModel, Weights


class Blockwise:
    """The gradients of some parameters of a model."""

    def __init__(
        self,
        new_model: Callable[[Weights], DecoderModel],
        spec: Iterable[Parameter],
        block_prefix: str,
        trained: Collection[str],
        router_factors: tuple[float, float],
        compiled: Callable[[Any], Any],
    ) -> None:
        """
        Args:
            new_model: makes a model with these weights, and zeros instead of all others.
            spec: all parameters of the model.
            block_prefix: of the names of the parameters in blocks, before the number of the block.
            trained: the names of those whose gradients are wanted.
            router_factors: of the balance loss and the z-loss of each router, in the loss.
            compiled: `mx.compile`, or leaves a function as it is.
        """
        self.new_model = new_model
        self.model = new_model({})
        """Its arrays are never computed."""
        self.trained = frozenset(trained)
        self.router_factors = router_factors
        n_blocks = len(self.model.blocks)
        self.blocks: list[dict[str, str]] = [{} for _ in range(n_blocks)]
        """The parameters of each block: the whole names by those within the block."""
        self.ends: list[Parameter] = []
        """The parameters outside of blocks."""
        for p in spec:
            if p.name.startswith(f"{block_prefix}."):
                number, _, own = p.name.removeprefix(f"{block_prefix}.").partition(".")
                self.blocks[int(number)][own] = p.name
            else:
                self.ends.append(p)
        names = [set(block) for block in self.blocks]
        self.kinds = [names.index(own) for own in names]
        """For each block, the first one that has the same parameters, and so the same layers."""
        zeros = {p.name: mx.zeros(p.shape) for p in self.ends}
        head = new_model(zeros).head
        self.head = next(name for name, array in zeros.items() if array is head)
        self.enter = compiled(self._enter)
        self.forward = compiled(self._forward)
        self.backward = compiled(self._backward)
        self.leave = compiled(self._leave)
        self.backward_of_entry = compiled(self._backward_of_entry)

    def add(self, weights: Weights, sums: Sums | None, batch: MicroBatch) -> Sums:
        """Add the loss and the gradients of a micro-batch, and compute them. Changes the dictionary of gradients."""
        tokens, targets, scale, target_weights, documents, dropout = batch
        mask = attention_mask(documents)
        loss, grads, all_uses = sums or (mx.zeros(()), {}, None)
        ends = {p.name: weights[p.name] for p in self.ends}

        inputs: list[mx.array] = []
        uses: list[mx.array | None] = []
        x = self.enter(ends, tokens, dropout)
        for i, kind in enumerate(self.kinds):
            inputs.append(x)
            x, use = self.forward(kind, self._of_block(weights, i), x, mask, of_block(dropout, i))
            uses.append(use)
            mx.eval(x, use)

        part, slope, found = self.leave(ends, x, targets, scale, target_weights)
        loss = loss + part
        _add(grads, found)
        mx.eval(loss, slope, grads)

        n_targets = scale * (targets != IGNORED).sum()  # a micro-batch counts by its targets
        of_routers = [use for use in uses if use is not None]
        use_slope = None
        if of_routers:
            factors = [*self.router_factors] + [0.0] * (of_routers[0].size - 2)
            use_slope = mx.array(factors) * n_targets
            of_batch = mx.stack(of_routers) * n_targets
            all_uses = of_batch if all_uses is None else all_uses + of_batch
        for i, kind in reversed(list(enumerate(self.kinds))):
            slope, found = self.backward(
                kind,
                *self._divided(self._of_block(weights, i), self.blocks[i]),
                inputs.pop(),
                mask,
                of_block(dropout, i),
                slope,
                None if uses[i] is None else use_slope,
            )
            _add(grads, {self.blocks[i][own]: grad for own, grad in found.items()})
            mx.eval(slope, grads)
        _add(grads, self.backward_of_entry(ends, tokens, dropout, slope))
        mx.eval(grads, all_uses)
        return loss, grads, all_uses

    def _enter(self, ends: Weights, tokens: mx.array, dropout: Dropout | None) -> mx.array:
        """Tokens [B, T] -> the stream [B, T, D]."""
        return self.new_model(ends).stream(tokens, slice(0, tokens.shape[1]), dropout)

    def _backward_of_entry(
        self, ends: Weights, tokens: mx.array, dropout: Dropout | None, slope: mx.array
    ) -> Weights:
        """The gradients of the embeddings; `slope` [B, T, D] is that of the stream that enters the first block."""
        names = self._trained_ends("embedding")

        def enter(*tables: mx.array) -> list[mx.array]:
            return [self._enter(ends | dict(zip(names, tables, strict=True)), tokens, dropout)]

        _, found = mx.vjp(enter, [ends[name] for name in names], [slope])
        return dict(zip(names, found, strict=True))

    def _forward(
        self,
        kind: int,
        weights: Weights,
        x: mx.array,
        mask: mx.array | None,
        dropout: Dropout | None,
    ) -> tuple[mx.array, mx.array | None]:
        """One block, see `model.Block`; its parameters have their names within the block."""
        block = self.model.block(kind)
        block.update(tree_unflatten(list(weights.items())))
        return block(x, mask, dropout, positions=slice(0, x.shape[1]), cache=None)

    def _backward(
        self,
        kind: int,
        trained: Weights,
        fixed: Weights,
        x: mx.array,
        mask: mx.array | None,
        dropout: Dropout | None,
        slope: mx.array,
        use_slope: mx.array | None,
    ) -> tuple[mx.array, Weights]:
        """The gradients of a block's input [B, T, D] and of its parameters, from those of its output [B, T, D] and of
        the use of its experts [3 + E]."""

        def run(*arrays: mx.array) -> list[mx.array]:
            weights = fixed | dict(zip(trained, arrays[:-1], strict=True))
            y, use = self._forward(kind, weights, arrays[-1], mask, dropout)
            return [y] if use is None else [y, use]

        slopes = [slope] if use_slope is None else [slope, use_slope]
        _, (*found, slope) = mx.vjp(run, [*trained.values(), x], slopes)
        return slope, dict(zip(trained, found, strict=True))

    def _leave(
        self,
        ends: Weights,
        x: mx.array,
        targets: mx.array,
        scale: mx.array,
        target_weights: mx.array | None,
    ) -> tuple[mx.array, mx.array, Weights]:
        """The loss of the stream x [B, T, D] that leaves the last block, its gradient, and those of the final norm and
        of the head."""
        model = self.new_model(ends)
        names = self._trained_ends("vector")

        def normed(*arrays: mx.array) -> list[mx.array]:
            weights = dict(zip(names, arrays[:-1], strict=True))
            return [model.filled(weights).final_norm(arrays[-1])]

        loss, slope, of_head = losses_and_gradients(
            model.final_norm(x).flatten(0, 1),
            model.head,
            targets.flatten(),
            scale,
            None if target_weights is None else target_weights.flatten(),
            wants_head=self.head in self.trained,
        )
        inputs = [*(ends[name] for name in names), x]
        _, (*found, slope) = mx.vjp(normed, inputs, [slope.reshape(x.shape)])
        grads = dict(zip(names, found, strict=True))
        return loss, slope, grads | ({self.head: of_head} if self.head in self.trained else {})

    def _of_block(self, weights: Weights, i: int) -> Weights:
        return {own: weights[name] for own, name in self.blocks[i].items()}

    def _divided(self, weights: Weights, names: dict[str, str]) -> tuple[Weights, Weights]:
        """Those of a block that are trained, and the others."""
        trained = {own: array for own, array in weights.items() if names[own] in self.trained}
        return trained, {own: array for own, array in weights.items() if own not in trained}

    def _trained_ends(self, group: Group) -> list[str]:
        return [p.name for p in self.ends if p.group == group and p.name in self.trained]


def _add(sums: Weights, grads: Weights) -> None:
    for name, grad in grads.items():
        sums[name] = sums[name] + grad if name in sums else grad
