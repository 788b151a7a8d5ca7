"""Training in bfloat16: updates compared with NumPy, rounding without bias, refusals, and the same bits on resume."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from homespun.architectures.families import parameters
from homespun.bfloat16 import bits_of, from_bfloat16, to_bfloat16
from homespun.config import ModelConfig
from homespun.data.batch import Batch
from homespun.engine import dropout, low_memory
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.torch import narrow
from homespun.engine.torch.engine import TorchEngine
from homespun.engine.torch.narrow import NarrowOptimizer, Writer, stochastically_rounded
from homespun.errors import UserError
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
RATES = {"adamw": 1e-2, "muon": 2e-2}
BOTH = pytest.mark.parametrize("name", ["adamw", "muon"])
ALL = pytest.mark.parametrize("config", [GPT2, QWEN3, QWEN3_MOE], ids=["gpt2", "qwen3", "moe"])


def engine(config: ModelConfig = QWEN3, name: str = "adamw", **options: Any) -> TorchEngine:
    settings = dataclasses.replace(SETTINGS, name=name)
    return TorchEngine(
        config,
        EngineOptions(
            settings, **{"precision": "bfloat16", "threads": 1, "low_memory": True, **options}
        ),
    )


def state(of: TorchEngine) -> Arrays:
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
    weights = {name: torch.from_numpy(array.copy()) for name, array in start.items()}
    settings = dataclasses.replace(SETTINGS, name=name)
    of_narrow = low_memory.narrow_parameters(spec)
    ours = NarrowOptimizer(settings, spec, weights, torch.float32, of_narrow, seed=0)
    for step in gradients:
        grads = {n: torch.from_numpy(gradient.copy()) for n, gradient in step.items()}
        ours.step(grads, RATES, grad_scale=torch.tensor(2.0), refused=torch.tensor(0.0))
    halves = [{n: gradient / 2 for n, gradient in step.items()} for step in gradients]
    expected = updated_in_low_memory(config, start, halves, RATES, settings)
    return {
        n: relative_error(weights[n].numpy().astype(np.float64) - start[n], expected[n] - start[n])
        for n in start
    }


@pytest.mark.parametrize("slice_size", [32, 2**18])
@BOTH
@ALL
def test_updates_are_those_of_the_numpy_reference(
    config: ModelConfig, name: str, slice_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrow, "SLICE", slice_size)
    for parameter, error in errors(config, name, monkeypatch).items():
        assert error < 1e-4, parameter


def test_a_wrong_mean_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = narrow.mean_squares
    monkeypatch.setattr(
        narrow, "mean_squares", lambda *arguments: (true(*arguments)[0], 1.01 * true(*arguments)[1])
    )
    assert max(errors(QWEN3, "adamw", monkeypatch).values()) > 1e-3


# Rounding


def rounding_bias(values: npt.NDArray[np.float32], *, noise: bool = True) -> float:
    """The mean error of many roundings of some values, in its own standard deviations."""
    below = from_bfloat16((values.view(np.uint32) >> 16).astype(np.uint16))
    step = from_bfloat16(bits_of(below) + np.uint16(1)) - below
    found = []
    for key in range(200):
        write = Writer(torch.tensor(key * 7919, dtype=torch.int32), None)
        bits = write.bits(0, torch.Size(values.shape)) * int(noise)
        rounded = stochastically_rounded(torch.from_numpy(values), bits).numpy()
        assert ((rounded == below) | (rounded == below + step)).all()
        found.append(((rounded - values) / step).mean(dtype=np.float64))
    spread = np.sqrt(1 / 12 / values.size / len(found))  # of a mean of errors like these
    return float(abs(np.mean(found)) / spread)


def test_numbers_are_rounded_to_their_neighbours_without_a_bias() -> None:
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    assert rounding_bias(values) < 6
    assert rounding_bias(values, noise=False) > 100


def test_what_is_exact_stays() -> None:
    values = from_bfloat16(to_bfloat16(np.linspace(-3, 3, 1000, dtype=np.float32)))
    bits = torch.full((1000,), -1, dtype=torch.int32)
    np.testing.assert_array_equal(stochastically_rounded(torch.from_numpy(values), bits), values)


def test_the_random_bits_are_those_of_numpy_at_every_place() -> None:
    [key] = low_memory.rounding_keys(3, ["a"])
    places = np.arange(1000, dtype=np.uint32)
    expected = dropout.hash_bits(places ^ key.view(np.uint32)).view(np.int32)
    write = Writer(torch.tensor(key), None)
    np.testing.assert_array_equal(write.bits(0, torch.Size([1000])), expected)
    np.testing.assert_array_equal(write.bits(600, torch.Size([400])), expected[600:])
    keys = low_memory.rounding_keys(3, ["a", "b"]), low_memory.rounding_keys(4, ["a", "b"])
    assert len(set(np.concatenate(keys).tolist())) == 4


def mean_change(lr: float) -> float:
    """The mean change of weights near 1 by ten steps whose gradients are all one, in multiples of the rate."""
    spec = [p for p in parameters(QWEN3) if "down_proj" in p.name][:1]
    weights = {spec[0].name: torch.ones(spec[0].shape, dtype=torch.bfloat16)}
    settings = dataclasses.replace(SETTINGS, weight_decay=0.0)
    ours = NarrowOptimizer(settings, spec, weights, torch.float32, weights, seed=0)
    grads = {name: torch.ones_like(weight) for name, weight in weights.items()}
    for _ in range(10):
        ours.step(grads, {"adamw": lr}, torch.tensor(1.0), torch.tensor(0.0))
    return float((weights[spec[0].name].float() - 1).mean()) / lr


def test_updates_below_the_precision_of_a_weight_do_not_vanish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert mean_change(1e-4) == pytest.approx(-10, rel=0.15)
    monkeypatch.setattr(
        narrow, "stochastically_rounded", lambda values, bits: values.bfloat16().float()
    )
    assert mean_change(1e-4) == 0


# Steps


@BOTH
@ALL
def test_a_step_keeps_the_types_and_lowers_the_loss(config: ModelConfig, name: str) -> None:
    ours, batch = engine(config, name), random_batch(config)
    wide = {n for n, weight in ours.weights.items() if weight.dtype == torch.float32}
    assert wide == {p.name for p in parameters(config) if p.group == "vector" or p.is_router}
    first = ours.train_step([batch], RATES, 0).result()
    for step in range(1, 9):
        last = ours.train_step([batch], RATES, step).result()
    assert last.applied
    assert last.loss < first.loss - 0.1
    for n, values in ours.state():
        if n in ours.narrow:
            bits_of(values)  # raises an error if one is no bfloat16 number


@BOTH
def test_a_refused_step_changes_nothing(name: str) -> None:
    ours, batch = engine(QWEN3, name), random_batch(QWEN3)
    ours.train_step([batch], RATES, 0).result()
    before = state(ours)
    for limits in ({"loss_limit": 0.0}, {"norm_limit": 0.0}):
        assert not ours.train_step([batch], RATES, 1, **limits).result().applied
        assert_equal(state(ours), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3.0])
def test_a_device_that_cannot_branch_writes_nothing_of_a_refused_step(value: float) -> None:
    key, target = torch.tensor(0, dtype=torch.int32), torch.ones(4, 3, dtype=torch.bfloat16)
    values = torch.full((4, 3), value)
    kept, written = (Writer(key, torch.tensor(keep)) for keep in (True, False))
    kept.wide(target, values)
    kept.narrow(target, values, torch.zeros(4, 3, dtype=torch.int32))
    assert (target == 1).all()
    written.wide(target, values)
    np.testing.assert_array_equal(target.float(), values)


@BOTH
def test_a_resumed_engine_is_the_uninterrupted_one(name: str) -> None:
    batches = [random_batch(QWEN3, seed=seed) for seed in range(4)]

    def steps(of: TorchEngine, first: int, end: int) -> None:
        for step in range(first, end):
            of.train_step([batches[step]], RATES, step).result()

    whole, part, resumed, other = (engine(QWEN3, name) for _ in range(4))
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


def test_gradients_are_those_of_full_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that of a token which occurs very often, as a whole and in micro-batches."""
    batch = random_batch(GPT2, rows=64)
    inputs = np.where(batch.inputs % 2, 5, batch.inputs)
    batch = Batch(inputs, batch.targets)
    values = {n: from_bfloat16(to_bfloat16(w)) for n, w in random_weights(GPT2).items()}
    full = TorchEngine(GPT2, EngineOptions(SETTINGS, "float32", threads=1))
    low = engine(GPT2, precision="float32")
    for each in (full, low):
        each.load(values.items())
    expected = dict(full.gradients([batch]))
    halves = [Batch(inputs[i::2], batch.targets[i::2]) for i in range(2)]
    for parts, tolerance in (([batch], 0.005), (halves, 0.01)):
        for n, gradient in low.gradients(parts):
            assert relative_error(gradient, expected[n]) < tolerance, n


def test_adapters_stay_in_float32() -> None:
    from homespun.architectures.lora import Lora

    ours = engine(QWEN3, lora=Lora(2, 4.0, ("all",)))
    assert not ours.narrow
    assert "memory" not in ours.facts


def test_several_processes_say_that_they_have_no_low_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from homespun.engine import launcher, select

    monkeypatch.setattr(launcher, "place", lambda: object())
    with pytest.raises(UserError, match="--memory low trains in one process"):
        select.create(QWEN3, EngineOptions(SETTINGS, low_memory=True))
