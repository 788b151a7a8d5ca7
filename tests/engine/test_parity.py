"""Compares our models with those of `transformers`, and checks that the comparison detects mistakes."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from homespun.config import ModelConfig
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.torch import engine, layers
from homespun.engine.torch.engine import TorchEngine
from homespun.engine.torch.model import DecoderModel
from homespun.engine.torch.models import gpt2, qwen3
from tests.reference import (
    GPT2,
    QWEN3,
    TIED_AND_UNTIED,
    HuggingFace,
    random_batch,
    random_weights,
    relative_error,
)

TOLERANCE = 1e-5

ENGINES = pytest.mark.parametrize("kind", [TorchEngine, MlxEngine], ids=["torch", "mlx"])


def errors(
    config: ModelConfig, kind: type[TorchEngine | MlxEngine] = TorchEngine
) -> dict[str, float]:
    """Relative error of the logits and of each parameter's gradient."""
    weights, batch = random_weights(config), random_batch(config)
    theirs = HuggingFace(config, weights)
    settings = OptimizerSettings(
        "adamw", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0
    )
    options = EngineOptions(optimizer=settings, precision="float32", threads=2)
    ours = kind(config, options)
    ours.load(weights.items())
    found = {"logits": relative_error(ours.logits(batch.inputs), theirs.logits(batch))}
    gradients = dict(ours.gradients([batch]))
    for name, reference in theirs.gradients(batch):
        found[name] = relative_error(gradients.pop(name), reference)
    assert not gradients
    return found


@ENGINES
@pytest.mark.parametrize("name", TIED_AND_UNTIED)
def test_logits_and_all_gradients_are_those_of_transformers(
    name: str, kind: type[TorchEngine | MlxEngine]
) -> None:
    found = errors(TIED_AND_UNTIED[name], kind)
    assert max(found.values()) < TOLERANCE, found


def _interleaved(x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    even, odd = x[..., ::2], x[..., 1::2]
    return x * rope[0] + torch.stack((-odd, even), dim=-1).flatten(-2) * rope[1]


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_a_larger_epsilon_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = engine.model_class

    def sabotaged(name: str) -> Callable[..., DecoderModel]:
        model = original(name)
        return lambda config, dtype: model(
            dataclasses.replace(config, norm_eps=10 * config.norm_eps), dtype
        )

    monkeypatch.setattr(engine, "model_class", sabotaged)
    assert max(errors(TIED_AND_UNTIED[name]).values()) > TOLERANCE


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_a_missing_scale_of_the_attention_is_noticed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (gpt2, qwen3):
        monkeypatch.setattr(
            module, "attention", lambda q, *rest: layers.attention(q * q.shape[-1] ** 0.5, *rest)
        )
    assert max(errors(TIED_AND_UNTIED[name]).values()) > TOLERANCE


def test_the_exact_gelu_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = F.gelu
    monkeypatch.setattr(gpt2.F, "gelu", lambda x, approximate: original(x))
    assert max(errors(GPT2).values()) > TOLERANCE


def test_interleaved_rotation_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qwen3, "rotate", _interleaved)
    assert max(errors(QWEN3).values()) > TOLERANCE


def test_halved_frequencies_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        qwen3, "rotary_tables", lambda config, n: layers.rotary_tables(config, 2 * n)[:, ::2]
    )
    assert max(errors(QWEN3).values()) > TOLERANCE


@ENGINES
@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
def test_no_position_sees_what_follows_it(
    config: ModelConfig, kind: type[TorchEngine | MlxEngine]
) -> None:
    ours = kind(config, EngineOptions(precision="float32"))
    ours.load(random_weights(config).items())
    inputs = random_batch(config).inputs
    changed = inputs.copy()
    changed[:, 10:] = (changed[:, 10:] + 1) % config.vocab_size
    before, after = ours.logits(inputs), ours.logits(changed)
    np.testing.assert_array_equal(before[:, :10], after[:, :10])
    assert not np.array_equal(before[:, 10:], after[:, 10:])


@pytest.mark.parametrize("length", [2, 24, 100])
def test_attention_in_full_is_attention(length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, length, 16, generator=generator)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert relative_error(layers.attention_in_full(q, k, v), expected) < 1e-6
