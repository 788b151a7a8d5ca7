"""Training in bfloat16 with MLX: updates as in NumPy, gradients as in full memory, steps as with PyTorch, and their
memory."""

import dataclasses
import gc
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from homespun.architectures.families import parameters
from homespun.bfloat16 import bits_of, from_bfloat16, to_bfloat16
from homespun.config import ModelConfig
from homespun.data.batch import Batch
from homespun.engine import dropout, low_memory, traits
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.mlx import narrow
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.mlx.narrow import NarrowOptimizer
from homespun.engine.torch.engine import TorchEngine
from homespun.planning.estimate import Computing, training_memory
from tests.reference import (
    GPT2,
    QWEN3,
    QWEN3_MOE,
    Arrays,
    random_batch,
    random_weights,
    relative_error,
    updated_in_low_memory,
)

SETTINGS = OptimizerSettings("adamw", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
RATES = {"adamw": 1e-3, "muon": 2e-3}
MARK = 3
BOTH = pytest.mark.parametrize("name", ["adamw", "muon"])
ALL = pytest.mark.parametrize("config", [GPT2, QWEN3, QWEN3_MOE], ids=["gpt2", "qwen3", "moe"])


def options(name: str = "adamw", **others: Any) -> EngineOptions:
    usual = {
        "precision": "float32", "threads": 1, "low_memory": True, "dropout": 0.1, "document_mark": MARK,
        "aux_loss": 0.01, "z_loss": 0.001,
    }  # fmt: skip
    return EngineOptions(dataclasses.replace(SETTINGS, name=name), **usual | others)


def filled(engine: Any, config: ModelConfig) -> Any:
    """With random weights that both formats hold exactly."""
    engine.load((n, from_bfloat16(to_bfloat16(w))) for n, w in random_weights(config).items())
    return engine


def mlx_engine(config: ModelConfig = QWEN3, name: str = "adamw", **others: Any) -> MlxEngine:
    made: MlxEngine = filled(MlxEngine(config, options(name, **others)), config)
    return made


def microbatches(config: ModelConfig) -> list[Batch]:
    """Two of different size, with documents, and weights of the targets."""
    batches = [random_batch(config, rows, seed=rows) for rows in (3, 1)]
    for batch in batches:
        batch.inputs[:, ::7] = MARK
    return [
        dataclasses.replace(b, weights=np.full(b.targets.shape, 0.5, np.float32)) for b in batches
    ]


def state(of: Any) -> Arrays:
    return dict(of.state())


def assert_equal(ours: Arrays, theirs: Arrays) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


# Updates


def errors(config: ModelConfig, name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Relative error of each parameter's change after some steps in float32, without rounding."""
    monkeypatch.setattr(narrow, "stochastically_rounded", lambda values, bits: values)
    spec, start = parameters(config), random_weights(config)
    rng = np.random.default_rng(1)
    gradients = [
        {p.name: rng.standard_normal(p.shape).astype(np.float32) for p in spec} for _ in range(4)
    ]
    settings = dataclasses.replace(SETTINGS, name=name)
    of_narrow = low_memory.narrow_parameters(spec)
    ours = NarrowOptimizer(settings, spec, mx.float32, of_narrow, 0, compiled=lambda f: f)
    tensors = {n: mx.array(array) for n, array in start.items()}
    tensors |= {n: zeros.astype(mx.float32) for n, zeros in ours.initial_state()}
    rates = {n: mx.array(rate) for n, rate in RATES.items()}
    for step in gradients:
        grads = {n: mx.array(gradient) for n, gradient in step.items()}
        tensors = ours.step(tensors, grads, rates, mx.array(2.0), mx.array(False))
        assert not of_narrow & grads.keys()  # they have made room
    halves = [{n: gradient / 2 for n, gradient in step.items()} for step in gradients]
    expected = updated_in_low_memory(config, start, halves, RATES, settings)
    return {
        n: relative_error(
            np.array(tensors[n]).astype(np.float64) - start[n], expected[n] - start[n]
        )
        for n in start
    }


@pytest.mark.parametrize("slice_size", [256, narrow.SLICE])
@BOTH
@ALL
def test_updates_are_those_of_the_numpy_reference(
    config: ModelConfig, name: str, slice_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrow, "SLICE", slice_size)
    for parameter, error in errors(config, name, monkeypatch).items():
        assert error < 1e-3, parameter


def test_a_wrong_mean_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = narrow.closer
    monkeypatch.setattr(
        narrow, "closer", lambda value, target, share: true(value, target, 0.9 * share)
    )
    assert max(errors(QWEN3, "adamw", monkeypatch).values()) > 1e-2


def test_the_random_bits_are_those_of_numpy_at_every_place() -> None:
    [key] = low_memory.step_keys(low_memory.rounding_keys(3, ["a"]), 5)
    shape = (2, 6, 4)
    expected = dropout.hash_bits(np.arange(48, dtype=np.uint32) ^ key).reshape(shape)
    for at in ((0, slice(0, 6)), (1, slice(2, 5))):
        found = narrow.random_bits(narrow.origin(int(key), shape, at), expected[at].shape)
        np.testing.assert_array_equal(np.array(found), expected[at])


def test_a_slice_is_written_without_a_copy_of_the_rest() -> None:
    weight, mean = mx.zeros((512, 1024), mx.bfloat16), mx.zeros((512, 1024), mx.bfloat16)
    mx.eval(weight, mean)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for part in low_memory.row_slices(512, 1024, 2**12):
        narrow.write((weight, mean), (part,), (weight[part] + 1, mean[part] + 2))
    mx.eval(weight, mean)
    assert mx.get_peak_memory() - before < weight.nbytes / 4
    for tensor, expected in ((weight, 1), (mean, 2)):
        assert (np.array(tensor.astype(mx.float32)) == expected).all()


# Gradients


@ALL
def test_gradients_are_those_of_full_memory(config: ModelConfig) -> None:
    batches = microbatches(config)
    expected = dict(mlx_engine(config, low_memory=False).gradients(batches, 1))
    found = dict(mlx_engine(config).gradients(batches, 1))
    assert found.keys() == expected.keys()
    for n, gradient in found.items():
        assert relative_error(gradient, expected[n]) < 0.01, n


def test_frozen_parameters_have_no_gradients_and_stay() -> None:
    frozen = frozenset(
        p.name for p in parameters(GPT2) if p.group == "embedding" or ".0." in p.name
    )
    ours = mlx_engine(GPT2, frozen=frozen)
    before = state(ours)
    found = dict(ours.gradients(microbatches(GPT2), 1))
    assert found.keys() == set(random_weights(GPT2)) - frozen
    expected = dict(mlx_engine(GPT2).gradients(microbatches(GPT2), 1))
    for n, gradient in found.items():
        np.testing.assert_array_equal(gradient, expected[n])
    assert ours.train_step(microbatches(GPT2), RATES, 1).result().applied
    after = state(ours)
    assert all((after[n] == before[n]).all() == (n in frozen) for n in random_weights(GPT2))


def test_a_token_that_occurs_very_often_has_its_whole_gradient() -> None:
    batch = random_batch(GPT2, rows=32)
    batch = Batch(np.where(batch.inputs % 2, 5, batch.inputs), batch.targets)
    full, low = (mlx_engine(GPT2, low_memory=low, dropout=0.0) for low in (False, True))
    n = "transformer.wte.weight"
    assert relative_error(dict(low.gradients([batch]))[n], dict(full.gradients([batch]))[n]) < 0.005


# Steps, beside PyTorch


def equal_bits(config: ModelConfig, name: str, seed: int = 0) -> float:
    """The share of numbers in bfloat16 that are equal after one step of both engines."""
    ours = mlx_engine(config, name, seed=seed)
    theirs = filled(TorchEngine(config, options(name)), config)
    batches = microbatches(config)[:1]
    left, right = (each.train_step(batches, RATES, 0).result() for each in (ours, theirs))
    assert left.loss == pytest.approx(right.loss, rel=1e-6 if seed == 0 else 1.0)
    left, right = state(ours), state(theirs)
    assert ours.narrow == theirs.narrow
    assert list(left) == list(right)
    return float(np.mean([(left[n] == right[n]).mean() for n in ours.narrow]))


@BOTH
@ALL
def test_a_step_rounds_as_one_of_pytorch(config: ModelConfig, name: str) -> None:
    assert equal_bits(config, name) > 0.99


def test_another_rounding_is_noticed() -> None:
    assert equal_bits(QWEN3, "adamw", seed=1) < 0.9


@BOTH
def test_the_first_steps_in_bfloat16_are_near_those_of_pytorch(name: str) -> None:
    ours = mlx_engine(QWEN3, name, precision="bfloat16")
    theirs = filled(TorchEngine(QWEN3, options(name, precision="bfloat16")), QWEN3)
    for step in range(3):
        left, right = (
            each.train_step(microbatches(QWEN3), RATES, step).result() for each in (ours, theirs)
        )
        assert left.loss == pytest.approx(right.loss, rel=0.005)
        assert left.grad_norm == pytest.approx(right.grad_norm, rel=0.03)
    theirs.load(ours.state())
    assert_equal(state(theirs), state(ours))
    for n, values in ours.state():
        if n in ours.narrow:
            bits_of(values)  # raises an error if one is no bfloat16 number


@BOTH
@ALL
def test_steps_lower_the_loss(config: ModelConfig, name: str) -> None:
    ours, batch = mlx_engine(config, name), random_batch(config)
    results = [
        ours.train_step([batch], {"adamw": 1e-2, "muon": 2e-2}, step).result() for step in range(9)
    ]
    assert all(result.applied for result in results)
    assert results[-1].loss < results[0].loss - 0.1


@BOTH
def test_a_refused_step_changes_nothing(name: str) -> None:
    ours = mlx_engine(name=name)
    ours.train_step(microbatches(QWEN3), RATES, 0).result()
    before = state(ours)
    for limits in ({"loss_limit": 0.0}, {"norm_limit": 0.0}):
        assert not ours.train_step(microbatches(QWEN3), RATES, 1, **limits).result().applied
        assert_equal(state(ours), before)


@BOTH
def test_a_resumed_engine_is_the_uninterrupted_one(name: str) -> None:
    batches = microbatches(QWEN3)

    def steps(of: MlxEngine, first: int, end: int) -> None:
        for step in range(first, end):
            of.train_step(batches, RATES, step).result()

    whole, part, resumed, other = (mlx_engine(name=name) for _ in range(4))
    steps(whole, 0, 4)
    steps(part, 0, 2)
    resumed.load(state(part).items())
    steps(resumed, 2, 4)
    assert_equal(state(resumed), state(whole))
    # The rounding depends on the number of steps, so an engine that has lost it takes another way.
    begun_anew = {"optimizer/step": np.zeros((), np.float32)}
    other.load((state(part) | begun_anew).items())
    steps(other, 2, 4)
    assert any((state(other)[n] != state(whole)[n]).any() for n in whole.narrow)


def test_a_decoder_keeps_the_weights_that_it_began_with() -> None:
    ours = mlx_engine()
    tokens = random_batch(QWEN3).inputs[:1, :4]
    decoder = ours.decoder(1, 8)
    before = decoder.prefill(tokens)
    ours.train_step(microbatches(QWEN3), RATES, 0).result()
    decoder.rewind(0)
    np.testing.assert_array_equal(decoder.prefill(tokens), before)
    assert (ours.decoder(1, 8).prefill(tokens) != before).any()


def test_compiled_parts_compute_the_same() -> None:
    config = dataclasses.replace(QWEN3, n_layers=1, vocab_size=11)
    plain, compiled = (mlx_engine(config, compiled=c, dropout=0.0) for c in (False, True))
    batch = random_batch(config)
    left, right = (e.train_step([batch], RATES, 0).result() for e in (plain, compiled))
    assert left.loss == pytest.approx(right.loss, rel=1e-5)
    assert left.grad_norm == pytest.approx(right.grad_norm, rel=1e-3)
    left, right = state(plain), state(compiled)
    assert np.mean([(left[n] == right[n]).mean() for n in plain.narrow]) > 0.99
    assert compiled.facts == plain.facts | {"compiled": "yes"}
    assert plain.facts["memory"] == "low"


# Memory

DEEP = dataclasses.replace(QWEN3, n_layers=8, d_model=128, d_ff=512, head_dim=32, vocab_size=256)


def peak(*, by_block: bool = True, **others: Any) -> int:
    """Bytes of the largest step of a deep model."""
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    ours = MlxEngine(
        DEEP, options(gradient_checkpointing=True, document_mark=None, dropout=0.0, **others)
    )
    if not by_block:
        ours.blockwise = None
    for step in range(2):
        ours.train_step([random_batch(DEEP, 4)], RATES, step).result()
    return mx.get_peak_memory() - before


def test_a_step_takes_the_memory_that_is_estimated() -> None:
    found = peak()
    computing = Computing("adamw", traits.mlx(False), True, masked=False, low_memory=True)
    assert found == pytest.approx(training_memory(DEEP, 4, computing).total, rel=0.2)
    assert found < 0.5 * peak(low_memory=False)
    assert found < 0.8 * peak(by_block=False)
