"""The list of parameters: groups, initial values, cost."""

import dataclasses
import math

import numpy as np
import pytest

from homespun.architectures.families import (
    flops_per_token,
    initial_weights,
    model_config,
    parameters,
)
from homespun.config import ModelConfig
from homespun.data.batch import Batch
from homespun.engine import select
from homespun.engine.base import EngineOptions
from homespun.errors import UserError

GPT2 = ModelConfig(
    architecture="gpt2",
    vocab_size=1000,
    seq_len=16,
    n_layers=2,
    d_model=64,
    n_heads=4,
    n_kv_heads=4,
    head_dim=16,
    d_ff=256,
)
QWEN3 = ModelConfig(
    architecture="qwen3",
    vocab_size=1000,
    seq_len=16,
    n_layers=3,
    d_model=64,
    n_heads=4,
    n_kv_heads=2,
    head_dim=32,
    d_ff=192,
    tie_embeddings=False,
    norm_eps=1e-6,
)
BOTH = pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])


@BOTH
def test_biases_and_norms_do_not_decay_and_all_else_does(config: ModelConfig) -> None:
    for p in parameters(config):
        is_vector = p.name.endswith(".bias") or "norm" in p.name or ".ln_" in p.name
        assert p.decay == (not is_vector)
        assert is_vector == (len(p.shape) == 1)
        in_block = ".h." in p.name or ".layers." in p.name
        assert (p.group == "matrix") == (in_block and not is_vector)


@BOTH
@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_stored_once(config: ModelConfig, tied: bool) -> None:
    config = dataclasses.replace(config, tie_embeddings=tied)
    large = [p for p in parameters(config) if p.shape == (config.vocab_size, config.d_model)]
    assert [p.group for p in large] == (["embedding"] if tied else ["embedding", "head"])


@BOTH
def test_initial_values_depend_on_seed_and_name_alone(config: ModelConfig) -> None:
    weights = dict(initial_weights(config, seed=1))
    deeper = dict(initial_weights(dataclasses.replace(config, n_layers=5), seed=1))
    for name, values in weights.items():
        assert values.dtype == np.float32
        if "c_proj" not in name:  # its spread follows from the number of layers
            np.testing.assert_array_equal(values, deeper[name])
    again = dict(initial_weights(config, seed=1))
    other = dict(initial_weights(config, seed=2))
    random = [p.name for p in parameters(config) if p.std]
    drawn = set()
    for name in random:
        np.testing.assert_array_equal(weights[name], again[name])
        assert not np.array_equal(weights[name], other[name])
        drawn.add(weights[name].flat[0] / weights[name].std())
    assert len(drawn) == len(random)


@BOTH
def test_initial_values_have_the_spread_that_is_specified(config: ModelConfig) -> None:
    spread = {
        "gpt2": {"c_proj": 0.02 / math.sqrt(2 * config.n_layers), "": 0.02},
        "qwen3": {
            "o_proj": 0,
            "down_proj": 0,
            "lm_head": 0,
            "embed_tokens": 1,
            "": config.d_model**-0.5,
        },
    }[config.architecture]
    for (name, values), p in zip(initial_weights(config, 0), parameters(config), strict=True):
        assert (name, values.shape) == (p.name, p.shape)
        if values.ndim == 1:
            expected = 0.0 if name.endswith("bias") else 1.0
            assert (values == expected).all()
        else:
            std = next(spread[part] for part in spread if part in name)
            assert values.std() == pytest.approx(std, rel=0.05)
            assert abs(values.mean()) <= 4 * std / math.sqrt(values.size)


@BOTH
@pytest.mark.parametrize("tied", [True, False])
def test_a_fresh_model_guesses(config: ModelConfig, tied: bool) -> None:
    config = dataclasses.replace(config, tie_embeddings=tied)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (8, 17), dtype=np.int32)
    engine = select.create(config, EngineOptions(precision="float32"))
    total, count = engine.loss(Batch(ids[:, :-1].copy(), ids[:, 1:].copy()))
    assert total / count == pytest.approx(math.log(config.vocab_size), rel=0.01)


def test_cost_of_a_token_by_hand() -> None:
    # Per block: q, k, v and the projection are 4 d^2, the two feed-forward matrices 8 d^2; the tied head is one more
    # product; attention is 2 products of d per position, 2 operations each, three times for forward and backward.
    d, layers, vocab, seq_len = 64, 2, 1000, 16
    assert flops_per_token(GPT2) == 6 * (layers * 12 * d * d + vocab * d) + 3 * (
        layers * 2 * 2 * d * seq_len
    )
    q_and_o, kv, ff = 2 * 4 * 32 * 64, 2 * 2 * 32 * 64, 3 * 192 * 64
    assert flops_per_token(QWEN3) == 6 * (3 * (q_and_o + kv + ff) + 1000 * 64) + 3 * (
        3 * 2 * 2 * (4 * 32) * 16
    )
    # Tying the head saves memory, not work.
    tied = dataclasses.replace(QWEN3, tie_embeddings=True)
    assert flops_per_token(tied) == flops_per_token(QWEN3)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(UserError, match="'quen3' is unknown: did you mean qwen3"):
        model_config({"architecture": "quen3"})
