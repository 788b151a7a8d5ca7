"""Weighted and auxiliary losses, and frozen parameters."""

import dataclasses
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from homespun.config import ModelConfig
from homespun.data.batch import IGNORED, Batch
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.mlx.loss import head_loss
from homespun.engine.mlx.models import gpt2, qwen3
from tests.reference import GPT2, QWEN3, random_batch, random_weights, relative_error

SETTINGS = OptimizerSettings("muon", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
RATES = {"adamw": 1e-3, "muon": 1e-2}
AUXILIARY = 0.1
EACH = pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])


def engine(config: ModelConfig, optimizer: str = "muon", **options: Any) -> MlxEngine:
    settings = dataclasses.replace(SETTINGS, name=optimizer)
    usual = {"precision": "float32", "aux_loss": AUXILIARY}
    made = MlxEngine(config, EngineOptions(settings, **usual | options))
    made.load(random_weights(config).items())
    return made


def divided(batch: Batch, size: int) -> list[Batch]:
    return [
        Batch(batch.inputs[i : i + size], batch.targets[i : i + size])
        for i in range(0, len(batch.inputs), size)
    ]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_a_weighted_loss_has_weighted_gradients(dtype: mx.Dtype) -> None:
    rng = np.random.default_rng(0)
    hidden = mx.array(rng.standard_normal((60, 8), dtype=np.float32)).astype(dtype)
    head = mx.array(rng.standard_normal((97, 8), dtype=np.float32))
    targets, scale = mx.array(rng.integers(0, 97, 60)), mx.array(0.01)

    def gradients(weight: float) -> list[mx.array]:
        def loss(hidden: mx.array, head: mx.array) -> mx.array:
            return weight * head_loss(hidden, head, targets, scale)

        return list(mx.grad(loss, argnums=(0, 1))(hidden, head))

    for one, four in zip(gradients(1.0), gradients(4.0), strict=True):
        assert one.dtype == four.dtype
        assert mx.array_equal(
            four.astype(mx.float32), 4 * one.astype(mx.float32)
        )  # exact in binary
    for one, three in zip(gradients(1.0), gradients(3.0), strict=True):
        assert relative_error(three.astype(mx.float32), 3 * one.astype(mx.float32)) < 0.01


