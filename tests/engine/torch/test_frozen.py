"""Frozen parameters: no gradient, no moments, no change, and no part in the norm."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd.function import FunctionCtx

from homespun.architectures.families import parameters
from homespun.config import ModelConfig
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.torch.engine import TorchEngine
from tests.reference import GPT2, LLAMA, QWEN3, QWEN3_MOE, random_batch, random_weights

SETTINGS = OptimizerSettings("muon", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
RATES = {"adamw": 1e-3, "muon": 1e-2}
EACH = pytest.mark.parametrize(
    "config", [GPT2, LLAMA, QWEN3, QWEN3_MOE], ids=lambda config: config.architecture
)


def engine(config: ModelConfig, frozen: frozenset[str], **options: Any) -> TorchEngine:
    made = TorchEngine(
        config,
        dataclasses.replace(
            EngineOptions(SETTINGS, "float32", threads=2, frozen=frozen), **options
        ),
    )
    made.load(random_weights(config).items())
    return made


def names(config: ModelConfig, part: str) -> frozenset[str]:
    return frozenset(p.name for p in parameters(config) if part in p.name)


@pytest.mark.parametrize("part", [".0.", "mlp", "wte", "embed_tokens", "lm_head", "norm"])
@EACH
def test_frozen_parameters_stay_and_the_others_learn(config: ModelConfig, part: str) -> None:
    frozen = names(config, part)
    ours = engine(config, frozen)
    batch, start = random_batch(config), random_weights(config)
    everything = dict(engine(config, frozenset()).gradients([batch]))
    gradients = dict(ours.gradients([batch]))
    assert gradients.keys() == everything.keys() - frozen
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, everything[name], err_msg=name)
    norm = np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in gradients.values()))
    for step in range(2):
        result = ours.train_step([batch], RATES, step).result()
        assert result.applied
        if step == 0:
            assert result.grad_norm == pytest.approx(norm, rel=1e-5)
    for name, array in ours.state():
        if name in start:
            assert np.array_equal(array, start[name]) is (name in frozen), name
        else:
            assert name.partition("/")[2] not in frozen


@EACH
def test_a_state_with_frozen_parameters_goes_on_bit_for_bit(config: ModelConfig) -> None:
    frozen = names(config, "mlp")
    first, second = engine(config, frozen), engine(config, frozen, seed=1)
    first.train_step([random_batch(config)], RATES, 0)
    second.load(list(first.state()))
    batch = random_batch(config, seed=1)
    left, right = (one.train_step([batch], RATES, 1).result() for one in (first, second))
    assert left == right
    for (name, array), (same, other) in zip(first.state(), second.state(), strict=True):
        assert name == same
        np.testing.assert_array_equal(array, other, err_msg=name)


def test_a_frozen_head_gets_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient would be as large as the head itself, and unused."""
    kept: list[torch.Size] = []
    original = FunctionCtx.save_for_backward

    def save(self: FunctionCtx, *tensors: torch.Tensor | None) -> None:
        kept.extend(tensor.shape for tensor in tensors if tensor is not None)
        original(self, *tensors)  # type: ignore[arg-type]

    frozen = engine(QWEN3, frozenset({"lm_head.weight"}))
    usual = engine(QWEN3, frozenset())
    monkeypatch.setattr(FunctionCtx, "save_for_backward", save)
    head = torch.Size((QWEN3.vocab_size, QWEN3.d_model))
    list(frozen.gradients([random_batch(QWEN3)]))
    assert head not in kept
    list(usual.gradients([random_batch(QWEN3)]))
    assert head in kept


def test_what_cannot_be_frozen_is_refused() -> None:
    with pytest.raises(ValueError, match="other cannot be frozen"):
        engine(QWEN3, frozenset({"other"}))
    with pytest.raises(ValueError, match="nothing to train"):
        engine(QWEN3, names(QWEN3, ""))
