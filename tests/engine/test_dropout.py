"""Dropout uses the same bits in every framework, at the right places, and in training steps only."""

import dataclasses
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
import torch

from homespun.config import ModelConfig
from homespun.data.batch import Batch
from homespun.engine.base import Engine, EngineOptions, OptimizerSettings
from homespun.engine.dropout import hash_bits, keep_mask, scale, site_keys
from homespun.engine.mlx import dropout as mlx_dropout
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.torch import dropout as torch_dropout
from homespun.engine.torch.dropout import apply_dropout, of_microbatches
from homespun.engine.torch.engine import TorchEngine
from tests.reference import (
    GPT2,
    QWEN3,
    QWEN3_MOE,
    HuggingFace,
    random_batch,
    random_weights,
    relative_error,
)

SETTINGS = OptimizerSettings("adamw", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
RATES = {"adamw": 1e-3}
SEED, STEP, RATE = 7, 5, 0.3
BOTH = pytest.mark.parametrize(
    "config", [GPT2, QWEN3, QWEN3_MOE], ids=["gpt2", "qwen3", "qwen3_moe"]
)
EACH_RATE = pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.999])

Mask = npt.NDArray[np.bool_]


fresh: Callable[[ModelConfig, EngineOptions], Engine] = TorchEngine


@pytest.fixture(params=[TorchEngine, MlxEngine], ids=["torch", "mlx"])
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "fresh", request.param)


EACH_ENGINE = pytest.mark.usefixtures("each_engine")


def engine(config: ModelConfig, **options: Any) -> Engine:
    wanted = EngineOptions(SETTINGS, precision="float32", threads=2, seed=SEED, dropout=RATE)
    made = fresh(config, dataclasses.replace(wanted, **options))
    made.load(random_weights(config).items())
    return made


def mask(site: int, tokens: npt.NDArray[np.uint32], channels: int, rate: float = RATE) -> Mask:
    return keep_mask(site_keys(SEED, STEP, 3)[site], tokens, channels, rate)


def numbers(n: int) -> npt.NDArray[np.uint32]:
    return np.arange(n, dtype=np.uint32)


def test_the_bits_are_those_they_have_always_been() -> None:
    """A run that is resumed with another version must drop the same numbers."""
    given = np.array([0, 1, 2, 2**31, 2**32 - 1], dtype=np.uint32)
    assert list(hash_bits(given)) == [0, 0x688990C0, 0xD1132181, 0xCC4B4124, 0x6768824A]
    assert list(site_keys(seed=0, step=0, n_layers=1)) == [0xBBCAC71F, 0x1ADCD5BD, 0x7069096B]
    assert len({tuple(site_keys(s, t, 1)) for s in (0, 1, 2**32, 2**40) for t in (0, 1)}) == 8


@EACH_RATE
def test_torch_drops_what_numpy_says(rate: float) -> None:
    keys = torch.from_numpy(site_keys(SEED, STEP, 3).view(np.int32))
    first, second = of_microbatches(rate, keys, [(3, 10), (4, 10)])
    for site in (0, 6):
        expected = mask(site, numbers(70), 33, rate) * np.float32(scale(rate))
        for drop, rows in ((first, slice(0, 30)), (second, slice(30, 70))):
            found = apply_dropout(torch.ones(*drop.tokens.shape, 33), drop, site)
            np.testing.assert_array_equal(found.flatten(0, 1).numpy(), expected[rows])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by imports of inductor
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_kernels_drop_the_same_and_are_made_once(backend: str) -> None:
    x = torch.ones(2, 16, 40)
    compiled = torch.compile(apply_dropout, dynamic=False, fullgraph=True, backend=backend)
    for step in range(3):
        keys = torch.from_numpy(site_keys(SEED, step, 3).view(np.int32))
        [drop] = of_microbatches(RATE, keys, [(2, 16)])
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            found = compiled(x, drop.of_block(1), 1)
        assert torch.equal(found, apply_dropout(x, drop.of_block(1), 1))
        assert not torch.equal(found, apply_dropout(x, drop.of_block(1), 0))


