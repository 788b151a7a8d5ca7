"""PyTorch and MLX implement the same models: their results agree, and each can resume a run of the other."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from homespun.config import ModelConfig, SamplingConfig
from homespun.data.batch import Batch
from homespun.engine.base import Engine, EngineOptions, OptimizerSettings
from homespun.engine.mlx import loss as mlx_loss
from homespun.engine.mlx import model as mlx_model
from homespun.engine.mlx import optimizer as mlx_optimizer
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.torch import loss as torch_loss
from homespun.engine.torch.engine import TorchEngine
from homespun.generation.sampler import Sampler
from tests.reference import TIED_AND_UNTIED, random_batch, random_weights, relative_error

EACH = pytest.mark.parametrize("name", TIED_AND_UNTIED)
SETTINGS = OptimizerSettings("muon", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
RATES = {"adamw": 1e-3, "muon": 1e-2}
MARK = 3
STEPS = 20
CLOSE = 1e-3
"""Largest relative difference of two losses after `STEPS` steps."""

Kind = Callable[[ModelConfig, EngineOptions], Engine]


@pytest.fixture(autouse=True)
def _logits_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute the logits in slices of which the last is shorter than the others."""
    for module in (torch_loss, mlx_loss):
        monkeypatch.setattr(module, "HEAD_ROWS", 50)


def options(optimizer: str = "muon", **others: Any) -> EngineOptions:
    settings = dataclasses.replace(SETTINGS, name=optimizer)
    chosen = {"precision": "float32", "document_mark": MARK, "threads": 2} | others
    return EngineOptions(optimizer=settings, **chosen)


def engine(kind: Kind, config: ModelConfig, optimizer: str = "muon", **others: Any) -> Engine:
    made = kind(config, options(optimizer, **others))
    made.load(random_weights(config).items())
    return made


def microbatches(config: ModelConfig, step: int = 0) -> list[Batch]:
    """Two micro-batches of different size, with several document marks."""
    batches = [random_batch(config, rows, seed=2 * (step % 4) + rows) for rows in (3, 1)]
    for batch in batches:
        batch.inputs[:, ::7] = MARK
    return batches


def trained(engine: Engine, config: ModelConfig, steps: Sequence[int]) -> list[float]:
    """Train the steps of these numbers; returns their losses."""
    return [engine.train_step(microbatches(config, i), RATES, i).result().loss for i in steps]


def handed_over(source: Engine, target: Engine, lost: str = "nothing") -> Engine:
    """`target` with the state of `source`, with zeros for the moments of the kind `lost`."""
    target.load(
        (name, np.zeros_like(array) if name.startswith(f"{lost}/") else array)
        for name, array in source.state()
    )
    return target


def difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))


@EACH
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_both_begin_with_the_same_bits_and_the_same_inventory(name: str, optimizer: str) -> None:
    one, other = (
        kind(TIED_AND_UNTIED[name], options(optimizer)) for kind in (TorchEngine, MlxEngine)
    )
    for (left, array), (right, same) in zip(one.state(), other.state(), strict=True):
        assert left == right
        assert array.dtype == same.dtype
        np.testing.assert_array_equal(array, same, err_msg=left)


@EACH
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_logits_losses_and_gradients_agree(name: str, checkpointing: bool) -> None:
    config = TIED_AND_UNTIED[name]
    theirs = engine(TorchEngine, config)
    ours = engine(MlxEngine, config, gradient_checkpointing=checkpointing)
    batches = microbatches(config)
    assert relative_error(*(e.logits(batches[0].inputs) for e in (ours, theirs))) < 1e-5
    assert ours.loss(batches[0]) == pytest.approx(theirs.loss(batches[0]), rel=1e-6)
    expected = dict(theirs.gradients(batches))
    for parameter, gradient in ours.gradients(batches):
        a, b = (g.astype(np.float64).ravel() for g in (gradient, expected.pop(parameter)))
        assert a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) >= 1 - 1e-6, parameter
        assert np.linalg.norm(a) == pytest.approx(np.linalg.norm(b), rel=1e-5), parameter
    assert not expected


def after_a_handover(name: str, optimizer: str, lost: str = "nothing") -> float:
    """Largest relative difference of the losses between a run that moves from PyTorch to MLX and back, and a run on
    PyTorch alone."""
    config = TIED_AND_UNTIED[name]
    control = trained(engine(TorchEngine, config, optimizer), config, range(STEPS))
    first = engine(TorchEngine, config, optimizer)
    losses = trained(first, config, range(4))
    second = handed_over(first, MlxEngine(config, options(optimizer)), lost)
    losses += trained(second, config, range(4, 16))
    third = handed_over(second, TorchEngine(config, options(optimizer)))
    losses += trained(third, config, range(16, STEPS))
    return difference(losses, control)


@EACH
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_twenty_steps_agree(name: str, optimizer: str) -> None:
    config = TIED_AND_UNTIED[name]
    ours, theirs = (
        trained(engine(kind, config, optimizer), config, range(STEPS))
        for kind in (MlxEngine, TorchEngine)
    )
    assert theirs[-1] < 0.9 * theirs[0]
    assert difference(ours, theirs) < CLOSE


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_changes_engine_twice_is_the_run_that_stays(optimizer: str) -> None:
    assert after_a_handover("qwen3", optimizer) < CLOSE


@pytest.mark.parametrize(
    ("optimizer", "lost"),
    [("adamw", "exp_avg"), ("adamw", "exp_avg_sq"), ("adamw", "optimizer"), ("muon", "momentum")],
)
def test_a_moment_that_gets_lost_is_noticed(optimizer: str, lost: str) -> None:
    assert after_a_handover("qwen3", optimizer, lost) > CLOSE


def test_interleaved_rotation_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = mx.fast.rope
    monkeypatch.setattr(
        mlx_model.mx.fast,
        "rope",
        lambda *given, **named: original(*given, **named | {"traditional": True}),
    )
    with pytest.raises(AssertionError):
        test_logits_losses_and_gradients_agree("qwen3", checkpointing=False)


def test_a_missing_bias_correction_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlx_optimizer, "bias_correction", lambda beta, steps: mx.array(1.0))
    with pytest.raises(AssertionError):
        test_twenty_steps_agree("gpt2", "adamw")


@EACH
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_there_and_back_without_a_step_changes_no_bit(name: str, optimizer: str) -> None:
    config = TIED_AND_UNTIED[name]
    first = engine(TorchEngine, config, optimizer)
    trained(first, config, range(2))
    there = handed_over(first, MlxEngine(config, options(optimizer)))
    back = handed_over(there, TorchEngine(config, options(optimizer)))
    for (left, array), (right, same) in zip(first.state(), back.state(), strict=True):
        assert left == right
        assert array.tobytes() == same.tobytes(), left


@EACH
def test_both_write_the_same_text(name: str) -> None:
    config = TIED_AND_UNTIED[name]

    def written(engine: Engine) -> list[int]:
        decoder = engine.decoder(1, config.seq_len)
        sampler = Sampler(SamplingConfig(temperature=1.0, min_p=0.0), seed=3)
        logits, ids = decoder.prefill(np.array([[1, 2]], dtype=np.int32)), [1, 2]
        for _ in range(config.seq_len - 2):
            ids.append(sampler(logits[0]))
            logits = decoder.step(np.array(ids[-1:], dtype=np.int32))
        return ids

    assert written(engine(MlxEngine, config)) == written(engine(TorchEngine, config))
