"""Features of the MLX engine: compiled and lazy steps, repeatable runs, float16, memory, and Apple's chips."""

import dataclasses
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from homespun.config import ModelConfig
from homespun.data.batch import Batch
from homespun.engine.base import EngineOptions, OptimizerSettings, StepResult
from homespun.engine.mlx import machine
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.mlx.loss import head_loss, row_losses
from tests.reference import GPT2, QWEN3, QWEN3_MOE, random_batch, random_weights, relative_error

SETTINGS = OptimizerSettings("muon", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
RATES = {"adamw": 1e-3, "muon": 1e-2}
ONE_BLOCK = dataclasses.replace(QWEN3, n_layers=1)
BOTH = pytest.mark.parametrize(
    "config", [GPT2, QWEN3, QWEN3_MOE], ids=["gpt2", "qwen3", "qwen3_moe"]
)


def engine(config: ModelConfig, **options: Any) -> MlxEngine:
    chosen = {"precision": "float32", "document_mark": 3} | options
    made = MlxEngine(config, EngineOptions(optimizer=SETTINGS, **chosen))
    made.load(random_weights(config).items())
    return made


def microbatches(config: ModelConfig, step: int) -> list[Batch]:
    """One micro-batch for an even step, two for an odd one."""
    return [random_batch(config, rows=2, seed=seed) for seed in range(step, step + 1 + step % 2)]


def run(engine: MlxEngine, steps: int = 4) -> list[StepResult]:
    return [
        engine.train_step(microbatches(engine.config, step), RATES, step).result()
        for step in range(steps)
    ]


@BOTH
def test_equal_runs_are_equal_bit_for_bit(config: ModelConfig) -> None:
    one, other = engine(config), engine(config)
    assert run(one) == run(other)
    for (name, array), (_, same) in zip(one.state(), other.state(), strict=True):
        assert array.tobytes() == same.tobytes(), name


def test_compiled_steps_are_the_uncompiled_ones() -> None:
    plain, compiled = engine(ONE_BLOCK), engine(ONE_BLOCK, compiled=True)
    assert machine.can_compile()
    assert compiled.facts == plain.facts | {"compiled": "yes"}
    for ours, theirs in zip(run(compiled), run(plain), strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
    expected = dict(plain.state())
    for name, array in compiled.state():
        assert relative_error(array, expected[name]) < 1e-3, name
    batch = random_batch(ONE_BLOCK, rows=2)
    assert compiled.loss(batch) == pytest.approx(plain.loss(batch), rel=1e-4)

    head = dict(compiled.state())["lm_head.weight"]
    head[0, 0] = np.nan
    compiled.load((n, head if n == "lm_head.weight" else a) for n, a in list(compiled.state()))
    before = {name: array.tobytes() for name, array in compiled.state()}
    assert not compiled.train_step(microbatches(ONE_BLOCK, 0), RATES, 0).result().applied
    assert before == {name: array.tobytes() for name, array in compiled.state()}


def test_steps_are_dispatched_before_they_are_read() -> None:
    lazy, waiting = engine(ONE_BLOCK), engine(ONE_BLOCK)
    handles = [lazy.train_step(microbatches(ONE_BLOCK, step), RATES, step) for step in range(4)]
    assert not any(handle.ready() for handle in handles)
    assert [handle.result() for handle in handles] == run(waiting)


@BOTH
def test_float16_with_its_loss_scale_follows_float32(config: ModelConfig) -> None:
    half, single = engine(config, precision="float16"), engine(config)
    batch = random_batch(config)
    expected = dict(single.gradients([batch]))
    for name, gradient in half.gradients([batch]):
        assert relative_error(gradient, expected[name]) < 0.02, name
    for ours, theirs in zip(run(half), run(single), strict=True):
        assert ours.applied
        assert ours.loss == pytest.approx(theirs.loss, rel=0.02)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=0.05)
    assert {array.dtype for _, array in half.state()} == {np.dtype(np.float32)}


def test_a_step_out_of_the_range_of_float16_is_refused() -> None:
    ours = engine(QWEN3, precision="float16")
    ours.load((name, 100 * array) for name, array in random_weights(QWEN3).items())
    before = {name: array.tobytes() for name, array in ours.state()}
    assert not ours.train_step([random_batch(QWEN3)], RATES, 0).result().applied
    assert before == {name: array.tobytes() for name, array in ours.state()}


def test_the_logits_of_a_batch_never_exist_together() -> None:
    n, vocab_size, width = 16_384, 1000, 8
    rng = np.random.default_rng(0)
    hidden = mx.array(rng.standard_normal((n, width), dtype=np.float32))
    head = mx.array(rng.standard_normal((vocab_size, width), dtype=np.float32))
    targets = mx.array(rng.integers(0, vocab_size, n, dtype=np.int32))
    mx.eval(hidden, head, targets)

    def peak(*arrays: mx.array) -> int:
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(*arrays)
        return mx.get_peak_memory() - before

    whole = 4 * n * vocab_size
    assert peak(row_losses(hidden, head, targets)) < whole / 3
    gradients = mx.grad(head_loss, argnums=(0, 1))(hidden, head, targets, mx.array(1.0))
    assert peak(*gradients) < whole / 2


def test_checkpointing_takes_less_memory() -> None:
    config = dataclasses.replace(QWEN3, n_layers=6)
    batch = random_batch(config, rows=8)

    def peak(**options: bool) -> int:
        ours = engine(config, **options)
        ours.train_step([batch], RATES, 0).result()
        mx.reset_peak_memory()
        ours.train_step([batch], RATES, 0).result()
        return ours.peak_memory()

    assert peak(gradient_checkpointing=True) < 0.7 * peak()


def chip(monkeypatch: pytest.MonkeyPatch, architecture: str, **speeds: float) -> None:
    """Pretend that this machine has a GPU of this architecture, with these speeds by dtype."""
    machine.fastest_half.cache_clear()
    info = {"device_name": "a GPU", "architecture": architecture}
    monkeypatch.setattr(machine, "device", lambda: mx.gpu)
    monkeypatch.setattr(mx, "device_info", lambda: info | {"max_recommended_working_set_size": 5})
    monkeypatch.setattr(machine, "measured_flops_per_second", lambda dtype: speeds[str(dtype)[9:]])


def test_auto_is_bfloat16_but_for_an_early_chip_that_is_faster_in_float16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert machine.computing_dtype("auto") == mx.float32
    assert not machine.computes_in_half("auto")
    chip(monkeypatch, "applegpu_g14s")
    assert machine.computing_dtype("auto") == mx.bfloat16
    assert machine.computes_in_half("auto")
    assert machine.compiles_at_once()
    assert machine.memory_capacity() == 5
    chip(monkeypatch, "applegpu_g13s", float16=9e12, bfloat16=6e12)
    assert machine.computing_dtype("auto") == mx.float16
    chip(monkeypatch, "applegpu_g13s", float16=9e12, bfloat16=8.8e12)
    assert machine.computing_dtype("auto") == mx.bfloat16
    assert machine.computing_dtype("float32") == mx.float32


def test_this_machine_has_a_speed_and_memory() -> None:
    assert 1e8 < machine.flops_per_second("auto") < 1e14
    assert machine.memory_capacity() > 2**30
    assert not machine.compiles_at_once()
