"""AdamW and Muon over named float32 parameters: gradients and learning rates in, updated weights and moments out.

AdamW is PyTorch's fused kernel. Muon (Jordan et al., 2024) updates the matrices by their momentum, after a
Newton-Schulz iteration has made it orthogonal; AdamW then updates all other parameters.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from homespun.architectures.base import Parameter
from homespun.engine.base import OptimizerSettings
from homespun.engine.muon import NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS, parameter_groups


class Optimizer:
    """Updates `weights`, one for each parameter in `spec`, in place. Muon orthogonalises in `muon_dtype`.

    A weight may have some rows of its parameter only, but Muon needs whole matrices.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        spec: list[Parameter],
        weights: dict[str, Tensor],
        muon_dtype: torch.dtype,
    ) -> None:
        self.settings = settings
        self.weights = weights
        self.muon_dtype = muon_dtype
        stacks, self.adamw = parameter_groups(spec, settings.name)
        self.muon: list[tuple[list[Parameter], Tensor]] = []
        """Matrices of one shape that are updated together, and their momentum, [N, out, in]."""
        self.momentum: dict[str, Tensor] = {}
        """Views of the same momentum, by name."""
        for alike in stacks:
            like = weights[alike[0].name]
            momentum = torch.zeros(len(alike), *like.shape, device=like.device)
            self.muon.append((alike, momentum))
            self.momentum |= {p.name: part for p, part in zip(alike, momentum, strict=True)}
        rest = [p for p in spec if p.name not in self.momentum]
        self.exp_avg = {p.name: torch.zeros_like(weights[p.name]) for p in rest}
        self.exp_avg_sq = {p.name: torch.zeros_like(weights[p.name]) for p in rest}
        device = next((weight.device for weight in weights.values()), None)
        self.steps = torch.zeros((), dtype=torch.float32, device=device)

    def step(
        self, grads: dict[str, Tensor], lr: dict[str, float], grad_scale: Tensor, refused: Tensor
    ) -> None:
        """One update with `grads / grad_scale`. Where `refused` is 1.0, nothing changes."""
        s = self.settings
        for (rate, decay), group in self.adamw.items():
            names = [p.name for p in group if self.weights[p.name].numel()]
            if not names:
                continue
            adamw(
                [self.weights[name] for name in names],
                [grads[name] for name in names],
                [self.exp_avg[name] for name in names],
                [self.exp_avg_sq[name] for name in names],
                [],
                [self.steps.clone() for _ in names],
                fused=True,
                grad_scale=grad_scale,
                found_inf=refused,
                amsgrad=False,
                beta1=s.beta1,
                beta2=s.beta2,
                lr=lr["adamw"] * rate,
                weight_decay=s.weight_decay if decay else 0.0,
                eps=s.eps,
                maximize=False,
            )
        # Zero times infinity is not zero, so a refused gradient cannot be multiplied away. A CPU branches; a GPU, for
        # which the host would have to wait, selects.
        keep = None if refused.device.type == "cpu" else refused.bool()
        if self.muon and not (keep is None and refused.item()):
            self._muon_step(grads, lr["muon"], grad_scale, keep)
        self.steps += 1.0 - refused

    def _muon_step(
        self, grads: dict[str, Tensor], lr: float, grad_scale: Tensor, keep: Tensor | None
    ) -> None:
        """Muon for all its matrices. Where `keep` is True, they stay as they are; None: none does."""
        s = self.settings
        decay: float | Tensor = 1 - lr * s.weight_decay
        if keep is not None:
            decay = torch.where(keep, 1.0, decay)
        for alike, momentum in self.muon:
            n_out, n_in = alike[0].matrix_shape
            grad = torch.stack([grads[p.name] for p in alike]).div_(grad_scale)
            if keep is not None:
                grad = torch.where(keep, momentum, grad)
            momentum.lerp_(grad, 1 - s.muon_momentum)
            ahead = grad.lerp_(momentum, s.muon_momentum).to(self.muon_dtype)
            direction = self._direction(ahead, alike[0])
            if keep is not None:
                direction = torch.where(keep, 0.0, direction)
            rate = lr * max(1.0, n_out / n_in) ** 0.5
            for p, change in zip(alike, direction, strict=True):
                self.weights[p.name].mul_(decay).add_(change, alpha=-rate)

    def _direction(self, ahead: Tensor, like: Parameter) -> Tensor:
        """The orthogonal directions of matrices of one shape, [N, out, in]."""
        return orthogonalise(ahead.view(-1, *like.matrix_shape)).reshape(ahead.shape)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """The moments, under their names in a checkpoint."""
        yield "optimizer/step", self.steps
        for kind in ("exp_avg", "exp_avg_sq", "momentum"):
            for name, tensor in getattr(self, kind).items():
                yield f"{kind}/{name}", tensor


def state_names(spec: list[Parameter], optimizer: str) -> dict[str, Parameter | None]:
    """The names of an optimizer's moments in a checkpoint, in order, with the parameters that they belong to."""
    stacks, _ = parameter_groups(spec, optimizer)
    of_muon = {p.name: p for alike in stacks for p in alike}
    rest = {p.name: p for p in spec if p.name not in of_muon}
    kinds = {"exp_avg": rest, "exp_avg_sq": rest, "momentum": of_muon}
    moments = {f"{kind}/{name}": p for kind, of in kinds.items() for name, p in of.items()}
    return {"optimizer/step": None, **moments}


def orthogonalise(matrices: Tensor) -> Tensor:
    """Approximately the nearest semi-orthogonal matrices: all singular values end near 1. [N, out, in] -> [N, out, in].

    The quintic Newton-Schulz iteration of Muon (Jordan et al., 2024).
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