@EACH_RATE
@pytest.mark.parametrize("compiled", [False, True])
def test_mlx_drops_what_numpy_says(rate: float, compiled: bool) -> None:
    dropped_by_mlx = (
        mx.compile(mlx_dropout.apply_dropout) if compiled else mlx_dropout.apply_dropout
    )
    keys = mx.array(site_keys(SEED, STEP, 3))
    first, second = mlx_dropout.of_microbatches(rate, keys, [(3, 10), (4, 10)])
    for site in (0, 6):
        expected = mask(site, numbers(70), 33, rate) * np.float32(scale(rate))
        for drop, rows in ((first, slice(0, 30)), (second, slice(30, 70))):
            found = dropped_by_mlx(mx.ones((*drop[1].shape, 33)), drop, site)
            np.testing.assert_array_equal(np.array(found).reshape(-1, 33), expected[rows])


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_share_is_dropped_and_no_pattern_shows(rate: float) -> None:
    n, channels = 2000, 500
    dropped_here = ~mask(1, numbers(n), channels, rate)
    noise = np.sqrt(rate * (1 - rate))
    assert abs(dropped_here.mean() - rate) < 5 * noise / np.sqrt(n * channels)
    for axis, size in ((0, n), (1, channels)):
        assert abs(dropped_here.mean(axis) - rate).max() < 6 * noise / np.sqrt(size)
    others = [
        ~mask(2, numbers(n), channels, rate),
        ~keep_mask(site_keys(SEED, STEP + 1, 3)[1], numbers(n), channels, rate),
        ~keep_mask(site_keys(SEED + 1, STEP, 3)[1], numbers(n), channels, rate),
        np.roll(dropped_here, 1, axis=0),
        np.roll(dropped_here, 1, axis=1),
    ]
    for other in others:
        both = (dropped_here & other).mean()
        assert abs(both - rate**2) < 5 * noise**2 / np.sqrt(n * channels)


def dropped_in_transformers(config: ModelConfig, batch: Batch) -> HuggingFace:
    """A model of `transformers` with our masks at the dropout sites of GPT-2, and at the same places in Qwen3."""
    theirs = HuggingFace(config, random_weights(config))
    inner = theirs.model.transformer if config.architecture == "gpt2" else theirs.model.model
    if config.architecture == "gpt2":
        places = [inner.drop]
        for block in inner.h:
            places += [block.attn.resid_dropout, block.mlp.dropout]
    else:
        places = [inner.embed_tokens]
        for block in inner.layers:
            places += [block.self_attn.o_proj, block.mlp]
    keys = site_keys(SEED, STEP, config.n_layers)
    for place, key in zip(places, keys, strict=True):
        chosen = keep_mask(key, numbers(batch.inputs.size), config.d_model, RATE)
        factor = torch.from_numpy(chosen).view(*batch.inputs.shape, -1) / (1 - RATE)
        place.register_forward_hook(lambda *given, factor=factor: given[-1] * factor)
    return theirs


@BOTH
@EACH_ENGINE
def test_gradients_are_those_of_transformers_with_the_same_dropped(config: ModelConfig) -> None:
    batch = random_batch(config)
    ours = dict(engine(config).gradients([batch], STEP))
    for name, gradient in dropped_in_transformers(config, batch).gradients(batch):
        assert relative_error(ours[name], gradient) < 1e-5, name


def worst_difference(config: ModelConfig) -> float:
    """The largest relative difference of a gradient between a whole batch and the same batch in micro-batches."""
    ours, batch = engine(config), random_batch(config, rows=8)
    whole = dict(ours.gradients([batch], STEP))
    return max(
        relative_error(gradient, whole[name])
        for size in (4, 1)
        for name, gradient in ours.gradients(
            [
                Batch(batch.inputs[i : i + size], batch.targets[i : i + size])
                for i in range(0, 8, size)
            ],
            STEP,
        )
    )


@BOTH
@EACH_ENGINE
def test_how_a_step_is_divided_does_not_matter(config: ModelConfig) -> None:
    assert worst_difference(config) < 1e-6


def test_tokens_counted_by_the_micro_batch_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch_dropout.of_microbatches
    monkeypatch.setattr(
        "homespun.engine.torch.engine.of_microbatches",
        lambda rate, keys, shapes, first: [next(original(rate, keys, [shape])) for shape in shapes],
    )
    assert worst_difference(GPT2) > 1e-2


@BOTH
@EACH_ENGINE
def test_checkpointed_gradients_are_the_same(config: ModelConfig) -> None:
    batch = random_batch(config)
    plain = dict(engine(config).gradients([batch], STEP))
    for name, gradient in engine(config, gradient_checkpointing=True).gradients([batch], STEP):
        np.testing.assert_array_equal(gradient, plain[name], err_msg=name)


@BOTH
@EACH_ENGINE
def test_only_training_steps_drop_anything(config: ModelConfig) -> None:
    ours, plain, batch = engine(config), engine(config, dropout=0.0), random_batch(config)
    assert ours.loss(batch) == plain.loss(batch)
    np.testing.assert_array_equal(ours.logits(batch.inputs), plain.logits(batch.inputs))
    written, expected = (one.decoder(3, 24).prefill(batch.inputs) for one in (ours, plain))
    np.testing.assert_array_equal(written, expected)
    for (name, gradient), (_, other) in zip(
        ours.gradients([batch]), plain.gradients([batch], STEP), strict=True
    ):
        np.testing.assert_array_equal(gradient, other, err_msg=name)


@BOTH
@EACH_ENGINE
def test_each_step_drops_something_else(config: ModelConfig) -> None:
    batch = random_batch(config)
    losses = [engine(config).train_step([batch], RATES, step).result().loss for step in (0, 1, 1)]
    assert losses[0] != losses[1] == losses[2]
