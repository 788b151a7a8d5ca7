"""Gradients flow in, updated weights flow out, in float64: the reference for the optimizers of the engines."""

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def adamw(
    weight: Doubles,
    gradients: list[Doubles],
    lr: float,
    *,
    decay: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> Doubles:
    """AdamW (Loshchilov and Hutter, 2019), algorithm 2: the weight after one step for each gradient."""
    mean = np.zeros_like(weight)
    square = np.zeros_like(weight)
    for step, gradient in enumerate(gradients, start=1):
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        corrected_mean = mean / (1 - beta1**step)
        corrected_square = square / (1 - beta2**step)
        weight = weight - lr * (corrected_mean / (np.sqrt(corrected_square) + eps) + decay * weight)
    return weight


def factored_adamw(
    weight: Doubles,
    gradients: list[Doubles],
    lr: float,
    *,
    decay: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> Doubles:
    """AdamW for one matrix [out, in] whose mean squares are estimated from those of its rows and columns, as the matrix
    of rank one with the same sums (Shazeer and Stern, 2018, algorithm 2)."""
    mean, square = np.zeros_like(weight), np.zeros_like(weight)
    for step, gradient in enumerate(gradients, start=1):
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        corrected = square / (1 - beta2**step)
        estimate = np.outer(corrected.sum(1), corrected.sum(0)) / corrected.sum()
        change = mean / (1 - beta1**step) / (np.sqrt(estimate) + eps)
        weight = weight - lr * (change + decay * weight)
    return weight


def muon(
    weight: Doubles, gradients: list[Doubles], lr: float, *, decay: float, momentum: float
) -> Doubles:
    """Muon (Jordan et al., 2024) with Nesterov momentum, for one matrix [out, in]."""
    buffer = np.zeros_like(weight)
    for gradient in gradients:
        buffer = momentum * buffer + (1 - momentum) * gradient
        update = momentum * buffer + (1 - momentum) * gradient
        x = update / (np.linalg.norm(update) + 1e-7)
        if x.shape[0] > x.shape[1]:
            x = x.T
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        if weight.shape[0] > weight.shape[1]:
            x = x.T
        rate = lr * max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
        weight = weight * (1 - lr * decay) - rate * x
    return weight
