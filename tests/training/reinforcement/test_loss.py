"""The loss of GRPO and its gradients, on both engines, equal a slow reference that goes token by token in NumPy."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from homespun.config import ModelConfig
from homespun.data.batch import IGNORED, Batch
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.numpy.engine import NumpyEngine
from homespun.engine.torch.engine import TorchEngine
from homespun.training.reinforcement.loss import advantages, divergence, token_losses
from tests.reference import GPT2, QWEN3, HuggingFace, random_batch, random_weights, relative_error

ENGINES = pytest.mark.parametrize("kind", [TorchEngine, MlxEngine], ids=["torch", "mlx"])
MODELS = pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
CLOSE = 1e-5
CLIP, KL = 0.2, 0.3
SCORES = [[1.0, 0.0], [0.25, 0.75]]
"""Of two groups of two answers."""

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Answers:
    """Four answers of different length, with the log-probabilities of the past."""

    batch: Batch
    old: Floats
    reference: Floats

    @property
    def is_answer(self) -> npt.NDArray[np.bool_]:
        return self.batch.targets != IGNORED


def answers(config: ModelConfig) -> Answers:
    whole = random_batch(config, rows=4)
    targets = whole.targets.copy()
    for row, (begin, end) in enumerate([(10, 14), (10, 22), (5, 6), (5, 17)]):
        targets[row, :begin] = targets[row, end:] = IGNORED
    batch = Batch(whole.inputs, targets)
    now = made(TorchEngine, config).log_probabilities(batch).astype(np.float64)
    rng = np.random.default_rng(4)
    return Answers(
        batch,
        now + 0.3 * rng.standard_normal(now.shape),
        now + 0.5 * rng.standard_normal(now.shape),
    )


def made(kind: type[TorchEngine | MlxEngine], config: ModelConfig) -> TorchEngine | MlxEngine:
    settings = OptimizerSettings(
        "adamw", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0
    )
    engine = kind(config, EngineOptions(optimizer=settings, precision="float32", threads=2))
    engine.load(random_weights(config).items())
    return engine


def slow_loss_of_token(logits: Floats, target: int, old: float, ref: float, gain: float) -> float:
    """One token, as the formula stands in the papers; logits [V]."""
    log_total = math.log(sum(math.exp(value) for value in logits.tolist()))
    new = float(logits[target]) - log_total
    ratio = math.exp(new - old)
    bounded = min(max(ratio, 1 - CLIP), 1 + CLIP)
    kl = math.exp(ref - new) - (ref - new) - 1
    return -min(ratio * gain, bounded * gain) + KL * kl


def slow(given: Answers, logits: Floats, scores: list[list[float]]) -> tuple[float, Floats]:
    """The loss of all answers, and its derivative by the logits by central differences; logits [B, T, V]."""
    gains = []
    for group in scores:
        mean = sum(group) / len(group)
        spread = math.sqrt(sum((score - mean) ** 2 for score in group) / len(group))
        gains += [(score - mean) / spread for score in group]
    n = int(given.is_answer.sum())
    total, slope, h = 0.0, np.zeros(logits.shape), 1e-6
    for row, column in zip(*np.nonzero(given.is_answer), strict=True):
        one = logits[row, column].astype(np.float64)
        facts = (
            int(given.batch.targets[row, column]),
            float(given.old[row, column]),
            float(given.reference[row, column]),
            gains[row],
        )
        total += slow_loss_of_token(one, *facts) / n
        for v in range(len(one)):
            up, down = one.copy(), one.copy()
            up[v] += h
            down[v] -= h
            difference = slow_loss_of_token(up, *facts) - slow_loss_of_token(down, *facts)
            slope[row, column, v] = difference / (2 * h * n)
    return total, slope


def errors(
    kind: type[TorchEngine | MlxEngine],
    config: ModelConfig,
    *,
    clip: float = CLIP,
    moved: float = 0.0,
    gains: Floats | None = None,
) -> dict[str, float]:
    """Relative error of the loss and of each gradient of ours against the slow reference.

    Args:
        clip: our clipping.
        moved: is added to our log-probabilities of the reference model.
        gains: our advantages, if they are not those of the scores.
    """
    given, engine = answers(config), made(kind, config)
    theirs = HuggingFace(config, random_weights(config))
    expected, slope = slow(given, theirs.logits(given.batch).astype(np.float64), SCORES)
    found = token_losses(
        engine.log_probabilities(given.batch),
        given.old,
        given.reference + moved,
        np.repeat((advantages(SCORES) if gains is None else gains).ravel(), 24).reshape(4, 24),
        given.is_answer,
        clip=clip,
        kl=KL,
    )
    n = given.batch.n_targets
    result = {"loss": abs(found.loss.sum() / n - expected) / abs(expected)}
    weighted = dataclasses.replace(given.batch, weights=found.weights.astype(np.float32))
    ours = dict(engine.gradients([weighted]))
    for name, gradient in theirs.gradients(given.batch, torch.from_numpy(slope)):
        result[name] = relative_error(ours.pop(name), gradient)
    assert not ours
    return result


@ENGINES
@MODELS
def test_loss_and_gradients_equal_the_slow_reference(
    kind: type[TorchEngine | MlxEngine], config: ModelConfig
) -> None:
    found = errors(kind, config)
    assert max(found.values()) < CLOSE, found


def test_sabotages_are_noticed() -> None:
    assert max(errors(TorchEngine, GPT2, clip=1e6).values()) > 1e-2  # the ratio is not clipped
    assert max(errors(TorchEngine, GPT2, moved=0.1).values()) > 1e-2  # the reference has moved
    plain = np.array(SCORES) - np.mean(SCORES, axis=1, keepdims=True)
    assert max(errors(TorchEngine, GPT2, gains=plain).values()) > 1e-2  # not normalised


@ENGINES
def test_weights_of_one_change_nothing_and_parts_add_up(
    kind: type[TorchEngine | MlxEngine],
) -> None:
    engine, batch = made(kind, QWEN3), random_batch(QWEN3)
    ones = dataclasses.replace(batch, weights=np.ones(batch.targets.shape, np.float32))
    plain = dict(engine.gradients([batch]))
    for name, gradient in engine.gradients([ones]):
        assert relative_error(gradient, plain[name]) < 1e-6, name
    rng = np.random.default_rng(1)
    some = rng.standard_normal(batch.targets.shape).astype(np.float32)
    whole = dict(engine.gradients([dataclasses.replace(batch, weights=some)]))
    parts = [
        Batch(batch.inputs[rows], batch.targets[rows], weights=some[rows])
        for rows in (slice(0, 1), slice(1, 3))
    ]
    for name, gradient in engine.gradients(parts):
        assert relative_error(gradient, whole[name]) < CLOSE, name


def test_all_engines_agree_on_log_probabilities() -> None:
    batch = answers(QWEN3).batch
    reader = NumpyEngine(QWEN3)
    reader.load(random_weights(QWEN3).items())
    expected = reader.log_probabilities(batch)
    total, n = reader.loss(batch)
    assert -float(expected.sum()) == pytest.approx(total, rel=1e-6)
    assert n == np.count_nonzero(expected)
    for kind in (TorchEngine, MlxEngine):
        np.testing.assert_allclose(
            made(kind, QWEN3).log_probabilities(batch), expected, rtol=1e-5, atol=1e-5
        )


def test_advantages_have_mean_zero_and_deviation_one() -> None:
    found = advantages([[1, 0, 0, 0], [3, 5, 8, 1], [2, 2, 2, 2]])
    np.testing.assert_allclose(found.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(found.std(1), [1, 1, 0])
    assert not found[2].any()
    np.testing.assert_allclose(found, advantages([[9, 7, 7, 7], [30, 50, 80, 10], [0] * 4]))
    assert not advantages([[0.1 + 0.2, 0.3]]).any()  # a difference that is rounding


def test_only_changes_in_the_wanted_direction_are_clipped() -> None:
    old = np.zeros((1, 4))
    new = np.log([[1.5, 0.5, 1.5, 0.5]])
    gain = np.array([[1.0, 1.0, -1.0, -1.0]])
    found = token_losses(new, old, None, gain, np.ones((1, 4), bool), clip=0.2, kl=0)
    assert found.clipped.tolist() == [[True, False, False, True]]
    np.testing.assert_allclose(found.weights, [[0, 0.5, -1.5, 0]])
    np.testing.assert_allclose(found.loss, [[-1.2, -0.5, 1.5, 0.8]])


def test_the_divergence_is_zero_for_equal_models_and_its_estimate_unbiased() -> None:
    assert divergence(np.zeros(3)).tolist() == [0, 0, 0]
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
    estimate = float((p * divergence(np.log(q) - np.log(p))).sum())
    assert estimate == pytest.approx(float((p * np.log(p / q)).sum()))