@pytest.fixture
def auxiliary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block also returns the mean square of its output in place of the balance of a router."""
    for block in (gpt2.GPT2Block, qwen3.Qwen3Block):

        def reporting(self: Any, *given: Any, usual: Any = block.__call__, **named: Any) -> Any:
            x, _ = usual(self, *given, **named)
            square = x.astype(mx.float32).square().mean()
            return x, mx.stack([square, mx.zeros(()), mx.zeros(())])

        monkeypatch.setattr(block, "__call__", reporting)


def step_loss(config: ModelConfig, weights: dict[str, Any], batches: list[Batch]) -> float:
    """The loss of a step with that of its routers. The step is refused, so that it changes nothing."""
    ours = engine(config)
    ours.load(weights.items())
    result = ours.train_step(batches, RATES, 0, norm_limit=0.0).result()
    assert not result.applied
    return result.loss + AUXILIARY * sum(router.balance_loss for router in result.routers)


@EACH
@pytest.mark.usefixtures("auxiliary")
def test_gradients_of_an_auxiliary_loss_are_its_finite_differences(config: ModelConfig) -> None:
    batches = divided(random_batch(config, rows=4), 2)
    batches[0].targets[:, :20] = IGNORED  # the micro-batches have different numbers of targets
    weights = random_weights(config)
    for name, gradient in engine(config).gradients(batches):
        direction = gradient / np.linalg.norm(gradient)
        above, below = (
            step_loss(config, weights | {name: weights[name] + size * direction}, batches)
            for size in (np.float32(0.02), np.float32(-0.02))
        )
        slope = (above - below) / 0.04
        assert slope == pytest.approx(np.linalg.norm(gradient), rel=0.03, abs=1e-3), name


@pytest.mark.usefixtures("auxiliary")
def test_an_auxiliary_loss_counts_by_the_share_of_the_targets() -> None:
    weights, batches = random_weights(QWEN3), divided(random_batch(QWEN3, rows=4), 2)

    def auxiliary_loss(batches: list[Batch]) -> float:
        total = sum(engine(QWEN3).loss(batch)[0] for batch in batches)
        n_targets = sum(batch.n_targets for batch in batches)
        return step_loss(QWEN3, weights, batches) - total / n_targets

    first, second = (auxiliary_loss([batch]) for batch in batches)
    assert abs(first - second) > 1e-3 < first
    batches[0].targets[:, :20] = IGNORED
    assert auxiliary_loss(batches[:1]) == pytest.approx(first, rel=1e-3)
    shares = [batch.n_targets for batch in batches]
    expected = np.average([first, second], weights=shares)
    assert auxiliary_loss(batches) == pytest.approx(expected, rel=1e-3)


@EACH
@pytest.mark.usefixtures("auxiliary")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_an_auxiliary_loss_does_not_depend_on_the_division(
    config: ModelConfig, checkpointing: bool
) -> None:
    batch = random_batch(config, rows=4)
    ours = engine(config, gradient_checkpointing=checkpointing)
    whole = dict(ours.gradients([batch]))
    for size in (1, 2):
        for name, gradient in ours.gradients(divided(batch, size)):
            assert relative_error(gradient, whole[name]) < 1e-5, name


@pytest.mark.usefixtures("auxiliary")
def test_an_auxiliary_loss_follows_the_loss_scale_of_float16() -> None:
    batch = random_batch(QWEN3)
    expected = dict(engine(QWEN3).gradients([batch]))
    for name, gradient in engine(QWEN3, precision="float16").gradients([batch]):
        assert relative_error(gradient, expected[name]) < 0.02, name


def frozen_parameters(config: ModelConfig) -> frozenset[str]:
    """The embedding and the parameters of the first block, without its projections."""
    first, *_ = random_weights(config)
    return frozenset(
        name
        for name in random_weights(config)
        if name == first or (".0." in name and "proj" not in name)
    )


@EACH
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_frozen_parameters_stay_as_they_are(
    config: ModelConfig, optimizer: str, checkpointing: bool
) -> None:
    frozen, batch = frozen_parameters(config), random_batch(config)
    ours = engine(config, optimizer, frozen=frozen, gradient_checkpointing=checkpointing)
    whole = dict(engine(config, optimizer).gradients([batch]))
    gradients = dict(ours.gradients([batch]))
    assert gradients.keys() == whole.keys() - frozen
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, whole[name], err_msg=name)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))

    before = dict(ours.state())
    results = [ours.train_step([batch], RATES, step).result() for step in range(2)]
    assert results[0].grad_norm == pytest.approx(norm, rel=1e-5)
    after = dict(ours.state())
    assert list(after) == list(before)
    for name in random_weights(config):
        moments = {f"{kind}/{name}" for kind in ("exp_avg", "exp_avg_sq", "momentum")}
        assert (name in frozen) == np.array_equal(before[name], after[name]), name
        assert (name in frozen) == (not moments & after.keys()), name


def test_state_of_an_engine_with_frozen_parameters_survives_a_passage() -> None:
    first, second = (engine(QWEN3, frozen=frozen_parameters(QWEN3)) for _ in range(2))
    batches = [random_batch(QWEN3, seed=seed) for seed in range(2)]
    first.train_step(batches[:1], RATES, 0)
    second.load(list(first.state()))
    assert (
        first.train_step(batches[1:], RATES, 1).result()
        == second.train_step(batches[1:], RATES, 1).result()
    )


def test_unknown_or_too_many_frozen_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.nom\.weight"):
        engine(QWEN3, frozen=frozenset({"model.nom.weight"}))
    with pytest.raises(ValueError, match="nothing to train"):
        engine(QWEN3, frozen=frozenset(random_weights(QWEN3)))
