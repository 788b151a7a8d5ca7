"""Qwen3-MoE: the model of Qwen3 with a mixture of experts. E experts, k experts of a token, F width of an expert; the
other letters of shapes as in `layers`."""

import numpy as np

from homespun.engine.base import Floats
from homespun.engine.inside import Experts
from homespun.engine.numpy.layers import (
    Watch,
    Weights,
    combine,
    grouped_linear,
    linear,
    route,
    swiglu,
)
from homespun.engine.numpy.models import qwen3
from homespun.engine.numpy.models.qwen3 import FUSED as FUSED

TOKENS_AT_A_TIME = 256
"""Bounds the memory for the pairs of a token and an expert."""


class Model(qwen3.Model):
    """The forward pass of a Qwen3-MoE without its head; see `models.Model`."""

    def feed_forward(self, h: Floats, w: Weights, watch: Watch | None) -> Floats:
        if "mlp.gate.weight" not in w:
            return super().feed_forward(h, w, watch)
        if watch is None and len(h) > TOKENS_AT_A_TIME:
            starts = range(TOKENS_AT_A_TIME, len(h), TOKENS_AT_A_TIME)
            parts = [self.feed_forward(part, w, watch) for part in np.split(h, starts)]
            return np.concatenate(parts)
        logits = linear(h, w["mlp.gate.weight"])  # [N, E]
        routes = route(logits, self.config.experts_per_token, self.own)
        if watch is not None:
            order = np.argsort(-routes.weights, axis=-1)
            watch.experts.append(
                Experts(
                    np.take_along_axis(routes.chosen, order, axis=-1),
                    np.take_along_axis(routes.weights, order, axis=-1),
                )
            )
        x = h[routes.tokens]  # [N * k, D], sorted by expert
        x = grouped_linear(x, w["mlp.experts.gate_up_proj"], routes.ends)  # [N * k, 2 * F]
        x = swiglu(x, self.own)
        x = grouped_linear(x, w["mlp.experts.down_proj"], routes.ends)  # [N * k, D]
        return combine(x, routes, self.own)
