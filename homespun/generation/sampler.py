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

BLOCK = 64
"""Weights whose sum is taken at once while a token is drawn."""

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
            return self._draw(*_weighed(logits, (), self.config))
        if self._seen is None:
            self._seen = np.zeros(len(logits), dtype=np.bool_)
            self._seen[np.asarray(self._prompt, dtype=np.intp)] = True
        token = self._draw(*_weighed(logits, np.flatnonzero(self._seen), self.config))
        self._seen[token] = True
        return token

    def _draw(self, ids: Ids | None, weights: Float64s) -> int:
        place = drawn(weights, self.random) if len(weights) > 1 else 0
        return place if ids is None else int(ids[place])


def drawn(weights: Float64s, random: np.random.Generator) -> int:
    """An index of `weights` [n], which are not negative, with a probability in proportion to its weight.

    The sums of blocks tell the block, and the sums within it the index: this is faster than the sums of all weights.
    """
    ends = np.add.reduceat(weights, np.arange(0, len(weights), BLOCK)).cumsum()
    point = _below(random.random() * ends[-1], ends[-1])
    block = int(ends.searchsorted(point, side="right"))
    if block:
        point -= ends[block - 1]
    within = weights[block * BLOCK : (block + 1) * BLOCK].cumsum()
    return block * BLOCK + int(within.searchsorted(_below(point, within[-1]), side="right"))


def _below(point: float, end: float) -> float:
    """Rounding must not carry the drawn point up to the end: no token lies beyond it."""
    return min(point, math.nextafter(end, 0))


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
    ids, weights = _weighed(logits, seen, config)
    return np.arange(len(weights)) if ids is None else ids, weights / weights.sum()


@np.errstate(over="ignore", under="ignore")
def _weighed(
    logits: Floats, seen: Sequence[int] | Ids, config: SamplingConfig
) -> tuple[Ids | None, Float64s]:
    """As `candidates`, with numbers in proportion to the probabilities, the largest 1. None: all ids may be drawn."""
    scores = np.asarray(logits, dtype=np.float64)
    check_finite(scores)
    if config.repetition_penalty != 1:
        scores = _penalize(scores, seen, config.repetition_penalty)
    if config.temperature == 0:
        return np.array([scores.argmax()]), np.ones(1)

    # Min-p does not depend on top-k, so it comes first: it removes most of a large vocabulary at once. Only top-p needs
    # the probabilities of all tokens.
    largest = scores.max()
    floor, ids = -math.inf, None
    if config.min_p > 0:
        floor = largest + config.temperature * math.log(config.min_p)
        if config.top_p == 1:
            [ids] = (scores >= floor).nonzero()
            scores = scores[ids]
    if config.top_k is not None and config.top_k < scores.size:
        kept = _top_k(scores, config.top_k)
        ids, scores = kept if ids is None else ids[kept], scores[kept]
    scaled = scores - largest
    if config.temperature != 1:
        scaled /= config.temperature
    if config.top_p < 1:
        kept = _top_p(scores, _softmax(scaled), config.top_p)
        kept = kept[scores[kept] >= floor]
        ids, scaled = kept if ids is None else ids[kept], scaled[kept]
    return ids, np.exp(scaled, out=scaled)


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
