"""Layers of a model that decodes with 8 bits a weight: float32 matrices flow in, products of the rounded ones flow out.

A weight is a whole number from -127 to 127 times the scale of its row. The product is PyTorch's own kernel, which is
fast on a CPU in bfloat16 alone.
"""

import torch
from torch import Tensor, nn

LARGEST = 127
DTYPE = torch.bfloat16
"""Of scales and inputs."""
ROW_UNIT = 16
"""The kernel reads so many weights of a row at a time, and does not check whether there are as many."""


def fits(matrix: Tensor) -> bool:
    """Whether the kernel computes with a matrix of this shape."""
    return matrix.shape[-1] % ROW_UNIT == 0


def rounded(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers [..., out, in], int8, and the scales of the rows [..., out], for a matrix in float32.

    The numbers of a matrix that was rounded before stay the same.
    """
    scales = (matrix.abs().amax(-1) / LARGEST).to(DTYPE)
    scales.masked_fill_(scales == 0, 1)
    values = (matrix / scales.float().unsqueeze(-1)).round().clamp(-LARGEST, LARGEST)
    return values.to(torch.int8), scales


def widened(values: Tensor, scales: Tensor) -> Tensor:
    """The rounded weights in float32."""
    return values * scales.float().unsqueeze(-1)


def product(x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
    """x [..., in], values [out, in] -> [..., out]."""
    y: Tensor = torch._weight_int8pack_mm(x.flatten(0, -2).contiguous(), values, scales)
    return y.view(*x.shape[:-1], -1)


class EightBitLinear(nn.Module):
    """x [..., in] -> [..., out]."""

    def __init__(self, values: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.values, self.scales = values, scales
        self.bias = None if bias is None else bias.to(DTYPE)

    def forward(self, x: Tensor) -> Tensor:
        y = product(x, self.values, self.scales)
        return y if self.bias is None else y.add_(self.bias)


class EightBitEmbedding(nn.Module):
    """Tokens [B, T] -> [B, T, D], float32."""

    def __init__(self, values: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.weight, self.scales = values, scales

    def forward(self, tokens: Tensor) -> Tensor:
        return widened(self.weight[tokens], self.scales[tokens])
