"""Scores and log-probabilities of sampled answers flow in; advantages, losses, and a weight for each token come out.

Group relative policy optimization (GRPO; Shao et al. 2024, "DeepSeekMath"). An answer's advantage is its score above
the mean of its group, the answers to the same prompt, in standard deviations of the group. A token with log-probability
l, which had l_old when it was sampled and has l_ref in the reference model, has the loss

    r = exp(l - l_old)
    -min(r * advantage, clip(r, 1 - clip, 1 + clip) * advantage)  +  kl * (exp(l_ref - l) - (l_ref - l) - 1)

and the loss of a step is the mean over all tokens of all its answers (Yu et al. 2025, "DAPO"), so that long answers do
not count less for each token. The second term estimates the divergence from the reference (Schulman 2020,
"Approximating KL Divergence").

An engine differentiates cross-entropies alone, and that is enough: the derivative of this loss by l is a number, and
the cross-entropy of the token is -l. So with the negative of this number as its weight, the cross-entropy has the
gradient of the loss. All of this is NumPy in float64, the same for every engine.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

EQUAL = 1e-9
"""A group whose scores differ by less tells nothing about them."""


def advantages(scores: npt.ArrayLike) -> Values:
    """The advantage of each answer: its score above the mean of its group, in standard deviations.

    scores [groups, answers] -> the same shape; zeros for a group of equal scores.
    """
    given = np.asarray(scores, dtype=np.float64)
    centred = given - given.mean(-1, keepdims=True)
    spread = given.std(-1, keepdims=True)
    different = np.ptp(given, axis=-1, keepdims=True) > EQUAL
    return np.where(different, centred / np.where(different, spread, 1.0), 0.0)


class TokenLosses(NamedTuple):
    """For each token of some answers; zero where there is no token."""

    loss: Values
    weights: Values
    """Of their cross-entropies."""
    clipped: Mask
    """Whether the ratio has left its range in the wanted direction, so that the token has no part in the update."""


def token_losses(
    new: npt.ArrayLike,
    old: npt.ArrayLike,
    reference: npt.ArrayLike | None,
    advantage: npt.ArrayLike,
    is_answer: Mask,
    *,
    clip: float,
    kl: float,
) -> TokenLosses:
    """The loss of each token, and its weight.

    Args:
        new: log-probabilities now, [answers, tokens], as are all others.
        old: when the answers were sampled.
        reference: in the reference model; None with `kl` 0.
        advantage: of the answer of each token.
        is_answer: whether there is a token of an answer.
        clip: largest useful distance of the ratio from 1.
        kl: factor of the divergence.
    """
    l_new, l_old = (np.where(is_answer, np.asarray(a, np.float64), 0.0) for a in (new, old))
    gain = np.where(is_answer, np.asarray(advantage, np.float64), 0.0)
    ratio = np.exp(l_new - l_old)
    bounded = np.clip(ratio, 1.0 - clip, 1.0 + clip)
    clipped = (bounded * gain < ratio * gain) & is_answer
    loss = -np.minimum(ratio * gain, bounded * gain)
    slope = np.where(clipped, 0.0, -ratio * gain)  # the derivative of the loss by `new`
    if kl:
        assert reference is not None
        distance = np.where(is_answer, np.asarray(reference, np.float64), 0.0) - l_new
        loss = loss + kl * divergence(distance)
        slope = slope + kl * (1.0 - np.exp(distance))
    return TokenLosses(loss, -slope, clipped)


def divergence(distance: Values) -> Values:
    """An estimate of the divergence from the reference at a sampled token, never negative: its mean over many samples
    is the divergence. `distance` is the log-probability in the reference minus that in the model."""
    return np.exp(distance) - distance - 1.0
