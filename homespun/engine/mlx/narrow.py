"""Updates of parameters in bfloat16: gradients and learning rates flow in, weights and moments in 16 bits come out.

The twin of `torch/narrow.py`, which describes the method; tests compare the two. Weights and moments are changed in
place, a slice at a time: MLX writes into an array that nothing else holds, without a copy. Each slice is computed
before the next one is begun, so that the memory for one slice is enough.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from homespun.architectures.base import Parameter
from homespun.engine.base import OptimizerSettings
from homespun.engine.low_memory import TINY, rounding_keys, row_slices, step_keys
from homespun.engine.mlx.dropout import hash_bits
from homespun.engine.mlx.optimizer import (
    STEPS,
    Optimizer,
    Tensors,
    newton_schulz_step,
    to_unit_norm,
)
from homespun.engine.muon import LARGEST_NARROW_STACK, NEWTON_SCHULZ_STEPS, parameter_groups

SLICE = 2**21
"""Numbers that are updated at a time: enough to keep a GPU busy, and few beside a model that needs this mode."""

Place = tuple[Any, ...]
"""Some rows of a matrix: a slice, and before it the number of the matrix where there are several, [E, out, in]."""


class NarrowOptimizer(Optimizer):
    """Updates the parameters in `spec`, those that are `narrow` in bfloat16 and the others as `Optimizer`.

    `seed` determines the rounding, and `compiled` is `mx.compile` or leaves a function as it is.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        spec: list[Parameter],
        muon_dtype: mx.Dtype,
        narrow: Collection[str],
        seed: int,
        compiled: Callable[[Any], Any],
    ) -> None:
        super().__init__(settings, [p for p in spec if p.name not in narrow], muon_dtype)
        of_narrow = [p for p in spec if p.name in narrow]
        stacks, groups = parameter_groups(of_narrow, settings.name, LARGEST_NARROW_STACK)
        self.narrow_muon, self.narrow_adamw = stacks, groups
        by_muon = [p for stack in stacks for p in stack]
        by_adamw = [p for group in groups.values() for p in group]
        self.narrow_moments = {"exp_avg": by_adamw, "momentum": by_muon}
        self.factored = by_adamw
        """Of these, there are the mean squares of rows and columns."""
        self.names = [p.name for p in by_muon + by_adamw]
        self.keys = rounding_keys(seed, self.names)
        self.adamw_slice = compiled(_adamw_slice)
        self.muon_slice = compiled(_muon_slice)
        self.squares = compiled(_squares)

    def initial_state(self) -> Iterator[tuple[str, mx.array]]:
        wide = dict(super().initial_state())
        yield STEPS, wide.pop(STEPS)
        for kind in ("exp_avg", "exp_avg_sq", "momentum"):
            yield from (
                (name, zeros) for name, zeros in wide.items() if name.startswith(f"{kind}/")
            )
            for p in self.narrow_moments.get(kind, ()):
                yield f"{kind}/{p.name}", mx.zeros(p.shape, mx.bfloat16)
        for p in self.factored:
            yield f"exp_avg_sq_rows/{p.name}", mx.zeros(p.shape[:-1])
        for p in self.factored:
            yield f"exp_avg_sq_columns/{p.name}", mx.zeros(p.shape[:-2] + p.shape[-1:])

    def step(
        self, old: Tensors, grads: Tensors, lr: Tensors, grad_scale: mx.array, refused: mx.array
    ) -> Tensors:
        """As in `Optimizer`, but the parameters in bfloat16 are changed in place, and their gradients are taken out of
        `grads` when they have been used. Waits for the device."""
        if refused.item():
            return old
        steps, scale = int(number(old[STEPS])), number(grad_scale)
        rates = {name: number(rate) for name, rate in lr.items()}
        keys = dict(zip(self.names, step_keys(self.keys, steps).tolist(), strict=True))
        for (factor, decays), group in self.narrow_adamw.items():
            rate = rates["adamw"] * factor
            decay = 1.0 - rate * self.settings.weight_decay if decays else 1.0
            for p in group:
                key = keys[p.name]
                self._narrow_adamw(old, p, grads.pop(p.name), rate, decay, scale, steps + 1, key)
        for stack in self.narrow_muon:
            self._narrow_muon(old, stack, grads, rates["muon"], scale, keys)
        new = super().step(old, grads, lr, grad_scale, refused)
        mx.eval(new)
        return new

    def _narrow_adamw(
        self,
        tensors: Tensors,
        p: Parameter,
        grad: mx.array,
        rate: float,
        decay: float,
        scale: float,
        steps: int,
        key: int,
    ) -> None:
        """AdamW for one parameter, with `grad / scale`; `decay` is the factor of its weights, `steps` the number of
        steps with this one."""
        s = self.settings
        weight, mean = tensors[p.name], tensors[f"exp_avg/{p.name}"]
        rows, columns = (tensors[f"exp_avg_sq_{kind}/{p.name}"] for kind in ("rows", "columns"))
        bias1, bias2 = 1.0 - s.beta1**steps, 1.0 - s.beta2**steps
        factors = mx.array([scale, 1.0 - s.beta1, decay, rate, bias1, s.eps])
        for i in np.ndindex(p.shape[:-2]):
            row_means, column_means = self.mean_squares(grad, i, scale)
            rows[*i, :] = closer(rows[i], row_means, 1.0 - s.beta2)
            columns[*i, :] = closer(columns[i], column_means, 1.0 - s.beta2)
            # The square of number [r, c] is estimated as row r times column c, over the mean of all rows.
            of_rows = mx.sqrt(rows[i] / (mx.maximum(rows[i].mean(), TINY) * bias2))
            of_columns = mx.sqrt(columns[i])
            for part in row_slices(p.shape[-2], p.shape[-1], SLICE):
                at = (*i, part)
                new = self.adamw_slice(
                    grad[at],
                    mean[at],
                    weight[at],
                    of_rows[part],
                    of_columns,
                    factors,
                    origin(key, p.shape, at),
                )
                write((weight, mean), at, new)

    def mean_squares(
        self, grad: mx.array, matrix: tuple[int, ...], scale: float
    ) -> tuple[mx.array, mx.array]:
        """The mean square of each row and each column of one matrix [out, in] of `grad / scale`: [out] and [in]."""
        n_rows, n_columns = grad.shape[-2:]
        rows, columns = [], mx.zeros(n_columns)
        for part in row_slices(n_rows, n_columns, SLICE):
            of_rows, of_columns = self.squares(grad[*matrix, part], mx.array(scale))
            rows.append(of_rows)
            columns = columns + of_columns
            mx.eval(of_rows, columns)
        return mx.concatenate(rows) / n_columns, columns / n_rows

    def _narrow_muon(
        self,
        tensors: Tensors,
        stack: list[Parameter],
        grads: Tensors,
        lr: float,
        scale: float,
        keys: dict[str, int],
    ) -> None:
        """Muon for matrices of one shape; see `Optimizer`."""
        s = self.settings
        n_out, n_in = stack[0].matrix_shape
        factors = mx.array([1.0 - lr * s.weight_decay, lr * max(1.0, n_out / n_in) ** 0.5])
        grad = mx.stack([grads.pop(p.name) for p in stack]).astype(mx.float32) / scale
        momentum = mx.stack([tensors[f"momentum/{p.name}"] for p in stack]).astype(mx.float32)
        momentum = closer(momentum, grad, 1.0 - s.muon_momentum)
        ahead = closer(grad, momentum, s.muon_momentum)
        mx.eval(momentum, ahead)
        del grad
        ahead = ahead.reshape(-1, n_out, n_in)
        tall = n_out > n_in
        x = to_unit_norm(ahead.mT if tall else ahead).astype(self.muon_dtype)
        del ahead
        for _ in range(NEWTON_SCHULZ_STEPS):  # each alone, so that the memory of one is enough
            x = newton_schulz_step(x)
            mx.eval(x)
        directions = (x.mT if tall else x).reshape(momentum.shape)
        for j, p in enumerate(stack):
            weight, mean = tensors[p.name], tensors[f"momentum/{p.name}"]
            for at in places(p.shape):
                new = self.muon_slice(
                    directions[j, *at],
                    momentum[j, *at],
                    weight[at],
                    factors,
                    origin(keys[p.name], p.shape, at),
                )
                write((weight, mean), at, new)


