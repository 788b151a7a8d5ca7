"""Adapters train on both engines: their gradients are those of the merged model, and the model itself stays."""

import dataclasses
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

from homespun.architectures.families import parameters
from homespun.architectures.lora import Lora, adapter_parameters, adapters, merged
from homespun.config import ModelConfig
from homespun.data.batch import Batch
from homespun.engine.base import Engine, EngineOptions, OptimizerSettings
from homespun.engine.mlx import loss as mlx_loss
from homespun.engine.mlx import machine as mlx_machine
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.numpy.engine import NumpyEngine
from homespun.engine.torch import loss as torch_loss
from homespun.engine.torch import machine as torch_machine
from homespun.engine.torch.engine import TorchEngine
from tests.reference import (
    EACH_FAMILY,
    GPT2,
    LLAMA,
    QWEN3,
    Arrays,
    random_batch,
    random_weights,
    relative_error,
)

SETTINGS = OptimizerSettings("adamw", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
RATES = {"adamw": 1e-3, "muon": 1e-2}
MARK = 3
LORA = Lora(4, 6.0)

CONFIGS = EACH_FAMILY | {"llama tied": dataclasses.replace(LLAMA, tie_embeddings=True)}
EACH = pytest.mark.parametrize("name", CONFIGS)
BOTH = pytest.mark.parametrize("kind", [TorchEngine, MlxEngine])

Kind = Callable[[ModelConfig, EngineOptions], Engine]


@pytest.fixture(autouse=True)
def _logits_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute the logits in slices of which the last is shorter than the others."""
    for module in (torch_loss, mlx_loss):
        monkeypatch.setattr(module, "HEAD_ROWS", 50)


def options(lora: Lora | None = LORA, **others: Any) -> EngineOptions:
    chosen = {"precision": "float32", "document_mark": MARK, "threads": 1, "lora": lora} | others
    return EngineOptions(**{"optimizer": SETTINGS} | chosen)


def random_adapters(config: ModelConfig, lora: Lora = LORA) -> Arrays:
    """Adapters that change the model much."""
    rng = np.random.default_rng(7)
    spec = adapter_parameters(config, lora)
    return {p.name: (0.3 * rng.standard_normal(p.shape)).astype(np.float32) for p in spec}


def engine(kind: Kind, config: ModelConfig, lora: Lora = LORA, **others: Any) -> Engine:
    """An engine whose adapters are far from their beginning."""
    made = kind(config, options(lora, **others))
    made.load_base(random_weights(config).items())
    made.load(random_adapters(config, lora).items())
    return made


def plain(kind: Kind, config: ModelConfig, weights: Arrays, **others: Any) -> Engine:
    made = kind(config, options(None, **others))
    made.load(weights.items())
    return made


def merged_weights(config: ModelConfig, lora: Lora = LORA) -> Arrays:
    return dict(merged(random_weights(config).items(), random_adapters(config, lora), config, lora))


def batches(config: ModelConfig) -> list[Batch]:
    """Two micro-batches of different size, with several document marks."""
    made = [random_batch(config, rows, seed=rows) for rows in (3, 1)]
    for batch in made:
        batch.inputs[:, ::7] = MARK
    return made


@EACH
@BOTH
@pytest.mark.parametrize(
    "others",
    [
        {},
        {"gradient_checkpointing": True},
        {"dropout": 0.2, "seed": 3},
        {"lora": Lora(2, 8.0, ("attention",))},
    ],
    ids=["usual", "checkpointing", "dropout", "attention"],
)
def test_gradients_are_those_of_the_merged_weights(
    kind: Kind, name: str, others: dict[str, Any]
) -> None:
    """For W + s B A, the gradients are dB = s dW A^T and dA = s B^T dW."""
    config, chosen = CONFIGS[name], {"lora": LORA} | others
    lora = chosen.pop("lora")
    ours = engine(kind, config, lora, **chosen)
    whole = plain(kind, config, merged_weights(config, lora), **chosen)
    found = dict(ours.gradients(batches(config), step=5))
    expected = dict(whole.gradients(batches(config), step=5))
    values = random_adapters(config, lora)
    assert list(found) == list(values)
    for matrix, a, b in adapters(config, lora):
        above = expected[matrix.name].astype(np.float64)
        of_b = lora.scale * above @ values[a.name].astype(np.float64).T
        of_a = lora.scale * values[b.name].astype(np.float64).T @ above
        assert relative_error(found[a.name], of_a) < 1e-4, a.name
        assert relative_error(found[b.name], of_b) < 1e-4, b.name


@EACH
def test_both_engines_agree(name: str) -> None:
    config = CONFIGS[name]
    one, other = (engine(kind, config) for kind in (TorchEngine, MlxEngine))
    expected = dict(one.gradients(batches(config)))
    for parameter, gradient in other.gradients(batches(config)):
        assert relative_error(gradient, expected[parameter]) < 1e-4, parameter
    for step in range(10):
        a, b = (e.train_step(batches(config), RATES, step).result() for e in (one, other))
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
    for (left, array), (right, same) in zip(one.state(), other.state(), strict=True):
        assert left == right
        np.testing.assert_allclose(array, same, atol=1e-3, err_msg=left)


@BOTH
def test_a_run_goes_on_with_the_other_engine(kind: Kind) -> None:
    other: Kind = MlxEngine if kind is TorchEngine else TorchEngine
    stays, first = engine(kind, LLAMA), engine(kind, LLAMA)
    expected = [stays.train_step(batches(LLAMA), RATES, i).result().loss for i in range(8)]
    losses = [first.train_step(batches(LLAMA), RATES, i).result().loss for i in range(4)]
    second = other(LLAMA, options())
    second.load_base(random_weights(LLAMA).items())
    second.load(first.state())
    losses += [second.train_step(batches(LLAMA), RATES, i).result().loss for i in range(4, 8)]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


@BOTH
def test_a_state_goes_on_bit_for_bit(kind: Kind) -> None:
    first, second = engine(kind, QWEN3), kind(QWEN3, options(seed=9))
    first.train_step(batches(QWEN3), RATES, 0).result()
    second.load_base(random_weights(QWEN3).items())
    second.load(list(first.state()))
    left, right = (e.train_step(batches(QWEN3), RATES, 1).result() for e in (first, second))
    assert left == right
    for (name, array), (_, same) in zip(first.state(), second.state(), strict=True):
        np.testing.assert_array_equal(array, same, err_msg=name)


@EACH
@BOTH
def test_the_adapted_model_is_the_merged_model(kind: Kind, name: str) -> None:
    config = CONFIGS[name]
    ours, reader = engine(kind, config), NumpyEngine(config, document_mark=MARK)
    reader.load(merged_weights(config).items())
    [batch, _] = batches(config)
    expected = reader.logits(batch.inputs)
    scale = np.abs(expected).max()
    assert np.abs(ours.logits(batch.inputs) - expected).max() < 1e-5 * scale
    assert ours.loss(batch)[0] == pytest.approx(reader.loss(batch)[0], rel=1e-5)
    without = plain(kind, config, random_weights(config)).logits(batch.inputs)
    assert np.abs(without - expected).max() > 1e-2 * scale

    tokens = np.array([[5, 9, 2, 11]], np.int32)
    decoder, theirs = ours.decoder(1, 8), reader.decoder(1, 8)
    for written, wanted in (
        (decoder.prefill(tokens), theirs.prefill(tokens)),
        (decoder.step(np.array([6])), theirs.step(np.array([6]))),
    ):
        assert np.abs(written - wanted).max() < 1e-5 * scale


@EACH
@BOTH
def test_a_new_adapter_changes_nothing(kind: Kind, name: str) -> None:
    config = CONFIGS[name]
    ours = kind(config, options())
    ours.load_base(random_weights(config).items())
    base = plain(kind, config, random_weights(config))
    [batch, _] = batches(config)
    np.testing.assert_allclose(
        ours.logits(batch.inputs), base.logits(batch.inputs), rtol=1e-5, atol=1e-5
    )


@EACH
@BOTH
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_only_the_adapters_learn(kind: Kind, name: str, precision: str) -> None:
    config = CONFIGS[name]
    ours: Any = engine(kind, config, precision=precision)
    kept = {name: bits(array) for name, array in ours.base.items()}
    before = dict(ours.state())
    losses = [ours.train_step(batches(config), RATES, i).result().loss for i in range(20)]
    assert losses[-1] < losses[0] - 0.01
    assert {name: bits(array) for name, array in ours.base.items()} == kept
    after = dict(ours.state())
    weights = [p.name for p in adapter_parameters(config, LORA)]
    moments = [f"{kind}/{name}" for kind in ("exp_avg", "exp_avg_sq") for name in weights]
    assert list(after) == [*weights, "optimizer/step", *moments]
    for parameter in weights:
        assert not np.array_equal(after[parameter], before[parameter]), parameter
        assert after[parameter].dtype == np.float32


@EACH
def test_torch_keeps_frozen_matrices_in_the_computing_dtype(name: str) -> None:
    """The estimate of the memory counts on it."""
    ours: Any = engine(TorchEngine, CONFIGS[name], precision="bfloat16")
    for parameter in parameters(CONFIGS[name]):
        if parameter.group == "matrix" and not parameter.is_router:
            assert ours.base[parameter.name].dtype == torch.bfloat16, parameter.name


def bits(tensor: Any) -> bytes:
    """The content of a tensor of either framework."""
    to_array = torch_machine.to_array if hasattr(tensor, "detach") else mlx_machine.to_array
    return to_array(tensor).tobytes()


@BOTH
def test_a_refused_step_changes_nothing(kind: Kind) -> None:
    ours = engine(kind, GPT2)
    before = dict(ours.state())
    result = ours.train_step(batches(GPT2), RATES, 0, loss_limit=0.0).result()
    assert not result.applied
    for name, array in ours.state():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@BOTH
def test_adamw_updates_adapters_whatever_the_optimizer(kind: Kind, optimizer: str) -> None:
    """A is short and B starts at zero: neither is a matrix as Muon has them in mind."""
    ours = engine(kind, GPT2, optimizer=dataclasses.replace(SETTINGS, name=optimizer))
    assert not any(name.startswith("momentum/") for name, _ in ours.state())
    assert ours.train_step(batches(GPT2), RATES, 0).result().applied


def test_float16_trains_adapters() -> None:
    ours = engine(MlxEngine, LLAMA, precision="float16")
    results = [ours.train_step(batches(LLAMA), RATES, i).result() for i in range(10)]
    assert all(result.applied for result in results)
    assert results[-1].loss < results[0].loss


def test_compiled_steps_on_mlx_agree() -> None:
    """Weights of the model are inputs of a compiled step: with others, it gives another loss."""
    config = dataclasses.replace(LLAMA, n_layers=1)
    usual, compiled = (engine(MlxEngine, config, compiled=value) for value in (False, True))
    for seed in range(2):
        losses = []
        for one in (usual, compiled):
            one.load_base(random_weights(config, seed).items())
            losses.append(one.train_step([random_batch(config)], RATES, seed).result().loss)
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@BOTH
def test_the_weights_of_the_model_are_checked(kind: Kind) -> None:
    ours, weights = kind(GPT2, options()), random_weights(GPT2)
    first = next(iter(weights))
    with pytest.raises(ValueError, match=f"{first} is missing"):
        ours.load_base((name, array) for name, array in weights.items() if name != first)
    with pytest.raises(ValueError, match="not part of this model"):
        ours.load_base(random_adapters(GPT2).items())
    with pytest.raises(ValueError, match="not part of this model"):
        ours.load(weights.items())
    with pytest.raises(ValueError, match="not part of this model"):
        plain(kind, GPT2, weights).load_base(weights.items())


@BOTH
def test_a_decoder_keeps_its_weights(kind: Kind) -> None:
    ours = engine(kind, LLAMA)
    tokens = np.array([[5, 9, 2, 11]], np.int32)
    decoder = ours.decoder(1, 8)
    first = decoder.prefill(tokens)
    decoder.rewind(0)
    for step in range(3):
        ours.train_step(batches(LLAMA), {"adamw": 0.1}, step).result()
    np.testing.assert_array_equal(decoder.prefill(tokens), first)
    assert not np.allclose(ours.decoder(1, 8).prefill(tokens), first, atol=1e-3)


def test_torch_computes_no_gradient_of_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be as large as the head itself, and unused."""
    made: list[torch.Size] = []
    original = torch.zeros_like

    def zeros_like(tensor: torch.Tensor) -> torch.Tensor:
        made.append(tensor.shape)
        return original(tensor)

    config = CONFIGS["llama tied"]
    ours = engine(TorchEngine, config)
    monkeypatch.setattr(torch, "zeros_like", zeros_like)
    list(ours.gradients(batches(config)))
    assert torch.Size((config.vocab_size, config.d_model)) not in made


def test_mlx_computes_no_gradient_of_the_head() -> None:
    rng = np.random.default_rng(0)
    hidden, head = (mx.array(rng.standard_normal((n, 8), np.float32)) for n in (120, 30))
    inputs = hidden, head, mx.array(rng.integers(0, 30, 120)), mx.array(0.1)
    whole = mlx_loss.losses_and_gradients(*inputs)
    part = mlx_loss.losses_and_gradients(*inputs, wants_head=False)
    for expected, found in zip(whole[:2], part[:2], strict=True):
        assert mx.array_equal(expected, found)
    assert whole[2].any()
    assert not part[2].any()
    assert not engine(MlxEngine, CONFIGS["llama tied"]).trains_head  # type: ignore[attr-defined]
