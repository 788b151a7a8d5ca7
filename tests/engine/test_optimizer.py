"""Both optimizers against NumPy, the groups by name, and steps that are refused."""

import dataclasses

import numpy as np
import pytest
import torch

from homespun.config import ModelConfig
from homespun.engine.base import OptimizerSettings
from homespun.engine.numpy_optimizer import adamw, muon
from homespun.engine.torch_engine import optimizer as optimizer_module
from homespun.engine.torch_engine.optimizer import RATE_BESIDE_MUON, Optimizer
from homespun.model.spec import Parameter, parameters
from tests.reference import GPT2, QWEN3, random_weights, relative_error

SETTINGS = OptimizerSettings("adamw", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
RATES = {"adamw": 1e-2, "muon": 2e-2}
STEPS = 4


def run(config: ModelConfig, name: str) -> dict[str, tuple[Parameter, float]]:
    """Relative error of each parameter's change after a few steps with random gradients."""
    spec = parameters(config)
    start = random_weights(config)
    weights = {name: torch.from_numpy(array.copy()) for name, array in start.items()}
    settings = dataclasses.replace(SETTINGS, name=name)
    ours = Optimizer(settings, spec, weights, torch.float32)
    rng = np.random.default_rng(1)
    gradients = [
        {p.name: rng.standard_normal(p.shape).astype(np.float32) for p in spec}
        for _ in range(STEPS)
    ]
    for step in gradients:
        ours.step(
            {name: torch.from_numpy(gradient.copy()) for name, gradient in step.items()},
            RATES,
            grad_scale=torch.tensor(2.0),
            refused=torch.tensor(0.0),
        )
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
            rate = RATES["adamw"] * (RATE_BESIDE_MUON[p.group] if name == "muon" else 1.0)
            decay = 0.0 if p.group == "vector" else 0.1
            expected = adamw(weight, halves, rate, decay=decay, beta1=0.9, beta2=0.95, eps=1e-8)
        change = weights[p.name].numpy().astype(np.float64) - weight
        errors[p.name] = (p, relative_error(change, expected - weight))
    return errors


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
def test_updates_are_those_of_the_numpy_reference(config: ModelConfig, name: str) -> None:
    for p, error in run(config, name).values():
        assert error < 1e-4, p.name


def test_a_wrong_coefficient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_module, "NEWTON_SCHULZ", (3.4445, -4.7750, 2.03))
    assert max(error for _, error in run(QWEN3, "muon").values()) > 1e-4


@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_is_in_one_group_and_biases_and_norms_do_not_decay(
    config: ModelConfig, name: str
) -> None:
    weights = {n: torch.from_numpy(array) for n, array in random_weights(config).items()}
    settings = dataclasses.replace(SETTINGS, name=name)
    ours = Optimizer(settings, parameters(config), weights, torch.float32)
    by_adam = [(p.name, decay) for (_, decay), group in ours.adam.items() for p in group]
    claimed = [n for n, _ in by_adam] + [p.name for alike, _ in ours.muon for p in alike]
    assert sorted(claimed) == sorted(weights)
    for n, decay in by_adam:
        is_vector = n.endswith(".bias") or "norm" in n or ".ln_" in n
        assert decay is not is_vector, n
    for alike, _ in ours.muon:
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
