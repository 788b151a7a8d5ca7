"""Means of the weights: an engine with them trains as one without, and reads, gives and generates with the means."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from homespun.config import ModelConfig
from homespun.engine import launcher, select
from homespun.engine.averaging import UPDATES_PER_DOUBLING, share_of_step
from homespun.engine.base import Engine, EngineOptions, Floats, OptimizerSettings
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.torch.engine import TorchEngine
from homespun.errors import UserError
from tests.reference import QWEN3, random_batch, random_weights

FRACTION = 0.2
FROZEN = "model.norm.weight"
OPTIONS = EngineOptions(
    OptimizerSettings("muon", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0),
    precision="float32",
    threads=2,
    averaging=FRACTION,
    frozen=frozenset([FROZEN]),
)
RATES = {"adamw": 1e-2, "muon": 1e-2}
LATE = 2 * UPDATES_PER_DOUBLING
"""A step from which on the means take in every second step."""

fresh: Callable[[ModelConfig, EngineOptions], Engine] = TorchEngine


@pytest.fixture(params=[TorchEngine, MlxEngine], ids=["torch", "mlx"])
def _each_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "fresh", request.param)


EACH_ENGINE = pytest.mark.usefixtures("_each_kind")


def engine(**options: Any) -> Engine:
    made = fresh(QWEN3, dataclasses.replace(OPTIONS, **options))
    made.load(random_weights(QWEN3).items())
    return made


def train(engine: Engine, first: int, count: int, **limits: float) -> None:
    for step in range(first, first + count):
        engine.train_step([random_batch(QWEN3, seed=step)], RATES, step, **limits).result()


def state(engine: Engine) -> dict[str, Floats]:
    return dict(engine.state())


def assert_equal(ours: dict[str, Floats], theirs: dict[str, Floats]) -> None:
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def weights_in_mean(steps: int, fraction: float) -> Floats:
    """How much the weights of each step count in the mean after the last one."""
    found = np.zeros(steps)
    for step in range(1, steps + 1):
        share = share_of_step(step, fraction)
        found *= 1.0 - share
        found[step - 1] += share
    return found.astype(np.float32)


@pytest.mark.parametrize("steps", [1, 40, 99, 100, 101, 1000, 4000])
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5])
def test_the_mean_reaches_over_this_fraction_of_the_steps(steps: int, fraction: float) -> None:
    counts = weights_in_mean(steps, fraction)
    assert counts.sum() == pytest.approx(1.0, abs=1e-4)
    assert counts[: int(steps * (1 - fraction))].sum() < 0.45, "most comes from that part"
    if steps >= 1000:
        age = steps - (counts * np.arange(1, steps + 1)).sum()
        assert age / steps == pytest.approx(fraction / (1 + fraction), rel=0.15)


def test_fewer_steps_are_taken_in_as_a_run_gets_longer() -> None:
    taken = [step for step in range(1, 100_001) if share_of_step(step, 0.1)]
    assert taken[:LATE] == [*range(1, LATE + 1)]
    assert len(taken) < 12 * LATE
    for before, after in itertools.pairwise(taken):
        assert after - before <= max(1, after / 25)


@EACH_ENGINE
def test_training_goes_on_with_the_weights() -> None:
    ours, plain = engine(), engine(averaging=0.0)
    for one in (ours, plain):
        train(one, 0, 3)
    found, expected = state(ours), state(plain)
    for name, array in expected.items():
        np.testing.assert_array_equal(found.get(f"trained/{name}", found[name]), array, name)
    assert set(found) - set(expected) == {
        f"trained/{name}" for name in random_weights(QWEN3) if name != FROZEN
    }


@EACH_ENGINE
def test_the_state_has_the_mean_of_the_steps() -> None:
    ours, expected = engine(), None
    for step in range(5):
        train(ours, step, 1)
        now = state(ours)
        weights = {n: now[f"trained/{n}"] for n in random_weights(QWEN3) if n != FROZEN}
        share = share_of_step(step + 1, FRACTION)
        expected = expected or weights
        expected = {n: w + np.float32(share) * (weights[n] - w) for n, w in expected.items()}
    for name, mean in expected.items():
        np.testing.assert_allclose(now[name], mean, rtol=1e-5, atol=1e-6, err_msg=name)
        assert not np.array_equal(mean, weights[name])


@EACH_ENGINE
def test_the_means_are_read() -> None:
    ours = engine()
    train(ours, 0, 4)
    means = engine(averaging=0.0)
    means.load((name, array) for name, array in ours.state() if name in random_weights(QWEN3))
    batch = random_batch(QWEN3, seed=9)
    before = state(ours)
    for _ in range(2):
        np.testing.assert_array_equal(ours.logits(batch.inputs), means.logits(batch.inputs))
        assert ours.loss(batch) == means.loss(batch)
        np.testing.assert_array_equal(ours.log_probabilities(batch), means.log_probabilities(batch))
        a, b = (e.decoder(1, 8).prefill(batch.inputs[:1, :4]) for e in (ours, means))
        np.testing.assert_array_equal(a, b)
    assert_equal(state(ours), before)
    trained = engine(averaging=0.0)
    trained.load((n, before.get(f"trained/{n}", before[n])) for n in random_weights(QWEN3))
    assert ours.loss(batch) != trained.loss(batch)
    for (name, ours_grad), (_, grad) in zip(
        ours.gradients([batch]), trained.gradients([batch]), strict=True
    ):
        np.testing.assert_array_equal(ours_grad, grad, err_msg=name)


@EACH_ENGINE
@pytest.mark.parametrize("first", [0, LATE - 1])
def test_a_state_goes_on_as_if_nothing_had_happened(first: int) -> None:
    whole, half = engine(), engine()
    train(whole, first, 5)
    train(half, first, 2)
    resumed = engine(seed=1)
    resumed.load(half.state())
    train(resumed, first + 2, 3)
    assert_equal(state(resumed), state(whole))


@EACH_ENGINE
def test_a_refused_step_changes_no_mean() -> None:
    ours = engine()
    train(ours, 0, 2)
    before = state(ours)
    train(ours, 2, 1, norm_limit=0.0)
    assert_equal(state(ours), before)


@EACH_ENGINE
def test_from_weights_alone_training_goes_on_with_them() -> None:
    ours = engine()
    train(ours, 0, 2)
    given = random_weights(QWEN3)
    ours.load(given.items())
    found = state(ours)
    for name, array in given.items():
        np.testing.assert_array_equal(found[name], array)
        np.testing.assert_array_equal(found.get(f"trained/{name}", array), array)


def test_another_engine_goes_on_with_the_means() -> None:
    ours = TorchEngine(QWEN3, OPTIONS)
    train(ours, 0, 3)
    theirs = MlxEngine(QWEN3, OPTIONS)
    theirs.load(ours.state())
    assert_equal(state(theirs), state(ours))
    for one in (ours, theirs):
        train(one, 3, 2)
    found, expected = state(theirs), state(ours)
    for name in random_weights(QWEN3):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4, err_msg=name)


@EACH_ENGINE
@pytest.mark.parametrize("averaging", [0.0, FRACTION])
def test_a_run_may_begin_or_cease_to_average(averaging: float) -> None:
    ours, other = engine(averaging=averaging), engine(averaging=FRACTION - averaging)
    train(ours, 0, 3)
    other.load(ours.state())
    found, given = state(other), state(ours)
    for name in random_weights(QWEN3):
        np.testing.assert_array_equal(found[name], given[name], name)
        np.testing.assert_array_equal(found.get(f"trained/{name}", given[name]), given[name], name)
    assert given["optimizer/step"] == found["optimizer/step"] == 3
    train(other, 3, 1)


@EACH_ENGINE
def test_a_part_of_the_trained_weights_is_refused() -> None:
    ours = engine()
    given = list(ours.state())
    with pytest.raises(ValueError, match=r"trained/.* is missing"):
        ours.load(given[:-1])


def test_options_for_another_process_keep_the_fraction() -> None:
    assert EngineOptions.restored(OPTIONS.stored()) == OPTIONS


def test_several_ranks_do_not_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "place", lambda: object())
    with pytest.raises(UserError, match="or add --averaging 0"):
        select.create(QWEN3, OPTIONS)