def number(array: mx.array) -> float:
    """The value of an array that holds one number; waits for it."""
    return float(np.array(array))


def places(shape: tuple[int, ...]) -> Iterator[Place]:
    """All numbers of some matrices, slice by slice."""
    for matrix in np.ndindex(shape[:-2]):
        for part in row_slices(shape[-2], shape[-1], SLICE):
            yield *matrix, part


def origin(key: int, shape: tuple[int, ...], at: Place) -> mx.array:
    """Where the random bits of a slice come from: the key of its parameter, which has this shape, and the place of its
    first number in it; [2]."""
    *matrix, part = at
    n_rows, n_columns = shape[-2:]
    rows_before = part.start
    if matrix:
        rows_before += int(np.ravel_multi_index(matrix, shape[:-2])) * n_rows
    return mx.array([key, rows_before * n_columns % 2**32], mx.uint32)


def random_bits(origin: mx.array, shape: tuple[int, ...]) -> mx.array:
    """32 bits for each number of a slice."""
    numbers = mx.arange(math.prod(shape), dtype=mx.uint32).reshape(shape)
    return hash_bits((numbers + origin[1]) ^ origin[0])


def stochastically_rounded(values: mx.array, bits: mx.array) -> mx.array:
    """Numbers in float32 of which each is one of the two bfloat16 numbers next to a value, the nearer the likelier; by
    the lower half of `bits`, as in `torch/narrow.py`."""
    lower, upper = mx.array(0xFFFF, mx.uint32), mx.array(0xFFFF0000, mx.uint32)
    return (((bits & lower) + values.view(mx.uint32)) & upper).view(mx.float32)


