"""Updates of parameters in bfloat16: gradients and learning rates flow in, weights and moments in 16 bits come out.

An update is computed in float32, a slice at a time, and then rounded up or down at random, so that the expected value
is exact (stochastic rounding). Rounded to the nearest number, most updates would vanish: bfloat16 has three digits. The
random bits follow from seed, step, parameter and place (`engine/dropout.py` describes the hash), so a resumed run
rounds as an uninterrupted one.

AdamW has a mean gradient in bfloat16. Of the mean squares only the means of each row and each column are kept, from
which all are estimated (Adafactor, Shazeer and Stern, 2018; with a mean gradient as in Zhai et al., 2022, section 3.4).
Muon has its momentum in bfloat16.
"""

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor

from homespun.architectures.base import Parameter
from homespun.engine.base import OptimizerSettings
from homespun.engine.dropout import KEY_INCREMENT
from homespun.engine.low_memory import TINY, rounding_keys, row_slices
from homespun.engine.muon import LARGEST_NARROW_STACK, parameter_groups
from homespun.engine.torch.dropout import hash_bits, shift_right
from homespun.engine.torch.optimizer import Optimizer, orthogonalise

SLICE = 2**18
"""Numbers that are updated at a time. Their copies in float32 stay in the cache of a processor."""


class NarrowOptimizer(Optimizer):
    """Updates `weights` in place, those that are `narrow` in bfloat16 and the others as `Optimizer`.

    `seed` determines the rounding.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        spec: list[Parameter],
        weights: dict[str, Tensor],
        muon_dtype: torch.dtype,
        narrow: Collection[str],
        seed: int,
    ) -> None:
        super().__init__(settings, [p for p in spec if p.name not in narrow], weights, muon_dtype)
        of_narrow = [p for p in spec if p.name in narrow]
        stacks, groups = parameter_groups(of_narrow, settings.name, LARGEST_NARROW_STACK)
        self.narrow_muon, self.narrow_adamw = stacks, groups
        by_muon = {p.name: weights[p.name] for stack in stacks for p in stack}
        by_adamw = {p.name: weights[p.name] for group in groups.values() for p in group}
        self.momentum |= {name: torch.zeros_like(weight) for name, weight in by_muon.items()}
        self.exp_avg |= {name: torch.zeros_like(weight) for name, weight in by_adamw.items()}
        self.rows = {name: _zeros(w, w.shape[:-1]) for name, w in by_adamw.items()}
        """The mean square of each row of each matrix, [.., out]."""
        self.columns = {
            name: _zeros(w, w.shape[:-2] + w.shape[-1:]) for name, w in by_adamw.items()
        }
        """The mean square of each column, [.., in]."""
        self.places = {name: number for number, name in enumerate(by_muon | by_adamw)}
        """Of the parameters in `keys`."""
        self.keys = torch.from_numpy(rounding_keys(seed, self.places)).to(self.steps.device)

    def step(
        self, grads: dict[str, Tensor], lr: dict[str, float], grad_scale: Tensor, refused: Tensor
    ) -> None:
        # A CPU branches; a GPU, for which the host would have to wait, selects when it writes.
        if refused.device.type != "cpu":
            self._narrow_step(grads, lr, grad_scale, keep=refused.bool())
        elif not refused.item():
            self._narrow_step(grads, lr, grad_scale, keep=None)
        super().step(grads, lr, grad_scale, refused)

    def _narrow_step(
        self,
        grads: dict[str, Tensor],
        lr: dict[str, float],
        grad_scale: Tensor,
        keep: Tensor | None,
    ) -> None:
        """One update of the parameters in bfloat16; see `Writer` for `keep`."""
        step_bits = hash_bits(self.steps.to(torch.int32) + _signed(KEY_INCREMENT))
        keys = hash_bits(self.keys ^ step_bits)
        writers = {name: Writer(keys[place], keep) for name, place in self.places.items()}
        for (factor, decays), group in self.narrow_adamw.items():
            rate = lr["adamw"] * factor
            decay = 1.0 - rate * self.settings.weight_decay if decays else 1.0
            for p in group:
                self._adamw(p.name, grads[p.name], rate, decay, grad_scale, writers[p.name])
        for stack in self.narrow_muon:
            self._muon(stack, grads, lr["muon"], grad_scale, writers)

    def _adamw(
        self,
        name: str,
        grad: Tensor,
        rate: float,
        decay: float,
        grad_scale: Tensor,
        write: "Writer",
    ) -> None:
        """AdamW for one parameter; `decay` is the factor of its weights."""
        s, next_step = self.settings, self.steps.double() + 1.0
        bias1, bias2 = ((1.0 - beta**next_step).float() for beta in (s.beta1, s.beta2))
        shape = (-1, *grad.shape[-2:])
        of_matrices = zip(
            grad.reshape(shape),
            self.exp_avg[name].view(shape),
            self.weights[name].view(shape),
            self.rows[name].view(-1, shape[1]),
            self.columns[name].view(-1, shape[2]),
            strict=True,
        )
        for i, (g, mean, weight, rows, columns) in enumerate(of_matrices):
            row_means, column_means = mean_squares(g, grad_scale)
            write.wide(rows, rows.lerp(row_means, 1 - s.beta2))
            write.wide(columns, columns.lerp(column_means, 1 - s.beta2))
            # The square of number [r, c] is estimated as row r times column c, over the mean of all rows.
            of_rows = (rows / (rows.mean().clamp(min=TINY) * bias2)).sqrt()
            of_columns = columns.sqrt()
            for part in slices(g):
                new_mean = mean[part].float().lerp_(g[part].float() / grad_scale, 1 - s.beta1)
                size = (of_rows[part, None] * of_columns).add_(s.eps)
                new = weight[part].float().mul_(decay)
                new.addcdiv_(new_mean, size.mul_(bias1), value=-rate)
                bits = write.bits(i * g.numel() + part.start * g.shape[1], new.shape)
                write.narrow(weight[part], new, bits)
                write.narrow(mean[part], new_mean, shift_right(bits, 16))

    def _muon(
        self,
        stack: list[Parameter],
        grads: dict[str, Tensor],
        lr: float,
        grad_scale: Tensor,
        writers: dict[str, "Writer"],
    ) -> None:
        """Muon for matrices of one shape; see `Optimizer`."""
        s = self.settings
        n_out, n_in = stack[0].matrix_shape
        decay, rate = 1.0 - lr * s.weight_decay, lr * max(1.0, n_out / n_in) ** 0.5
        grad = torch.stack([grads[p.name] for p in stack]).float().div_(grad_scale)
        momentum = torch.stack([self.momentum[p.name] for p in stack]).float()
        momentum.lerp_(grad, 1 - s.muon_momentum)
        ahead = grad.lerp_(momentum, s.muon_momentum).to(self.muon_dtype)
        directions = orthogonalise(ahead.view(-1, n_out, n_in)).reshape(grad.shape)
        for p, *values in zip(stack, momentum, directions, strict=True):
            write, shape = writers[p.name], (-1, n_in)
            weight, mean = self.weights[p.name].view(shape), self.momentum[p.name].view(shape)
            new_mean, direction = (tensor.reshape(shape) for tensor in values)
            for part in slices(weight):
                new = weight[part].float().mul_(decay).add_(direction[part], alpha=-rate)
                bits = write.bits(part.start * n_in, new.shape)
                write.narrow(weight[part], new, bits)
                write.narrow(mean[part], new_mean[part], shift_right(bits, 16))

    def state(self) -> Iterator[tuple[str, Tensor]]:
        yield from super().state()
        for kind in ("rows", "columns"):
            for name, tensor in getattr(self, kind).items():
                yield f"exp_avg_sq_{kind}/{name}", tensor


class Writer:
    """Writes what an update has computed for a parameter."""

    def __init__(self, key: Tensor, keep: Tensor | None) -> None:
        """
        Args:
            key: of the random bits.
            keep: where it is True, all stays as it is; None: nothing does.
        """
        self.key, self.keep = key, keep

    def bits(self, first: int, shape: torch.Size) -> Tensor:
        """32 random bits for each number of a slice whose first number has this place in the parameter."""
        places = torch.arange(shape.numel(), dtype=torch.int32, device=self.key.device)
        places += _signed(first & 0xFFFFFFFF)
        return hash_bits(places ^ self.key).view(shape)

    def narrow(self, target: Tensor, values: Tensor, bits: Tensor) -> None:
        """Round float32 values at random into bfloat16, by the lower half of `bits`."""
        self.wide(target, stochastically_rounded(values, bits))

    def wide(self, target: Tensor, values: Tensor) -> None:
        """Replace numbers."""
        target.copy_(values if self.keep is None else torch.where(self.keep, target, values))


def stochastically_rounded(values: Tensor, bits: Tensor) -> Tensor:
    """Numbers in float32 of which each is one of the two bfloat16 numbers next to a value, the nearer the likelier.

    A bfloat16 number is the upper half of a float32. The lower half of `bits` is added to the lower half of the value;
    the carry decides.
    """
    rounded = (bits & 0xFFFF).add_(values.view(torch.int32)).bitwise_and_(-0x10000)
    return rounded.view(torch.float32)


def mean_squares(grad: Tensor, grad_scale: Tensor) -> tuple[Tensor, Tensor]:
    """The mean square of each row and each column of `grad / grad_scale` [out, in], in float32: [out] and [in]."""
    rows = [grad.new_zeros(0, dtype=torch.float32)]
    columns = grad.new_zeros(grad.shape[1], dtype=torch.float32)
    for part in slices(grad):
        squares = (grad[part].float() / grad_scale).square_()
        rows.append(squares.mean(1))
        columns += squares.sum(0)
    return torch.cat(rows), columns / len(grad)


def total_norm(grads: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients together, summed up in float32."""
    norms = [
        torch.linalg.vector_norm(part.float())
        for grad in grads
        for part in torch.split(grad.flatten(), SLICE)
    ]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def slices(matrix: Tensor) -> Iterator[slice]:
    """The rows of a matrix, in slices."""
    return row_slices(len(matrix), matrix.shape[1], SLICE)


def _zeros(like: Tensor, shape: Iterable[int]) -> Tensor:
    return like.new_zeros(tuple(shape), dtype=torch.float32)


def _signed(bits: int) -> int:
    """32 bits as the int32 that has them."""
    return bits - 2**32 if bits >> 31 else bits
