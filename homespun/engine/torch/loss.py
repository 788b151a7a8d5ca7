"""Head and cross-entropy in one, a slice of rows at a time: hidden states and targets in, summed loss out.

The logits of a whole batch, [B * T, V] in float32, are the largest tensor of a small model's training step. Here
they exist for `HEAD_ROWS` rows only, and the gradients of both inputs are computed while they are at hand (the way of
Liger Kernel, Hsu et al., 2024).
"""

from typing import Any

import torch
from torch import Tensor

from homespun.data.batch import IGNORED
from homespun.engine.base import HEAD_ROWS


def loss_and_slope(logits: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss of some rows, and `scale` times its derivative by the logits, in their dtype."""
    valid = targets != IGNORED
    index = targets.clamp(min=0).unsqueeze(1)
    probabilities = torch.softmax(logits, dim=-1, dtype=torch.float32)
    # By way of the likeliest token, since the target's probability may be too small for a number.
    log_total = logits.amax(1).float() - probabilities.amax(1).log()
    row_loss = log_total - logits.gather(1, index).squeeze(1).float()
    weight = (valid * scale).unsqueeze(1)
    slope = probabilities.mul_(weight).scatter_add_(1, index, -weight)
    return (row_loss * valid).sum(), slope.to(logits.dtype)


class HeadLoss(torch.autograd.Function):
    """`scale` times the summed cross-entropy, in nats, of `hidden @ head.T`.

    hidden [N, D] in the computing dtype, head [V, D] float32, targets [N] -> scalar, float32.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, scale: Tensor, derive: Any
    ) -> Tensor:
        narrow = head.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_head = torch.zeros_like(head)
        for start in range(0, len(hidden), HEAD_ROWS):
            rows = slice(start, start + HEAD_ROWS)
            loss, slope = derive(hidden[rows] @ narrow.T, targets[rows], scale)
            total += loss
            torch.mm(slope, narrow, out=grad_hidden[rows])
            grad_head += slope.T @ hidden[rows]
        ctx.save_for_backward(grad_hidden, grad_head)
        return total * scale

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """The derivatives are there already; what follows the loss is 1 in a training step."""
        grad_hidden, grad_head = ctx.saved_tensors
        return grad_hidden, grad_head, None, None, None


def summed_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy in nats, float32, without gradients; hidden [N, D], targets [N]."""
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


def head_loss(hidden: Tensor, head: Tensor, targets: Tensor, scale: Tensor, derive: Any) -> Tensor:
    """See `HeadLoss`; `derive` is `loss_and_slope`, compiled or not."""
    return HeadLoss.apply(hidden, head, targets, scale, derive)  # type: ignore[no-any-return, no-untyped-call]
