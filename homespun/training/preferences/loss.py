"""Log-probabilities of answers flow in; the losses of preference pairs and their derivatives come out.

Direct preference optimization (DPO; Rafailov et al. 2023). An answer with log-probability l, which the initial model
gives l_ref, has the implicit reward beta * (l - l_ref). The margin of a pair is the reward of the better answer minus
that of the other one, and

    loss = -log sigmoid(margin)

The loss of a step is the mean over its pairs. All of this is NumPy in float64. As in `reinforcement.loss`, the
derivative by a log-probability becomes the weight of the cross-entropies of its tokens, so an engine needs nothing new.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from homespun.data.batch import Batch

Values = npt.NDArray[np.float64]

BETTER, WORSE = 0, 1
"""Columns of the answers of a pair."""


class PairLosses(NamedTuple):
    """Of some pairs."""

    loss: Values
    """[pairs]"""
    slopes: Values
    """[pairs, 2] The derivatives of the loss of each pair by the log-probabilities of its answers."""
    rewards: Values
    """[pairs, 2] The implicit rewards."""

    @property
    def margins(self) -> Values:
        """[pairs]"""
        margins: Values = self.rewards[:, BETTER] - self.rewards[:, WORSE]
        return margins


def pair_losses(new: npt.ArrayLike, reference: npt.ArrayLike, beta: float) -> PairLosses:
    """The losses of pairs.

    Args:
        new: log-probabilities of the answers now, [pairs, 2], the better one first.
        reference: those in the initial model, [pairs, 2].
        beta: factor of the rewards.
    """
    rewards = beta * (np.asarray(new, np.float64) - np.asarray(reference, np.float64))
    margins = rewards[:, BETTER] - rewards[:, WORSE]
    loss = np.logaddexp(0.0, -margins)
    slope = beta * np.exp(-np.logaddexp(0.0, margins))  # beta * sigmoid(-margin)
    return PairLosses(loss, np.stack([-slope, slope], axis=-1), rewards)


def answer_sums(log_probabilities: npt.NDArray[np.float32]) -> Values:
    """The log-probability of each answer, [pairs, 2], from those of its tokens, [2 * pairs, T]; 0 elsewhere."""
    sums: Values = log_probabilities.astype(np.float64).sum(axis=-1).reshape(-1, 2)
    return sums


def weighted(batches: Sequence[Batch], slopes: Values) -> list[Batch]:
    """The micro-batches of a step, with weights whose mean cross-entropy over all targets has the gradient of the mean
    loss over all pairs; slopes [pairs, 2]."""
    n_targets = sum(batch.n_targets for batch in batches)
    of_rows = (-slopes * n_targets / len(slopes)).astype(np.float32).reshape(-1, 1)
    found, begin = [], 0
    for batch in batches:
        end = begin + len(batch.inputs)
        weights = np.where(batch.is_target, of_rows[begin:end], np.float32(0.0))
        found.append(dataclasses.replace(batch, weights=weights))
        begin = end
    return found
