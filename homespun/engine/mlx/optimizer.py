"""AdamW and Muon over named float32 parameters: gradients and learning rates in, new weights and moments out.

AdamW (Loshchilov and Hutter, 2019) is written out, because MLX's own has no parameter groups. Muon (Jordan et al.,
2024) updates the matrices by their momentum, after a Newton-Schulz iteration has made it orthogonal; AdamW then updates
all other parameters. Nothing is changed in place, so a step can be compiled, and refused.
"""

import math
from collections.abc import Iterator

import mlx.core as mx

from homespun.architectures.base import Parameter
from homespun.engine.base import OptimizerSettings
from homespun.engine.muon import NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS, parameter_groups

STEPS = "optimizer/step"

Tensors = dict[str, mx.array]
"""Weights by name, and the moments, under their names in a checkpoint."""


class Optimizer:
    """Updates the parameters in `spec`. Muon orthogonalises in `muon_dtype`."""

    def __init__(
        self, settings: OptimizerSettings, spec: list[Parameter], muon_dtype: mx.Dtype
    ) -> None:
        self.settings = settings
        self.muon_dtype = muon_dtype
        self.muon, self.adam = parameter_groups(spec, settings.name)
        by_muon = [p for alike in self.muon for p in alike]
        by_adam = [p for p in spec if p not in by_muon]
        self.moments = {"exp_avg": by_adam, "exp_avg_sq": by_adam, "momentum": by_muon}

    def initial_state(self) -> Iterator[tuple[str, mx.array]]:
        """Moments of zero."""
        yield STEPS, mx.zeros(())
        for kind, spec in self.moments.items():
            for p in spec:
                yield f"{kind}/{p.name}", mx.zeros(p.shape)

    def step(
        self, old: Tensors, grads: Tensors, lr: Tensors, grad_scale: mx.array, refused: mx.array
    ) -> Tensors:
        """One update with `grads / grad_scale`; returns new values of all tensors, unchanged if `refused` is true."""
        new = {STEPS: old[STEPS] + 1.0}
        for (rate, decay), group in self.adam.items():
            for p in group:
                grad = grads[p.name] / grad_scale
                new |= self._adamw(old, p.name, grad, lr["adamw"] * rate, new[STEPS], decay)
        for alike in self.muon:
            new |= self._muon(old, alike, grads, lr["muon"], grad_scale)
        return old | {name: mx.where(refused, old[name], tensor) for name, tensor in new.items()}

    def _adamw(
        self, old: Tensors, name: str, grad: mx.array, lr: mx.array, steps: mx.array, decay: bool
    ) -> Tensors:
        s = self.settings
        mean = s.beta1 * old[f"exp_avg/{name}"] + (1 - s.beta1) * grad
        square = s.beta2 * old[f"exp_avg_sq/{name}"] + (1 - s.beta2) * grad.square()
        weight = old[name] * (1 - lr * s.weight_decay) if decay else old[name]
        size = mx.sqrt(square / bias_correction(s.beta2, steps)) + s.eps
        return {
            name: weight - lr / bias_correction(s.beta1, steps) * mean / size,
            f"exp_avg/{name}": mean,
            f"exp_avg_sq/{name}": square,
        }

    def _muon(
        self,
        old: Tensors,
        alike: list[Parameter],
        grads: Tensors,
        lr: mx.array,
        grad_scale: mx.array,
    ) -> Tensors:
        """The update of matrices of one shape."""
        s = self.settings
        n_out, n_in = alike[0].matrix_shape
        grad = mx.stack([grads[p.name] for p in alike]) / grad_scale  # [N, out, in]
        momentum = mx.stack([old[f"momentum/{p.name}"] for p in alike])
        momentum = momentum + (1 - s.muon_momentum) * (grad - momentum)
        ahead = grad + s.muon_momentum * (momentum - grad)
        direction = orthogonalise(ahead.reshape(-1, n_out, n_in), self.muon_dtype)
        change = lr * max(1.0, n_out / n_in) ** 0.5 * direction.reshape(grad.shape)
        new = {}
        for i, p in enumerate(alike):
            new[p.name] = old[p.name] * (1 - lr * s.weight_decay) - change[i]
            new[f"momentum/{p.name}"] = momentum[i]
        return new


def orthogonalise(matrices: mx.array, dtype: mx.Dtype) -> mx.array:
    """Approximately the nearest semi-orthogonal matrices: all singular values end near 1. [N, out, in] -> [N, out, in].

    The quintic Newton-Schulz iteration of Muon (Jordan et al., 2024), computed in `dtype`.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = to_unit_norm(matrices.mT if tall else matrices).astype(dtype)
    for _ in range(NEWTON_SCHULZ_STEPS):
        x = newton_schulz_step(x)
    return (x.mT if tall else x).astype(mx.float32)


def to_unit_norm(matrices: mx.array) -> mx.array:
    """Each of the matrices over its norm."""
    return matrices / (mx.sqrt(matrices.square().sum(axis=(1, 2), keepdims=True)) + 1e-7)


def newton_schulz_step(x: mx.array) -> mx.array:
    """One step of `orthogonalise`."""
    a, b, c = NEWTON_SCHULZ
    gram = x @ x.mT
    return mx.addmm(x, mx.addmm(gram, gram, gram, alpha=c, beta=b), x, beta=a)


def bias_correction(beta: float, steps: mx.array) -> mx.array:
    """1 - beta ** steps: the sum of the weights in a moving average that began at zero."""
    return -mx.expm1(steps * (math.log(beta) if beta else -math.inf))
