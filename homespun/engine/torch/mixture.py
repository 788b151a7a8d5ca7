"""A mixture of experts as a feed-forward layer: tokens flow in, the sum of a few experts for each token flows out.

The tokens are sorted by expert, so that each expert multiplies its own tokens only, and all of them in one product.

N tokens (B * T), D width of the stream, E experts, k experts of a token, F width of an expert.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homespun.config import ModelConfig
from homespun.engine.torch.eight_bits import fits, product, rounded, widened

ROW_UNIT = 32
"""Rows of a product in bfloat16 on a CPU are a multiple of this."""


class Router(nn.Module):
    """x [N, D] -> logits [N, E], in float32 in every precision: near ties would be decided by rounding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.experts, config.d_model))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.float(), self.weight.float())


class Experts(nn.Module):
    """The matrices of all experts, [E, out, in]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eight_bits: dict[str, tuple[Tensor, Tensor]] = {}
        """By the name of the matrices, numbers and scales of those that decoding uses in 8 bits."""
        c = config
        self.gate_up_proj = nn.Parameter(torch.zeros(c.experts, 2 * c.d_expert, c.d_model))
        self.down_proj = nn.Parameter(torch.zeros(c.experts, c.d_model, c.d_expert))

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        """Tokens sorted by expert, [N * k, D], of which those of expert e end before `ends[e]` -> [N * k, D]."""
        h: Tensor = grouped_product(x, self.matrices("gate_up_proj", x.dtype), ends)
        gate, up = h.chunk(2, dim=-1)  # each [N * k, F]
        y: Tensor = grouped_product(F.silu(gate) * up, self.matrices("down_proj", x.dtype), ends)
        return y

    def matrices(self, name: str, dtype: torch.dtype) -> Tensor:
        """All of one kind, [E, out, in]."""
        if name in self.eight_bits:
            return widened(*self.eight_bits[name]).to(dtype)
        matrices: Tensor = getattr(self, name)
        return matrices.to(dtype)

    def round(self) -> None:
        """Put the matrices into 8 bits."""
        for name in ("gate_up_proj", "down_proj"):
            matrices = getattr(self, name)
            if fits(matrices):
                self.eight_bits[name] = rounded(matrices.detach())
                setattr(self, name, None)

    def _product(self, x: Tensor, name: str, expert: int) -> Tensor:
        """x [N, in] times the matrix of one expert."""
        if name in self.eight_bits:
            values, scales = self.eight_bits[name]
            return product(x, values[expert], scales[expert])
        matrix: Tensor = getattr(self, name)[expert]
        return F.linear(x, matrix.to(x.dtype))

    def of_one_token(self, x: Tensor, chosen: list[int]) -> Tensor:
        """x [1, D] -> [1, k, D], from the chosen experts alone."""
        parts = []
        for expert in chosen:
            gate, up = self._product(x, "gate_up_proj", expert).chunk(2, dim=-1)
            parts.append(self._product(F.silu(gate) * up, "down_proj", expert))
        return torch.stack(parts, dim=1)


class Mixture(nn.Module):
    """x [B, T, D] -> [B, T, D], and the use of the experts, [3 + E]; see `router_use`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.experts_per_token = config.experts_per_token
        self.gate = Router(config)
        self.experts = Experts(config)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        rows, k = x.flatten(0, 1), self.experts_per_token  # [N, D]
        logits = self.gate(rows)
        probabilities = logits.softmax(-1)
        weights, chosen = probabilities.topk(k)  # each [N, k]
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        if len(rows) == 1 and x.device.type == "cpu" and not torch.is_grad_enabled():
            y = self.experts.of_one_token(rows, chosen[0].tolist())
            return (weights.unsqueeze(1) @ y).view(x.shape), None
        by_expert, order = chosen.flatten().sort(stable=True)
        numbers = torch.arange(len(logits[0]), device=x.device)
        ends = torch.searchsorted(by_expert, numbers, right=True, out_int32=True)  # [E]
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
        y = self.experts(taken_rows(rows, order // k, back), ends)
        y = taken_rows(y, back, order).view(len(rows), k, -1)  # [N, k, D]
        y = (weights.unsqueeze(1) @ y).view(x.shape)
        return y, router_use(logits, probabilities, ends)


def router_use(logits: Tensor, probabilities: Tensor, ends: Tensor) -> Tensor:
    """How the experts are used by N tokens, [3 + E], see `base.RouterUse`.

    The balance loss is that of Switch Transformer (Fedus et al., 2021, equation 4) for k experts, as in Hugging Face's
    `load_balancing_loss_func`; the z-loss is that of ST-MoE (Zoph et al., 2022, equation 5). Only these two have a
    gradient.

    logits and probabilities [N, E], ends [E].
    """
    n, n_experts = logits.shape
    tokens = ends.diff(prepend=ends.new_zeros(1)).float()  # of each expert
    balance = n_experts * (tokens / n) @ probabilities.mean(0)
    log_total = logits.logsumexp(-1)
    entropy = (log_total - (probabilities * logits).sum(-1)).mean().detach()
    entropy = entropy.clamp(min=0)  # rounding may have made it negative
    figures = torch.stack((balance, log_total.square().mean(), entropy))
    return torch.cat((figures, tokens / tokens.sum()))


class _TakenRows(torch.autograd.Function):
    """Indexing whose derivative is indexing, too. PyTorch's own adds the rows one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        ctx.n_rows = len(x)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        [grad], [back] = grad_outputs, ctx.saved_tensors
        rows = grad.index_select(0, back)
        return rows.view(ctx.n_rows, -1, rows.shape[-1]).sum(1), None, None


def taken_rows(x: Tensor, index: Tensor, back: Tensor) -> Tensor:
    """The rows `index` of x. Each row is taken equally often, and `back` is where its copies are, row after row."""
    return _TakenRows.apply(x, index, back)  # type: ignore[no-any-return, no-untyped-call]


# The products are operators of their own, which stay whole in compiled kernels.


@torch.library.custom_op("homespun::grouped_product", mutates_args=())
def grouped_product(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Each group of rows times its own matrix: x [N * k, in], weights [E, out, in], ends of the groups [E] ->
    [N * k, out]."""
    if in_one_call(x.device, x.dtype):
        return F.grouped_mm(x, weights.mT, offs=ends)
    y = x.new_empty(len(x), weights.shape[1])
    for expert, start, _, stop in _groups(x, ends):
        # Rows after the end of the group are those of later groups, whose products replace them.
        torch.mm(x[start:stop], weights[expert].mT, out=y[start:stop])
    return y


@torch.library.custom_op("homespun::grouped_gradient", mutates_args=())
def grouped_gradient(grad: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    """The gradient of the matrices: grad [N * k, out], x [N * k, in] -> [E, out, in]."""
    if in_one_call(x.device, x.dtype):
        return F.grouped_mm(grad.mT, x, offs=ends)
    found = x.new_zeros(len(ends), grad.shape[1], x.shape[1])
    for expert, start, end, stop in _groups(x, ends):
        rows = grad[start:end]
        if end < stop:
            rows = F.pad(rows, (0, 0, 0, stop - end))
        torch.mm(rows.mT, x[start:stop], out=found[expert])
    return found


def in_one_call(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether PyTorch multiplies all groups in one call: for now in bfloat16 on CUDA, from compute capability 8.0."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _groups(x: Tensor, ends: Tensor) -> Iterator[tuple[int, int, int, int]]:
    """Expert, start and end of each group that has rows, and the end after it up to which products are computed.

    oneDNN, which computes in bfloat16, makes and keeps a kernel for every number of rows that it meets. Numbers of rows
    that are rounded up repeat themselves. Otherwise new kernels would take a tenth of the time and hundreds of MB.
    """
    unit = ROW_UNIT if x.dtype == torch.bfloat16 else 1
    start = 0
    for expert, end in enumerate(ends.tolist()):
        if end > start:
            yield expert, start, end, min(len(x), start + -(-(end - start) // unit) * unit)
        start = end


@grouped_product.register_fake
def _(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(len(x), weights.shape[1])


@grouped_gradient.register_fake
def _(grad: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(len(ends), grad.shape[1], x.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _derive(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weights, ends = ctx.saved_tensors
    grad = grad.contiguous()
    of_weights = grouped_gradient(grad, x, ends) if ctx.needs_input_grad[1] else None
    return grouped_product(grad, weights.mT, ends), of_weights, None


grouped_product.register_autograd(_derive, setup_context=_keep)