def closer(value: mx.array, target: mx.array, share: float | mx.array) -> mx.array:
    """A value after a part of the way to a target."""
    return value + share * (target - value)


def write(targets: tuple[mx.array, ...], at: Place, values: tuple[mx.array, ...]) -> None:
    """Replace a slice of each target, in place: MLX does it when the target is used next. A slice that is read shares
    the memory of its array, and an array that is shared would be copied; so the values are computed first."""
    mx.eval(values)
    for target, new in zip(targets, values, strict=True):
        target[at] = new


def total_norm(grads: Iterable[mx.array]) -> mx.array:
    """The norm of all gradients together, summed up in float32, slice by slice."""
    total = mx.zeros(())
    for grad in grads:
        for at in places(grad.shape) if grad.ndim > 1 else [()]:
            total = total + grad[at].astype(mx.float32).square().sum()
            mx.eval(total)
    return mx.sqrt(total)


def _adamw_slice(
    grad: mx.array,
    mean: mx.array,
    weight: mx.array,
    of_rows: mx.array,
    of_columns: mx.array,
    factors: mx.array,
    origin: mx.array,
) -> tuple[mx.array, mx.array]:
    """New weights and means. All that changes from step to step is an array, since constants would be compiled in."""
    scale, share, decay, rate, bias, eps = factors
    new_mean = closer(mean.astype(mx.float32), grad.astype(mx.float32) / scale, share)
    size = of_rows[:, None] * of_columns + eps
    new = weight.astype(mx.float32) * decay - rate * (new_mean / (size * bias))
    return _both_rounded(new, new_mean, random_bits(origin, grad.shape), weight.dtype)


def _muon_slice(
    direction: mx.array, new_mean: mx.array, weight: mx.array, factors: mx.array, origin: mx.array
) -> tuple[mx.array, mx.array]:
    """As `_adamw_slice`."""
    decay, rate = factors
    new = weight.astype(mx.float32) * decay - rate * direction
    return _both_rounded(new, new_mean, random_bits(origin, weight.shape), weight.dtype)


def _both_rounded(
    weight: mx.array, mean: mx.array, bits: mx.array, dtype: mx.Dtype
) -> tuple[mx.array, mx.array]:
    """Each by its own half of the bits, in the dtype in which they are kept."""
    return (
        stochastically_rounded(weight, bits).astype(dtype),
        stochastically_rounded(mean, bits >> 16).astype(dtype),
    )


def _squares(grad: mx.array, scale: mx.array) -> tuple[mx.array, mx.array]:
    """The sums of the squares of `grad / scale` in each row and each column."""
    squares = (grad.astype(mx.float32) / scale).square()
    return squares.sum(1), squares.sum(0)
