"""Head and cross-entropy together, a slice of rows at a time: hidden states and targets flow in, the summed loss out.

The logits of a whole batch, [B * T, V] in float32, are the largest tensor of a small model's training step. Here they
exist for `HEAD_ROWS` rows only, and the gradients of both inputs are computed at once from each slice (the method of
Liger Kernel, Hsu et al., 2024). MLX computes lazily, so each slice depends explicitly on the one before it.

N rows of a batch (B * T), D width of the stream, V tokens in the vocabulary.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import mlx.core as mx

from homespun.data.batch import IGNORED
from homespun.engine.base import HEAD_ROWS


def loss_and_slope(
    logits: mx.array, targets: mx.array, scale: mx.array, weights: mx.array | None = None
) -> tuple[mx.array, mx.array]:
    """The summed loss of some rows, each times its weight, and `scale` times its derivative by the logits, in their
    dtype.

    logits [N, V], targets [N], scale [], weights [N] -> [] and [N, V].
    """
    valid = (targets != IGNORED)[:, None]
    index = mx.maximum(targets, 0)[:, None]
    wide = logits.astype(mx.float32)
    log_probabilities = wide - mx.logsumexp(wide, axis=-1, keepdims=True)
    row_loss = -mx.take_along_axis(log_probabilities, index, axis=-1)
    hit = mx.arange(logits.shape[1]) == index
    if weights is not None:
        row_loss, scale = row_loss * weights[:, None], scale * weights[:, None]
    slope = mx.where(valid, (mx.exp(log_probabilities) - hit) * scale, 0.0)
    return mx.where(valid, row_loss, 0.0).sum(), slope.astype(logits.dtype)


def losses_and_gradients(
    hidden: mx.array,
    head: mx.array,
    targets: mx.array,
    scale: mx.array,
    weights: mx.array | None = None,
    *,
    wants_head: bool = True,
) -> tuple[mx.array, mx.array, mx.array]:
    """`scale` times the summed cross-entropy, in nats, of `hidden @ head.T`, that of each row times its weight, and its
    gradients by both.

    hidden [N, D] in the computing dtype, head [V, D] as it is kept, targets and weights [N], scale [] -> [], [N, D] and
    [V, D]. If the gradient of the head is not wanted, it is left at zero.
    """
    narrow = head.astype(hidden.dtype)
    total = mx.zeros(())
    grad_hidden: list[mx.array] = []
    grad_head: list[mx.array] = []
    for rows in _slices(hidden):
        # Without this dependence, the slopes of all slices would be in memory before the first is used.
        before = [total, *grad_hidden[-1:], *grad_head]
        part = mx.depends(hidden[rows], before)
        factors = None if weights is None else weights[rows]
        loss, slope = loss_and_slope(part @ narrow.T, targets[rows], scale, factors)
        total = total + loss
        grad_hidden.append(slope @ narrow)
        if wants_head:
            of_slice = slope.T @ part
            if len(hidden) > HEAD_ROWS:  # several slices are added up in float32
                of_slice = of_slice.astype(mx.float32)
            grad_head = [grad_head[0] + of_slice] if grad_head else [of_slice]
    [of_head] = grad_head or [mx.zeros(head.shape)]
    return total * scale, mx.concatenate(grad_hidden), of_head.astype(head.dtype)


def _gradients(primals: Any, cotangents: Any, outputs: Any) -> Any:
    """The gradients that the forward pass has computed, times the gradient of the loss itself."""
    _, _, targets, scale, *weights = primals
    _, grad_hidden, grad_head = outputs
    above = cotangents[0]
    return (
        (grad_hidden * above).astype(
            grad_hidden.dtype
        ),  # multiplied in float32, the dtype of the loss
        grad_head * above,
        mx.zeros_like(targets),
        mx.zeros_like(scale),
        *map(mx.zeros_like, weights),
    )


def _with_derivative(wants_head: bool) -> Any:
    function = mx.custom_function(partial(losses_and_gradients, wants_head=wants_head))
    function.vjp(_gradients)
    return function


_WITH_HEAD, _WITHOUT_HEAD = _with_derivative(True), _with_derivative(False)


def head_loss(
    hidden: mx.array,
    head: mx.array,
    targets: mx.array,
    scale: mx.array,
    weights: mx.array | None = None,
    *,
    wants_head: bool = True,
) -> mx.array:
    """The loss of `losses_and_gradients`. Its derivative uses the gradients that are computed there."""
    function = _WITH_HEAD if wants_head else _WITHOUT_HEAD
    factors = () if weights is None else (weights,)
    loss: mx.array = function(hidden, head, targets, scale, *factors)[0]
    return loss


def row_losses(hidden: mx.array, head: mx.array, targets: mx.array) -> mx.array:
    """Cross-entropies [N] in nats, float32, without gradients, 0 where a target is ignored; hidden [N, D], targets
    [N]."""
    narrow = head.astype(hidden.dtype)
    losses: list[mx.array] = []
    for rows in _slices(hidden):
        part = mx.depends(hidden[rows], losses[-1]) if losses else hidden[rows]
        logits = (part @ narrow.T).astype(mx.float32)
        index = mx.maximum(targets[rows], 0)[:, None]
        chosen = mx.take_along_axis(logits, index, axis=-1)[:, 0]
        row_loss = mx.logsumexp(logits, axis=-1) - chosen
        losses.append(mx.where(targets[rows] != IGNORED, row_loss, 0.0))
    return mx.concatenate(losses)


def _slices(hidden: mx.array) -> Iterator[slice]:
    return (slice(start, start + HEAD_ROWS) for start in range(0, len(hidden), HEAD_ROWS))
