"""The loss of DPO and its gradients, on both engines, equal a slow reference that goes token by token in NumPy."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from homespun.config import ModelConfig
from homespun.data.batch import IGNORED, Batch
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.torch.engine import TorchEngine
from homespun.training.checkpointing.position import PairSums
from homespun.training.preferences.loss import answer_sums, pair_losses, weighted
from homespun.training.preferences.preparation import figures_of, sums_of
from tests.reference import GPT2, HuggingFace, random_batch, random_weights, relative_error
from tests.training.reinforcement.test_loss import CLOSE, ENGINES, MODELS, made

BETA = 0.3

Floats = npt.NDArray[np.float64]


def pairs(config: ModelConfig) -> Batch:
    """Two pairs with answers of different length."""
    whole = random_batch(config, rows=4)
    targets = whole.targets.copy()
    for row, (begin, end) in enumerate([(10, 14), (10, 22), (5, 6), (5, 17)]):
        targets[row, :begin] = targets[row, end:] = IGNORED
    return Batch(whole.inputs, targets)


def reference_of(config: ModelConfig) -> Floats:
    """Log-probabilities of an initial model that differs a little from the one in training."""
    now = made(TorchEngine, config).log_probabilities(pairs(config))
    shift = np.random.default_rng(4).standard_normal((2, 2))
    return answer_sums(now) + shift


def slow_log_probability(logits: Floats, targets: npt.NDArray[np.int32]) -> float:
    """Of an answer; logits [T, V]."""
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        if target != IGNORED:
            total += row[target] - math.log(sum(math.exp(value) for value in row))
    return total


def slow_loss(chosen: float, rejected: float, reference: Floats) -> float:
    """Of a pair, as the formula stands in the paper."""
    chosen_ratio, rejected_ratio = chosen - reference[0], rejected - reference[1]
    return -math.log(1 / (1 + math.exp(-(BETA * chosen_ratio - BETA * rejected_ratio))))


def slow(batch: Batch, logits: Floats, reference: Floats) -> tuple[float, Floats]:
    """The mean loss of all pairs, and its derivative by the logits by central differences; logits [B, T, V]."""
    n, total, slope, h = len(logits) // 2, 0.0, np.zeros(logits.shape), 1e-6
    for pair in range(n):
        rows = (2 * pair, 2 * pair + 1)
        one, other = (slow_log_probability(logits[row], batch.targets[row]) for row in rows)
        total += slow_loss(one, other, reference[pair]) / n
        for row in rows:
            for column in np.flatnonzero(batch.targets[row] != IGNORED):
                target = batch.targets[row, column : column + 1]
                at = slow_log_probability(logits[row, column : column + 1], target)
                for v in range(logits.shape[2]):
                    found = []
                    for step in (h, -h):
                        moved = logits[row, column : column + 1].copy()
                        moved[0, v] += step
                        change = slow_log_probability(moved, target) - at
                        now = (one + change, other) if row == rows[0] else (one, other + change)
                        found.append(slow_loss(*now, reference[pair]))
                    slope[row, column, v] = (found[0] - found[1]) / (2 * h * n)
    return total, slope


def errors(
    kind: type[TorchEngine | MlxEngine],
    config: ModelConfig,
    *,
    beta: float = BETA,
    moved: float = 0.0,
    swapped: bool = False,
    microbatches: int = 1,
) -> dict[str, float]:
    """Relative error of the loss and of each gradient of ours against the slow reference.

    Args:
        beta: ours.
        moved: how far our reference is moved towards the model in training.
        swapped: whether we take the worse answer for the better one.
        microbatches: of our step.
    """
    batch, engine, reference = pairs(config), made(kind, config), reference_of(config)
    theirs = HuggingFace(config, random_weights(config))
    expected, slope = slow(batch, theirs.logits(batch), reference)
    size = len(batch.inputs) // microbatches
    parts = [
        Batch(batch.inputs[first : first + size], batch.targets[first : first + size])
        for first in range(0, len(batch.inputs), size)
    ]
    new = np.concatenate([answer_sums(engine.log_probabilities(part)) for part in parts])
    ours = reference + moved * (new - reference)
    found = pair_losses(new, ours, beta)
    slopes = found.slopes
    if swapped:
        other = pair_losses(new[:, ::-1], ours[:, ::-1], beta)
        found, slopes = other, other.slopes[:, ::-1]
    result = {"loss": abs(float(found.loss.mean()) - expected) / expected}
    gradients = dict(engine.gradients(weighted(parts, slopes)))
    for name, gradient in theirs.gradients(batch, torch.from_numpy(slope)):
        result[name] = relative_error(gradients.pop(name), gradient)
    assert not gradients
    return result


@ENGINES
@MODELS
def test_loss_and_gradients_equal_the_slow_reference(
    kind: type[TorchEngine | MlxEngine], config: ModelConfig
) -> None:
    for microbatches in (1, 2):
        found = errors(kind, config, microbatches=microbatches)
        assert max(found.values()) < CLOSE, found


@pytest.mark.parametrize("sabotage", [{"moved": 0.5}, {"beta": 1.0}, {"swapped": True}], ids=str)
def test_sabotages_are_noticed(sabotage: dict[str, float]) -> None:
    found = errors(TorchEngine, GPT2, **sabotage)  # type: ignore[arg-type]
    assert min(found.values()) > 1e-2, found


def test_the_initial_model_has_the_loss_of_a_guess() -> None:
    same = np.array([[-3.0, -7.0], [-900.0, -1.0]])
    found = pair_losses(same, same, 0.1)
    np.testing.assert_allclose(found.loss, math.log(2))
    np.testing.assert_allclose(found.slopes, [[-0.05, 0.05]] * 2)
    assert figures_of(sums_of(found, 9)).accuracy == 0.5


def test_large_margins_stay_finite() -> None:
    found = pair_losses([[0.0, -1e6], [-1e6, 0.0]], np.zeros((2, 2)), 1.0)
    np.testing.assert_allclose(found.loss, [0, 1e6])
    np.testing.assert_allclose(found.slopes, [[0, 0], [-1, 1]])


def test_figures_are_means_over_all_pairs() -> None:
    parts = [pair_losses([[0.0, -1.0]], [[0.0, 0.0]], 0.5)]
    parts += [pair_losses([[-3.0, -1.0], [-1.0, -2.0]], np.zeros((2, 2)), 0.5)]
    sums = PairSums()
    for part in parts:
        sums = sums.plus(sums_of(part, 5))
    assert sums.tokens == 10
    figures = figures_of(sums)
    assert figures.accuracy == pytest.approx(2 / 3)
    assert figures.chosen_reward == pytest.approx(-2 / 3)
    assert figures.rejected_reward == pytest.approx(-2 / 3)
    assert figures.margin == pytest.approx(0)
