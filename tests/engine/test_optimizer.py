"""Both optimizers compared with NumPy, the parameter groups by name, and refused steps."""

import dataclasses
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
import torch

from homespun.architectures.base import Parameter
from homespun.architectures.families import parameters
from homespun.config import ModelConfig
from homespun.engine.base import OptimizerSettings
from homespun.engine.mlx import optimizer as mlx_optimizer
from homespun.engine.muon import ADAMW_RATE_FACTORS, parameter_groups
from homespun.engine.numpy.optimizer import adamw, muon
from homespun.engine.torch import optimizer as torch_optimizer
from homespun.engine.torch.optimizer import Optimizer
from tests.reference import GPT2, QWEN3, Arrays, random_weights, relative_error

SETTINGS = OptimizerSettings("adamw", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
RATES = {"adamw": 1e-2, "muon": 2e-2}
STEPS = 4


def by_torch(
    settings: OptimizerSettings, spec: list[Parameter], start: Arrays, gradients: list[Arrays]
) -> Arrays:
    """The weights after one step for each gradient, with a gradient scale of 2."""
    weights = {name: torch.from_numpy(array.copy()) for name, array in start.items()}
    ours = Optimizer(settings, spec, weights, torch.float32)
    for step in gradients:
        ours.step(
            {name: torch.from_numpy(gradient.copy()) for name, gradient in step.items()},
            RATES,
            grad_scale=torch.tensor(2.0),
            refused=torch.tensor(0.0),
        )
    return {name: weight.numpy() for name, weight in weights.items()}


def by_mlx(
    settings: OptimizerSettings, spec: list[Parameter], start: Arrays, gradients: list[Arrays]
) -> Arrays:
    ours = mlx_optimizer.Optimizer(settings, spec, mx.float32)
    tensors = {name: mx.array(array) for name, array in start.items()} | dict(ours.initial_state())
    for step in gradients:
        tensors = ours.step(
            tensors,
            {name: mx.array(gradient) for name, gradient in step.items()},
            {name: mx.array(rate) for name, rate in RATES.items()},
            grad_scale=mx.array(2.0),
            refused=mx.array(False),
        )
    return {p.name: np.array(tensors[p.name]) for p in spec}


BY_EACH = pytest.mark.parametrize("by", [by_torch, by_mlx])


def run(
    config: ModelConfig, name: str, by: Callable[..., Arrays]
) -> dict[str, tuple[Parameter, float]]:
    """Relative error of each parameter's change after a few steps with random gradients."""
    spec = parameters(config)
    start = random_weights(config)
    settings = dataclasses.replace(SETTINGS, name=name)
    rng = np.random.default_rng(1)
    gradients = [
        {p.name: rng.standard_normal(p.shape).astype(np.float32) for p in spec}
        for _ in range(STEPS)
    ]
    weights = by(settings, spec, start, gradients)
    errors = {}
    for p in spec:
        weight = start[p.name].astype(np.float64)
        halves = [step[p.name].astype(np.float64) / 2 for step in gradients]
        if name == "muon" and p.group == "matrix":
            parts = [np.split(half, p.stacked) for half in halves]
            expected = np.concatenate(
                [
                    muon(part, [half[i] for half in parts], RATES["muon"], decay=0.1, momentum=0.95)
                    for i, part in enumerate(np.split(weight, p.stacked))
                ]
            )
        else:
            rate = RATES["adamw"] * (ADAMW_RATE_FACTORS[p.group] if name == "muon" else 1.0)
            decay = 0.0 if p.group == "vector" else 0.1
            expected = adamw(weight, halves, rate, decay=decay, beta1=0.9, beta2=0.95, eps=1e-8)
        change = weights[p.name].astype(np.float64) - weight
        errors[p.name] = (p, relative_error(change, expected - weight))
    return errors


@BY_EACH
@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
def test_updates_are_those_of_the_numpy_reference(
    config: ModelConfig, name: str, by: Callable[..., Arrays]
) -> None:
    for p, error in run(config, name, by).values():
        assert error < 1e-4, p.name


@BY_EACH
def test_a_wrong_coefficient_is_noticed(
    by: Callable[..., Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (torch_optimizer, mlx_optimizer):
        monkeypatch.setattr(module, "NEWTON_SCHULZ", (3.4445, -4.7750, 2.03))
    assert max(error for _, error in run(QWEN3, "muon", by).values()) > 1e-4


@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_is_in_one_group_and_biases_and_norms_do_not_decay(
    config: ModelConfig, name: str
) -> None:
    spec = parameters(config)
    by_muon, by_adam = parameter_groups(spec, name)
    claimed = [p.name for group in (*by_muon, *by_adam.values()) for p in group]
    assert sorted(claimed) == sorted(p.name for p in spec)
    for (_, decay), group in by_adam.items():
        for p in group:
            is_vector = p.name.endswith(".bias") or "norm" in p.name or ".ln_" in p.name
            assert decay is not is_vector, p.name
    for alike in by_muon:
        for p in alike:
            assert "embed" not in p.name
            assert len(p.shape) == 2


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_refused_step_changes_no_bit(name: str, poison: float) -> None:
    weights = {n: torch.from_numpy(array) for n, array in random_weights(QWEN3).items()}
    settings = dataclasses.replace(SETTINGS, name=name)
    ours = Optimizer(settings, parameters(QWEN3), weights, torch.float32)
    gradients = {n: torch.ones_like(w) for n, w in weights.items()}

    def step(refused: float) -> None:
        ours.step(
            {n: g.clone() for n, g in gradients.items()},
            RATES,
            torch.tensor(1.0),
            torch.tensor(refused),
        )

    def everything() -> dict[str, np.ndarray]:
        return {n: t.numpy().copy() for n, t in [*weights.items(), *ours.state()]}

    step(0.0)
    before = everything()
    gradients = {n: torch.full_like(w, poison) for n, w in weights.items()}
    step(1.0)
    for n, array in everything().items():
        np.testing.assert_array_equal(array, before[n], err_msg=n)
    gradients = {n: torch.ones_like(w) for n, w in weights.items()}
    step(0.0)
    assert not np.array_equal(
        everything()["exp_avg/model.norm.weight"], before["exp_avg/model.norm.weight"]
    )
