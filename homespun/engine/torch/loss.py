"""Head and cross-entropy together, a slice of rows at a time: hidden states and targets flow in, the summed loss out.

The logits of a whole batch, [B * T, V] in float32, are the largest tensor of a small model's training step. Here they
exist for `HEAD_ROWS` rows only, and the gradients of both inputs are computed at once from each slice (the method of
Liger Kernel, Hsu et al., 2024).

N rows of a batch (B * T), D width of the stream, V tokens in the vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from homespun.data.batch import IGNORED
from homespun.engine.base import HEAD_ROWS


def loss_to_slope(
    logits: Tensor,
    targets: Tensor,
    scale: Tensor,
    weights: Tensor | None = None,
    scratch: Tensor | None = None,
) -> Tensor:
    """The summed loss of some rows, each times its weight. Logits become `scale` times its derivative by them.

    logits [N, V], targets [N], scale [], weights [N] -> []. On a CPU, `scratch` [N, V] in float32 takes the
    probabilities; in float32 it may be the logits.
    """
    valid = targets != IGNORED
    index = targets.clamp(min=0).unsqueeze(1)
    largest, of_targets = logits.amax(1).float(), logits.gather(1, index).squeeze(1).float()
    if scratch is None:
        probabilities = torch.softmax(logits, dim=-1, dtype=torch.float32)
    else:
        probabilities = torch.softmax(scratch.copy_(logits), dim=-1, out=scratch)
    # Computed from the most likely token, because the probability of the target may underflow to zero.
    row_loss = largest - probabilities.amax(1).log() - of_targets
    counts = valid if weights is None else valid * weights
    weight = (counts * scale).unsqueeze(1)
    logits.copy_(probabilities.mul_(weight).scatter_add_(1, index, -weight))
    return (row_loss * counts).sum()


class HeadLoss(torch.autograd.Function):
    """`scale` times the summed cross-entropy, in nats, of `hidden @ head.T`, that of each row times its weight.

    hidden [N, D] in the computing dtype, head [V, D] as it is kept, targets and weights [N] -> scalar, float32. The
    forward pass computes the gradients; the backward pass multiplies them by the gradient of the loss, in place, so a
    graph that is kept can be differentiated only once unless that gradient is 1 on a CPU.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        scale: Tensor,
        derive: Any,
        weights: Tensor | None,
    ) -> Tensor:
        wants_hidden, wants_head, *_ = ctx.needs_input_grad
        narrow = head.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_head: Tensor | None = None
        # All slices use the same memory: on a CPU, freed memory lies in pieces that others do not fit.
        n_rows, on_cpu = min(len(hidden), HEAD_ROWS), hidden.device.type == "cpu"
        logits = hidden.new_empty(n_rows, len(head))
        scratch = None  # a compiled function needs none
        if on_cpu and derive is loss_to_slope:
            is_wide = logits.dtype == torch.float32
            scratch = logits if is_wide else torch.empty_like(logits, dtype=torch.float32)
        part = torch.empty_like(narrow) if wants_head else None
        for start in range(0, len(hidden), HEAD_ROWS):
            rows = slice(start, start + HEAD_ROWS)
            n = len(targets[rows])
            slope = torch.mm(hidden[rows], narrow.T, out=logits[:n])
            factors = None if weights is None else weights[rows]
            total += derive(
                slope, targets[rows], scale, factors, None if scratch is None else scratch[:n]
            )
            if grad_hidden is not None:
                torch.mm(slope, narrow, out=grad_hidden[rows])
            if part is not None:
                torch.mm(slope.T, hidden[rows], out=part)
                if grad_head is not None:
                    grad_head += part
                elif len(hidden) > HEAD_ROWS:  # several slices are added up in float32
                    grad_head = part.to(torch.float32, copy=True)
                else:
                    grad_head = part
        if grad_head is not None:
            grad_head = grad_head.to(head.dtype)
        ctx.save_for_backward(grad_hidden, grad_head)
        return total * scale

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        [grad] = grad_outputs
        grads = ctx.saved_tensors
        # Reading the value is free on a CPU, but would make the host wait for a GPU.
        if grad.device.type != "cpu" or grad.item() != 1.0:
            for tensor in grads:
                if tensor is not None:
                    tensor.mul_(grad)
        return *grads, None, None, None, None


def head_loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    scale: Tensor,
    derive: Any,
    weights: Tensor | None = None,
) -> Tensor:
    """See `HeadLoss`; `derive` is `loss_to_slope`, compiled or not."""
    return HeadLoss.apply(hidden, head, targets, scale, derive, weights)  # type: ignore[no-any-return, no-untyped-call]


def row_log_probabilities(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """The log-probabilities of the targets in nats, [N] in float32, without gradients, 0 where a target is ignored;
    hidden [N, D], targets [N]."""
    narrow = head.to(hidden.dtype)
    parts = []
    for start in range(0, len(hidden), HEAD_ROWS):
        rows = slice(start, start + HEAD_ROWS)
        logits = (hidden[rows] @ narrow.T).float()
        parts.append(
            -torch.nn.functional.cross_entropy(
                logits, targets[rows].long(), ignore_index=IGNORED, reduction="none"
            )
        )
    return torch.cat(parts)


def summed_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """The summed cross-entropy in nats, a scalar without gradients; hidden [N, D], targets [N]."""
    narrow = head.to(hidden.dtype)
    total = torch.zeros(
        (),
        dtype=torch.float64 if hidden.device.type == "cpu" else torch.float32,
        device=hidden.device,
    )
    for start in range(0, len(hidden), HEAD_ROWS):
        rows = slice(start, start + HEAD_ROWS)
        logits = (hidden[rows] @ narrow.T).float()
        total += torch.nn.functional.cross_entropy(
            logits, targets[rows].long(), ignore_index=IGNORED, reduction="sum"
        )
    return total
