"""The inside of a forward pass is the one that gives the logits, and that of `transformers`."""

import dataclasses

import numpy as np
import pytest
import torch

from homespun.config import ModelConfig
from homespun.engine.inside import Inspector
from homespun.engine.numpy.engine import NumpyEngine
from tests.reference import (
    EACH_FAMILY,
    GPT2,
    QWEN3,
    QWEN3_MOE,
    HuggingFace,
    random_batch,
    random_weights,
    relative_error,
)

CONFIGS = EACH_FAMILY | {"one dense layer": dataclasses.replace(QWEN3_MOE, dense_layers=1)}
ALL = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
TOLERANCE = 1e-5


def reader(config: ModelConfig, document_mark: int | None = None) -> NumpyEngine:
    made = NumpyEngine(config, document_mark=document_mark)
    made.load(random_weights(config).items())
    return made


@ALL
def test_the_lens_of_the_last_layer_gives_the_logits(config: ModelConfig) -> None:
    model, tokens = reader(config), random_batch(config).inputs[0]
    inside = model.inspect(tokens)
    assert isinstance(model, Inspector)
    assert inside.hidden.shape == (config.n_layers + 1, len(tokens), config.d_model)
    assert np.array_equal(model.lens(inside.hidden[-1]), model.logits(tokens[None])[0])
    assert relative_error(model.lens(inside.hidden[0]), model.logits(tokens[None])[0]) > 0.1


@ALL
def test_attention_is_causal_and_its_rows_sum_to_one(config: ModelConfig) -> None:
    tokens = random_batch(config).inputs[0]
    attention = reader(config).inspect(tokens).attention
    assert attention.shape == (config.n_layers, config.n_heads, len(tokens), len(tokens))
    assert not np.triu(attention, 1).any()
    assert attention.min() >= 0
    assert np.allclose(attention.sum(-1), 1, atol=1e-6)


@ALL
def test_states_and_attention_are_those_of_transformers(config: ModelConfig) -> None:
    model, tokens = reader(config), random_batch(config).inputs[0]
    theirs = HuggingFace(config, random_weights(config)).model
    ids = torch.from_numpy(tokens[None]).long()
    with torch.no_grad():
        told = theirs(ids, output_hidden_states=True, output_attentions=True)
    inside = model.inspect(tokens)
    *between, last = (state[0].numpy() for state in told.hidden_states)
    for ours, state in zip(inside.hidden[:-1], between, strict=True):
        assert relative_error(ours, state) < TOLERANCE
    assert relative_error(model.model.normed(inside.hidden[-1]), last) < TOLERANCE
    for layer, weights in zip(inside.attention, told.attentions, strict=True):
        assert np.allclose(layer, weights[0].numpy(), atol=1e-5)


@ALL
def test_a_document_does_not_attend_to_another(config: ModelConfig) -> None:
    tokens = random_batch(config).inputs[0]
    tokens = np.where(tokens == 5, 6, tokens)
    tokens[[0, 9]] = 5
    model = reader(config, document_mark=5)
    inside = model.inspect(tokens)
    assert not inside.attention[:, :, 9:, :9].any()
    assert np.array_equal(model.lens(inside.hidden[-1]), model.logits(tokens[None])[0])


def test_the_experts_of_a_token_are_named_by_weight() -> None:
    config = dataclasses.replace(QWEN3_MOE, dense_layers=1)
    tokens = random_batch(config).inputs[0]
    dense, mixed = reader(config).inspect(tokens).experts
    assert dense is None
    assert mixed is not None
    assert mixed.ids.shape == mixed.weights.shape == (len(tokens), config.experts_per_token)
    assert mixed.ids.max() < config.experts
    assert np.allclose(mixed.weights.sum(-1), 1)
    assert (np.diff(mixed.weights, axis=-1) <= 0).all()
    assert (np.diff(np.sort(mixed.ids, axis=-1), axis=-1) > 0).all()


def test_models_without_a_mixture_have_no_experts() -> None:
    for config in (GPT2, QWEN3):
        experts = reader(config).inspect(random_batch(config).inputs[0]).experts
        assert experts == (None,) * config.n_layers
