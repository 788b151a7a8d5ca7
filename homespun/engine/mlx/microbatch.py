"""The arrays of one micro-batch, and the sums over those of a step, which the two ways to compute gradients share."""

import mlx.core as mx

from homespun.engine.mlx.dropout import Dropout
from homespun.engine.mlx.layers import document_mask
from homespun.engine.mlx.model import Weights

MicroBatch = tuple[mx.array, mx.array, mx.array, mx.array | None, mx.array | None, Dropout | None]
"""Tokens and targets [B, T], the factor of all losses, that of each target's [B, T], the documents [B, T] that do not
see each other, and dropout."""
Sums = tuple[mx.array, Weights, mx.array | None]
"""Loss, gradients and the use of experts, [blocks, 3 + E], summed over the micro-batches so far."""


def attention_mask(documents: mx.array | None) -> mx.array | None:
    """The mask that keeps documents apart, if they are numbered."""
    return None if documents is None else document_mask(documents)
