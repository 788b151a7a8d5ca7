"""Qwen3-MoE: the model of Qwen3 with a mixture of experts. E experts, k experts of a token, F width of an expert; the
other letters of shapes as in `layers`."""

import numpy as np

from homespun.engine.base import Floats
from homespun.engine.inside import Experts
from homespun.engine.numpy.layers import Watch, Weights, linear, swiglu
from homespun.engine.numpy.models import qwen3
from homespun.engine.numpy.models.qwen3 import FUSED as FUSED


class Model(qwen3.Model):
    """The forward pass of a Qwen3-MoE without its head; see `models.Model`."""

    def feed_forward(self, h: Floats, w: Weights, watch: Watch | None) -> Floats:
        if "mlp.gate.weight" not in w:
            return super().feed_forward(h, w, watch)
        k = self.config.experts_per_token
        logits = linear(h, w["mlp.gate.weight"])  # [N, E]
        if len(h) == 1 and watch is None:
            return self.of_one(h, logits[0], w)
        # In the order of the experts, as their outputs are added.
        chosen = np.sort(np.argpartition(-logits, k - 1, axis=-1)[:, :k])  # [N, k]
        # Probabilities divided by the sum of those that are chosen: a softmax over the chosen logits.
        weights = np.take_along_axis(logits, chosen, axis=-1)
        weights = np.exp(weights - weights.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        if watch is not None:
            order = np.argsort(-weights, axis=-1)
            watch.experts.append(
                Experts(
                    np.take_along_axis(chosen, order, axis=-1),
                    np.take_along_axis(weights, order, axis=-1),
                )
            )
        y = np.zeros_like(h)
        for expert in np.unique(chosen):
            rows, places = np.nonzero(chosen == expert)
            # A token has an expert at most once, so no row occurs twice.
            y[rows] += weights[rows, places, None] * self.expert(h[rows], w, expert)
        return y

    def of_one(self, h: Floats, logits: Floats, w: Weights) -> Floats:
        """The output for one token [1, D], whose router has given these logits [E], with few calls."""
        chosen = np.sort(logits.argsort()[-self.config.experts_per_token :])
        weights = logits[chosen]
        weights = np.exp(weights - weights.max())
        weights /= weights.sum()
        first, *others = chosen
        y = self.expert(h, w, first)
        y *= weights[0]
        for expert, weight in zip(others, weights[1:], strict=True):
            y += weight * self.expert(h, w, expert)
        return y

    def expert(self, h: Floats, w: Weights, expert: np.intp) -> Floats:
        """The output of one expert for its tokens, [tokens, D] -> [tokens, D]."""
        gate_up = linear(h, w["mlp.experts.gate_up_proj"][expert])  # [tokens, 2 * F]
        return linear(swiglu(gate_up, self.own), w["mlp.experts.down_proj"][expert])
