"""Logits flow in; one token id comes out.

It is computed in float64 with NumPy, so every engine draws the same token from the same logits. The filters apply in
the order of the `transformers` library: repetition penalty, temperature, top-k, top-p, min-p.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from homespun.config import SamplingConfig
from homespun.engine.base import Floats
from homespun.errors import UserError

Ids = npt.NDArray[np.intp]
Float64s = npt.NDArray[np.float64]


class Sampler:
    """Draws the tokens of one text.

    The random numbers depend on `seed` and `sample` alone: the third of ten samples is also the
    third of three. The repetition penalty applies to the tokens of the prompt and to all tokens drawn.
    """

    def __init__(
        self, config: SamplingConfig, seed: int, sample: int = 0, prompt: Sequence[int] = ()
    ) -> None:
        self.config = config
        self.random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(sample,)))
        self._prompt = prompt
        self._seen: npt.NDArray[np.bool_] | None = None
        """Whether the text has each token, [V]: the work for a token does not grow with the text."""

    def __call__(self, logits: Floats) -> int:
        """Draw a token id after `logits` [V], which is of the same size each time.

        Raises:
            UserError: a logit is NaN or infinite.
        """
        if self.config.repetition_penalty == 1:
            return self._draw(*candidates(logits, (), self.config))
        if self._seen is None:
            self._seen = np.zeros(len(logits), dtype=np.bool_)
            self._seen[np.asarray(self._prompt, dtype=np.intp)] = True
        token = self._draw(*candidates(logits, np.flatnonzero(self._seen), self.config))
        self._seen[token] = True
        return token

    def _draw(self, ids: Ids, probabilities: Float64s) -> int:
        if len(ids) == 1:
            return int(ids[0])
        cumulative = probabilities.cumsum()
        total = float(cumulative[-1])
        # Rounding must not carry the drawn point up to the total: no token lies beyond it.
        point = min(self.random.random() * total, math.nextafter(total, 0))
        return int(ids[cumulative.searchsorted(point, side="right")])


def check_finite(computed: "Floats | Float64s") -> None:
    """Check what a model has computed.

    Raises:
        UserError: a number is NaN or infinite.
    """
    if not math.isfinite(computed.sum(dtype=np.float64)):  # the sum of float32 numbers is finite
        raise UserError(
            "the model's output is not finite: its weights are damaged or the training diverged; "
            "use an earlier checkpoint"
        )


@np.errstate(over="ignore", under="ignore")
def candidates(
    logits: Floats, seen: Sequence[int] | Ids, config: SamplingConfig
) -> tuple[Ids, Float64s]:
    """The ids that may be drawn after `logits` [V], at least one, in ascending order, and their probabilities. The
    repetition penalty applies to the ids in `seen`, however often each is there.

    Of equally likely tokens at the edge of a set the lower ids are kept. The ids are not sorted by probability, so a
    rounding difference between two engines moves the borders between tokens a little and never swaps them.

    Raises:
        UserError: a logit is NaN or infinite.
    """
    scores = np.asarray(logits, dtype=np.float64)
    check_finite(scores)
    if config.repetition_penalty != 1:
        scores = _penalize(scores, seen, config.repetition_penalty)
    if config.temperature == 0:
        return np.array([scores.argmax()]), np.ones(1)

    # Min-p does not depend on top-k, so it comes first: it removes most of a large vocabulary at once. Only top-p needs
    # the probabilities of all tokens.
    floor = -math.inf
    if config.min_p > 0:
        floor = scores.max() + config.temperature * math.log(config.min_p)
    if config.top_p < 1 or config.min_p == 0:
        ids = np.arange(scores.size)
    else:
        [ids] = (scores >= floor).nonzero()
        scores = scores[ids]
    if config.top_k is not None and config.top_k < scores.size:
        kept = _top_k(scores, config.top_k)
        ids, scores = ids[kept], scores[kept]
    scaled = (scores - scores.max()) / config.temperature
    if config.top_p < 1:
        kept = _top_p(scores, _softmax(scaled), config.top_p)
        kept = kept[scores[kept] >= floor]
        ids, scaled = ids[kept], scaled[kept]
    return ids, _softmax(scaled)


def _penalize(scores: Float64s, seen: Sequence[int] | Ids, penalty: float) -> Float64s:
    """Make the ids in `seen` less likely (CTRL, Keskar et al. 2019, section 4.1).

    The paper divides scores by the penalty. Negative scores are multiplied, since division would make them more likely.
    """
    ids = np.asarray(seen, dtype=np.intp)
    largest = np.finfo(np.float64).max
    penalized = np.where(scores[ids] > 0, scores[ids] / penalty, scores[ids] * penalty)
    scores = scores.copy()
    scores[ids] = np.clip(penalized, -largest, largest)
    return scores


def _top_k(scores: Float64s, k: int) -> Ids:
    """Indices of the `k` highest scores, ascending (Fan et al. 2018), by partition instead of a sort."""
    edge = np.partition(scores, -k)[-k]
    above = np.flatnonzero(scores > edge)
    ties = np.flatnonzero(scores == edge)[: k - above.size]
    return np.sort(np.concatenate([above, ties]))


def _top_p(scores: Float64s, probabilities: Float64s, p: float) -> Ids:
    """Indices, ascending, of the smallest set of highest scores that reaches probability `p`.

    Nucleus sampling, Holtzman et al. 2019.
    """
    # Tokens below (1 - p) / n have less than 1 - p together, so the set is complete without them, and most of a large
    # vocabulary is never sorted.
    eligible = np.flatnonzero(probabilities >= (1 - p) / probabilities.size)
    # Sorted by score: if a temperature makes probabilities equal, the more likely token still comes first.
    descending = eligible[np.argsort(-scores[eligible], kind="stable")]
    reached = np.searchsorted(np.cumsum(probabilities[descending]), p)
    return np.sort(descending[: reached + 1])


def _softmax(scores: Float64s) -> Float64s:
    """Probabilities of scores whose maximum is 0."""
    probabilities: Float64s = np.exp(scores)
    probabilities /= probabilities.sum()
    return probabilities
