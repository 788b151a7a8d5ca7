"""The models as modules: they have the parameters of `architectures`, and no module outlives its computation."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from homespun.architectures.families import FAMILIES, family, parameters
from homespun.config import ModelConfig
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.mlx.models import model_class
from homespun.errors import UserError
from tests.reference import LLAMA, QWEN3, random_batch, random_weights

ADAMW = OptimizerSettings("adamw", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)


def small(name: str, tied: bool) -> ModelConfig:
    config = family(name).default_shape(2, 32, 4)
    return dataclasses.replace(config, vocab_size=97, seq_len=24, tie_embeddings=tied)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_those_of_the_architecture(name: str, tied: bool) -> None:
    config = small(name, tied)
    model = model_class(name)(config, mx.float32)
    names = [(name, tensor.shape) for name, tensor in tree_flatten(model.parameters())]
    assert sorted(names) == sorted((p.name, p.shape) for p in parameters(config))


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(UserError, match="gpt3"):
        model_class("gpt3")


def test_the_norms_of_queries_and_keys_make_the_difference_between_the_modern_families() -> None:
    batch, weights = random_batch(LLAMA), random_weights(QWEN3)
    names = {p.name for p in parameters(LLAMA)}
    logits = []
    for config in (LLAMA, QWEN3):
        engine = MlxEngine(config, EngineOptions(precision="float32", seed=None))
        engine.load((n, a) for n, a in weights.items() if config == QWEN3 or n in names)
        logits.append(engine.logits(batch.inputs))
    assert not np.allclose(*logits, atol=1e-2)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_a_step_leaves_no_tensors_but_the_new_ones(checkpointing: bool) -> None:
    config = dataclasses.replace(QWEN3, d_model=256, vocab_size=2000)
    options = EngineOptions(ADAMW, precision="float32", gradient_checkpointing=checkpointing)
    before = mx.get_active_memory()
    engine = MlxEngine(config, options)
    n_bytes = sum(array.nbytes for _, array in engine.state())
    batch = random_batch(config, rows=1)
    for step in range(2):
        engine.train_step([batch, batch], {"adamw": 1e-3}, step).result()
        assert mx.get_active_memory() - before < 1.1 * n_bytes
    engine.loss(batch)
    engine.logits(batch.inputs)
    assert mx.get_active_memory() - before < 1.1 * n_bytes


def test_an_engine_that_only_reads_leaves_the_limits_of_the_process_alone() -> None:
    usual = mx.set_cache_limit(123_456_789)
    try:
        engine = MlxEngine(QWEN3, EngineOptions(precision="float32"))
        engine.decoder(1, 4).prefill(np.array([[1, 2]], dtype=np.int32))
        assert mx.set_cache_limit(123_456_789) == 123_456_789
        MlxEngine(QWEN3, EngineOptions(ADAMW, precision="float32"))
        assert mx.set_cache_limit(123_456_789) != 123_456_789
    finally:
        mx.set_cache_limit(usual)
