"""Invariants of an engine: accumulation, cache, state, refusal. Every test runs on each engine."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from homespun.architectures.families import parameters
from homespun.config import ModelConfig
from homespun.data.batch import IGNORED, Batch
from homespun.engine.base import Engine, EngineOptions, OptimizerSettings, OutOfMemory
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.torch.engine import TorchEngine
from homespun.named_array import NamedArray
from tests.reference import GPT2, QWEN3, QWEN3_MOE, random_batch, random_weights, relative_error

SETTINGS = OptimizerSettings("muon", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
OPTIONS = EngineOptions(optimizer=SETTINGS, precision="float32", threads=2)
RATES = {"adamw": 1e-3, "muon": 1e-2}
BOTH = pytest.mark.parametrize(
    "config", [GPT2, QWEN3, QWEN3_MOE], ids=["gpt2", "qwen3", "qwen3_moe"]
)


fresh: Callable[[ModelConfig, EngineOptions], Engine] = TorchEngine


@pytest.fixture(autouse=True, params=[TorchEngine, MlxEngine], ids=["torch", "mlx"])
def _each_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "fresh", request.param)


def engine(config: ModelConfig, **options: Any) -> Engine:
    made = fresh(config, dataclasses.replace(OPTIONS, **options))
    made.load(random_weights(config).items())
    return made


def uneven_batch(config: ModelConfig) -> Batch:
    """Eight rows, each with fewer targets than the one before."""
    batch = random_batch(config, rows=8)
    targets = batch.targets.copy()
    for row in range(8):
        targets[row, : row * 3] = IGNORED
    return Batch(batch.inputs, targets)


def divided(batch: Batch, sizes: Sequence[int]) -> list[Batch]:
    ends = np.cumsum(sizes)
    return [
        Batch(batch.inputs[end - size : end], batch.targets[end - size : end])
        for size, end in zip(sizes, ends, strict=True)
    ]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@BOTH
def test_documents_do_not_see_each_other(config: ModelConfig, precision: str) -> None:
    """The loss of the second document depends on the first only if attention may cross the document mark."""
    mark, begins = 0, 9
    inputs = random_batch(config).inputs % (config.vocab_size - 1) + 1
    inputs[:, [0, begins]] = mark
    targets = np.roll(inputs, -1, axis=1)
    targets[:, :begins] = IGNORED
    changed = inputs.copy()
    changed[:, 1:begins] = changed[:, 1:begins] % (config.vocab_size - 1) + 1

    def difference(**options: Any) -> float:
        ours = engine(config, precision=precision, **options)
        one, other = (dict(ours.gradients([Batch(each, targets)])) for each in (inputs, changed))
        before, after = ours.loss(Batch(inputs, targets)), ours.loss(Batch(changed, targets))
        (embedding, *_) = one
        matrices = [name for name in one if name != embedding and "wpe" not in name]
        worst = max(relative_error(one[name], other[name]) for name in matrices)
        return max(worst, abs(before[0] - after[0]) / before[0])

    # How many tokens an expert reads at a time changes the last bits of its products.
    rounding = 0.0
    if config.experts:
        rounding = 1e-6 if precision == "float32" else 2e-2
    assert difference(document_mark=mark) <= rounding
    assert difference(document_mark=mark, gradient_checkpointing=True) <= rounding
    assert difference() > 10 * rounding + 1e-3


@BOTH
def test_a_mask_of_one_document_changes_nothing(config: ModelConfig) -> None:
    batch = uneven_batch(config)
    plain = dict(engine(config).gradients([batch]))
    masked = dict(engine(config, document_mark=int(batch.inputs.max()) + 1).gradients([batch]))
    for name, gradient in plain.items():
        np.testing.assert_array_equal(masked[name], gradient)


DIVISIONS = [(8,), (4, 4), (1,) * 8, (3, 3, 2)]


Gradients = Callable[[Engine, Sequence[Batch]], Iterator[NamedArray]]


def of_all_targets(engine: Engine, microbatches: Sequence[Batch]) -> Iterator[NamedArray]:
    return engine.gradients(microbatches)


def mean_of_means(engine: Engine, microbatches: Sequence[Batch]) -> Iterator[NamedArray]:
    parts = [dict(engine.gradients([one])) for one in microbatches]
    for name in parts[0]:
        yield name, np.mean([part[name] for part in parts], axis=0)


def worst_difference(config: ModelConfig, gradients: Gradients) -> float:
    ours, batch = engine(config), uneven_batch(config)
    whole = dict(ours.gradients([batch]))
    return max(
        relative_error(gradient, whole[name])
        for sizes in DIVISIONS
        for name, gradient in gradients(ours, divided(batch, sizes))
    )


@BOTH
def test_accumulated_gradients_are_those_of_the_whole_batch(config: ModelConfig) -> None:
    assert worst_difference(config, of_all_targets) < 1e-6


def test_a_mean_of_means_is_noticed() -> None:
    assert worst_difference(GPT2, mean_of_means) > 1e-6


@BOTH
def test_the_loss_of_a_step_is_the_mean_over_all_its_targets(config: ModelConfig) -> None:
    ours, batch = engine(config), uneven_batch(config)
    total, count = ours.loss(batch)
    assert count == batch.n_targets
    result = ours.train_step(divided(batch, (3, 3, 2)), RATES, 0).result()
    assert result.loss == pytest.approx(total / count, rel=1e-5)


@BOTH
def test_the_loss_is_the_cross_entropy_of_the_logits(config: ModelConfig) -> None:
    ours, batch = engine(config), uneven_batch(config)
    logits = ours.logits(batch.inputs).astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows, columns = np.nonzero(batch.targets != IGNORED)
    expected = -log_probabilities[rows, columns, batch.targets[rows, columns]].sum()
    assert ours.loss(batch)[0] == pytest.approx(expected, rel=1e-5)


@BOTH
@pytest.mark.parametrize("prefilled", [1, 7, 23])
def test_a_cached_model_gives_the_logits_of_the_whole_text(
    config: ModelConfig, prefilled: int
) -> None:
    ours = engine(config)
    inputs = random_batch(config).inputs
    whole = ours.logits(inputs)
    decoder = ours.decoder(len(inputs), config.seq_len)
    found = [decoder.prefill(inputs[:, :prefilled])]
    found += [decoder.step(inputs[:, i]) for i in range(prefilled, config.seq_len)]
    assert decoder.length == config.seq_len
    for position, logits in enumerate(found, start=prefilled - 1):
        np.testing.assert_allclose(logits, whole[:, position], rtol=1e-4, atol=1e-4)


@BOTH
def test_a_rewound_cache_is_as_if_the_rest_had_never_been(config: ModelConfig) -> None:
    ours = engine(config)
    inputs = random_batch(config).inputs
    decoder = ours.decoder(len(inputs), config.seq_len)
    decoder.prefill(inputs[:, :12])
    decoder.rewind(5)
    np.testing.assert_allclose(
        decoder.prefill(inputs[:, 5:9]), ours.logits(inputs)[:, 8], rtol=1e-4, atol=1e-4
    )


@BOTH
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_state_survives_a_passage_bit_for_bit(config: ModelConfig, optimizer: str) -> None:
    settings = dataclasses.replace(SETTINGS, name=optimizer)
    options = dataclasses.replace(OPTIONS, optimizer=settings, precision="bfloat16")
    first = fresh(config, options)
    second = fresh(config, dataclasses.replace(options, seed=1))
    batches = [random_batch(config, seed=seed) for seed in range(6)]
    for batch in batches[:3]:
        first.train_step([batch], RATES, 0)
    second.load(list(first.state()))
    for batch in batches[3:]:
        left, right = (
            first.train_step([batch], RATES, 0).result(),
            second.train_step([batch], RATES, 0).result(),
        )
        assert left == right
    for (name, left), (same, right) in zip(first.state(), second.state(), strict=True):
        assert name == same
        np.testing.assert_array_equal(left, right, err_msg=name)


@BOTH
def test_the_state_is_a_copy_that_later_steps_do_not_change(config: ModelConfig) -> None:
    ours = engine(config)
    ours.train_step([random_batch(config)], RATES, 0)
    state = list(ours.state())
    before = [array.copy() for _, array in state]
    ours.train_step([random_batch(config, seed=1)], RATES, 1)
    for (name, array), kept in zip(state, before, strict=True):
        np.testing.assert_array_equal(array, kept, err_msg=name)


@pytest.mark.parametrize("entry", ["exp_avg", "exp_avg_sq", "momentum", "optimizer/step"])
def test_a_state_entry_that_is_reset_shows(entry: str) -> None:
    first, second = engine(QWEN3), engine(QWEN3)
    first.train_step([random_batch(QWEN3)], RATES, 0)
    second.load((n, np.zeros_like(a) if n.startswith(entry) else a) for n, a in list(first.state()))
    for one in (first, second):
        one.train_step([random_batch(QWEN3, seed=1)], RATES, 0)
    weights = {p.name for p in parameters(QWEN3)}
    after = dict(second.state())
    assert any(not np.array_equal(a, after[n]) for n, a in first.state() if n in weights)


def test_a_state_that_does_not_fit_is_refused() -> None:
    ours = engine(QWEN3)
    state = dict(ours.state())
    name = "model.norm.weight"
    with pytest.raises(ValueError, match=r"model\.norm\.weight is missing"):
        ours.load((n, a) for n, a in state.items() if n != name)
    with pytest.raises(ValueError, match="is missing"):
        ours.load((n, a) for n, a in state.items() if n != f"exp_avg/{name}")
    with pytest.raises(ValueError, match="twice"):
        ours.load([*state.items(), (name, state[name])])
    with pytest.raises(ValueError, match="not part"):
        ours.load([("other", state[name])])
    with pytest.raises(ValueError, match="float64"):
        ours.load([(name, state[name].astype(np.float64))])
    with pytest.raises(ValueError, match=r"\[32\]"):
        ours.load([(name, state[name][:5])])


@BOTH
def test_a_step_that_is_not_finite_is_refused_and_changes_nothing(config: ModelConfig) -> None:
    ours = engine(config)
    ours.train_step([random_batch(config)], RATES, 0)
    head = "transformer.wte.weight" if config.architecture == "gpt2" else "lm_head.weight"
    poisoned = [
        (n, np.where(np.arange(a.size).reshape(a.shape) == 0, np.nan, a) if n == head else a)
        for n, a in ours.state()
    ]
    ours.load((n, a.astype(np.float32)) for n, a in poisoned)
    before = dict(ours.state())
    result = ours.train_step([random_batch(config, seed=1)], RATES, 0).result()
    assert not result.applied
    for n, a in ours.state():
        np.testing.assert_array_equal(a, before[n], err_msg=n)


@BOTH
def test_a_step_above_a_limit_is_refused_and_one_at_the_limit_is_not(config: ModelConfig) -> None:
    batch = random_batch(config)
    usual = engine(config).train_step([batch], RATES, 0).result()
    for limited, value in (("loss_limit", usual.loss), ("norm_limit", usual.grad_norm)):
        ours = engine(config)
        before = dict(ours.state())
        result = ours.train_step([batch], RATES, 0, **{limited: value * (1 - 1e-6)}).result()
        assert result == dataclasses.replace(usual, applied=False, clipped=False)
        assert result.finite
        for n, a in ours.state():
            np.testing.assert_array_equal(a, before[n], err_msg=n)
        assert ours.train_step([batch], RATES, 0, **{limited: value}).result() == usual


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
        ),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_want_of_memory_is_told_apart(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Each report of a lack of memory becomes `OutOfMemory`; other errors are not converted."""
    ours = engine(QWEN3)

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(ours, "_on_device", fails)
    with pytest.raises(OutOfMemory):
        ours.train_step([random_batch(QWEN3)], RATES, 0)
    with pytest.raises(OutOfMemory):
        ours.loss(random_batch(QWEN3))
    error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes"):
        ours.train_step([random_batch(QWEN3)], RATES, 0)


@BOTH
def test_checkpointed_gradients_are_the_same(config: ModelConfig) -> None:
    batch = random_batch(config)
    plain = dict(engine(config).gradients([batch]))
    for name, gradient in engine(config, gradient_checkpointing=True).gradients([batch]):
        np.testing.assert_array_equal(gradient, plain[name], err_msg=name)


@BOTH
def test_bfloat16_computes_over_float32_masters(config: ModelConfig) -> None:
    ours = engine(config, precision="bfloat16")
    ours.train_step([random_batch(config)], RATES, 0)
    assert {array.dtype for _, array in ours.state()} == {np.dtype(np.float32)}
    masters = dict(ours.state())[
        "transformer.ln_f.weight" if config.architecture == "gpt2" else "model.norm.weight"
    ]
    assert not np.array_equal(masters, masters.astype(np.float16).astype(np.float32))
