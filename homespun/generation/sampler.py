"""Logits flow in; one token id comes out.

It is computed in float64 with NumPy, or by functions of an engine that give the same, so every engine draws the same
token from the same logits. The filters apply in the order of the `transformers` library: repetition penalty,
temperature, top-k, top-p, min-p.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from homespun.config import SamplingConfig
from homespun.engine.base import Draw, Floats
from homespun.errors import UserError

BLOCK = 64
"""Weights whose sum is taken at once while a token is drawn."""

LIMIT_STEP = 16
"""Factor by which the limit of likely tokens falls in top-p."""

LEAST_TEMPERATURE = 1e-3
LEAST_MIN_P = 1e-9
"""NumPy draws with smaller settings above 0: a `Draw` may compute with too few digits for them."""

Ids = npt.NDArray[np.intp]
Float64s = npt.NDArray[np.float64]
Scores = Floats | Float64s


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
        c = config
        self.is_simple = (
            c.top_k is None
            and (c.top_p, c.repetition_penalty) == (1, 1)
            and (c.temperature == 0 or c.temperature >= LEAST_TEMPERATURE)
            and (c.min_p == 0 or c.min_p >= LEAST_MIN_P)
        )
        """Whether a `Draw` knows all the settings."""
        self._number: float | None = None
        """A random number that was not needed for the last token."""

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

    def settings(self) -> tuple[float, float, float]:
        """Those of a `Draw`."""
        c = self.config
        if self._number is None:
            self._number = 0.0 if c.temperature == 0 else self.random.random()
        return c.temperature, math.log(c.min_p) if c.min_p else -math.inf, self._number

    def use_number(self) -> None:
        """Take another random number next time."""
        self._number = None

    def _draw(self, ids: Ids | None, weights: Float64s) -> int:
        place = drawn(weights, self.random) if len(weights) > 1 else 0
        return place if ids is None else int(ids[place])


def draw_each(
    samplers: Sequence[Sampler], logits: Sequence[Floats], draw: Draw | None = None
) -> list[int | UserError]:
    """The token of each sampler after logits [V] of its own, or an error, as calls of the samplers give them.

    Args:
        draw: of the engine. It draws the tokens of simple samplers all at once.
    """
    found: dict[int, int | UserError] = {}
    simple = [i for i, sampler in enumerate(samplers) if sampler.is_simple] if draw else []
    if draw and simple:
        settings = np.array([samplers[i].settings() for i in simple])
        tokens, were_needed = draw([logits[i] for i in simple], settings)
        for i, token, was_needed in zip(simple, tokens, were_needed, strict=True):
            if was_needed:
                samplers[i].use_number()
            found[i] = token if token >= 0 else _not_finite()
    for i, sampler in enumerate(samplers):
        if i not in found:
            try:
                found[i] = sampler(logits[i])
            except UserError as error:
                found[i] = error
    return [found[i] for i in range(len(samplers))]


def drawn(weights: Float64s, random: np.random.Generator) -> int:
    """An index of `weights` [n], which are not negative, with a probability in proportion to its weight.

    The sums of blocks tell the block, and the sums within it the index: this is faster than the sums of all weights.
    """
    ends = np.add.reduceat(weights, np.arange(0, len(weights), BLOCK)).cumsum()
    end = float(ends[-1])
    point = _below(random.random() * end, end)
    block = int(ends.searchsorted(point, side="right"))
    if block:
        point -= float(ends[block - 1])
    first = block * BLOCK
    within = weights[first : first + BLOCK].cumsum()
    return first + int(within.searchsorted(_below(point, float(within[-1])), side="right"))


def _below(point: float, end: float) -> float:
    """Rounding must not carry the drawn point up to the end: no token lies beyond it."""
    return min(point, math.nextafter(end, 0))


def check_finite(computed: "Floats | Float64s") -> None:
    """Check what a model has computed.

    Raises:
        UserError: a number is NaN or infinite.
    """
    _largest(computed)


def _largest(computed: "Floats | Float64s") -> float:
    """The largest number of an output of a model, which is checked as by `check_finite`."""
    largest = float(computed.max())
    # If there is NaN, it is both the largest and the smallest number of an array.
    if not (math.isfinite(largest) and math.isfinite(computed.min())):
        raise _not_finite()
    return largest


def _not_finite() -> UserError:
    return UserError(
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
    largest = _largest(logits)
    if config.temperature == 0 and config.repetition_penalty == 1:
        return np.array([logits.argmax()]), np.ones(1)
    scores: Scores = logits
    if config.repetition_penalty != 1:
        scores = _penalized(logits, seen, config.repetition_penalty)
        if config.temperature == 0:
            return np.array([scores.argmax()]), np.ones(1)
        largest = float(scores.max())

    # Min-p does not depend on top-k, so it comes first: it removes most of a large vocabulary at once. Only top-p needs
    # the probabilities of all tokens.
    weigh = partial(_weights, largest=largest, temperature=config.temperature)
    ids = None
    floor = np.float64(-math.inf)  # a Python number would be rounded to the scores' precision
    if config.min_p > 0:
        floor = np.float64(largest + config.temperature * math.log(config.min_p))
        if config.top_p == 1:
            [ids] = (scores >= floor).nonzero()
            scores = scores[ids]
    if config.top_k is not None and config.top_k < scores.size:
        kept = top_k(scores, config.top_k)
        ids, scores = kept if ids is None else ids[kept], scores[kept]
    if config.top_p < 1:
        kept = _top_p(scores, weigh, config.top_p)
        kept = kept[scores[kept] >= floor]
        ids, scores = kept if ids is None else ids[kept], scores[kept]
    return ids, weigh(scores)


def _penalized(logits: Floats, seen: Sequence[int] | Ids, penalty: float) -> Float64s:
    """Scores in which the ids in `seen` are less likely (CTRL, Keskar et al. 2019, section 4.1).

    The paper divides scores by the penalty. Negative scores are multiplied, since division would make them more likely.
    """
    ids = np.asarray(seen, dtype=np.intp)
    largest = np.finfo(np.float64).max
    scores = logits.astype(np.float64)
    before = scores[ids]
    penalized = np.where(before > 0, before / penalty, before * penalty)
    scores[ids] = np.maximum(np.minimum(penalized, largest), -largest)
    return scores


def _weights(scores: Scores, largest: float, temperature: float) -> Float64s:
    """Numbers in proportion to the probabilities; 1 for the `largest` score."""
    scaled = scores.astype(np.float64)
    scaled -= largest
    if temperature != 1:
        scaled /= temperature
    return np.exp(scaled, out=scaled)


def top_k(scores: Scores, k: int) -> Ids:
    """Indices of the `k` highest scores, ascending (Fan et al. 2018); of equal ones the lower indices.

    Args:
        scores: more than `k`.
        k: at least 1.
    """
    near = scores
    block = scores.size // (4 * k)
    if block >= 8:
        # At least k scores reach the k-th highest of the maxima of blocks: the maxima themselves. Few others do.
        highest = np.maximum.reduceat(scores, np.arange(0, scores.size, block))
        near = scores[(scores >= np.partition(highest, -k)[-k]).nonzero()]
    return _down_to(np.partition(near, -k)[-k], scores, k)


def _top_p(scores: Scores, weigh: Callable[[Scores], Float64s], p: float) -> Ids:
    """Indices, ascending, of the smallest set of highest scores that reaches probability `p`.

    Nucleus sampling, Holtzman et al. 2019. Only likely tokens are sorted: those above a limit, which falls until they
    have the probability `p` together. They are the first ones in the order of all tokens, so the set is that of a sort
    of the whole vocabulary.

    Args:
        weigh: gives numbers in proportion to the probabilities of scores.
    """
    weights = weigh(scores)
    total = weights.sum()
    rest = (1 - p) * total
    limit = rest / LIMIT_STEP
    while True:
        ranked = np.sort(scores[(weights >= limit).nonzero()])[::-1]
        # By score: if a temperature makes probabilities equal, the more likely token still comes first.
        reached = (weigh(ranked) / total).cumsum()
        if len(ranked) == len(scores) or (len(ranked) and reached[-1] >= p):
            break
        # The tokens below `rest` / V have less than `rest` together. If the others do not reach `p`, that is rounding.
        limit = limit / LIMIT_STEP if limit * len(scores) > rest else 0.0
    n = min(int(reached.searchsorted(p)) + 1, len(ranked))
    return _down_to(ranked[n - 1], scores, n)


def _down_to(edge: float, scores: Scores, n: int) -> Ids:
    """Indices of the `n` highest scores, ascending, the last of which is `edge`; of equal ones the lower indices."""
    [kept] = (scores >= edge).nonzero()
    if len(kept) == n:
        return kept
    [above] = (scores > edge).nonzero()
    [ties] = (scores == edge).nonzero()
    return np.sort(np.concatenate([above, ties[: n - len(above)]]))
