"""The training step in single parts: its numbers are those of the engine's own step; a mistake is told in a line."""

import gc
import inspect
import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun
from homespun.config import EngineName
from homespun.data.batch import Batch
from homespun.engine import select
from homespun.planning.resolved import ResolvedConfig
from homespun.stories import stories
from homespun.tokenizer import Tokenizer, train
from homespun.training.schedule import rate_curve
from homespun.training.stages import engine_options
from tests.reference import relative_error

ENGINES = [name for name in select.available() if name != "auto"]
SIZES: list[dict[str, Any]] = [
    {"model_size": "tiny", "n_layers": 1, "d_model": 32, "n_heads": 2},
    {"model_size": "pico", "n_layers": 1, "d_model": 32, "n_heads": 2},
    {"model_size": "nano-moe", "n_layers": 1, "d_model": 32, "n_heads": 2, "experts": 4},
]
PLAIN = SIZES[1]
"""No biases: the gradient of a key's bias is zero but for rounding, which AdamW enlarges."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(stories(200, seed=3), 400)


def new(tokenizer: Tokenizer, engine: EngineName = "torch", **settings: Any) -> Any:
    """A small model."""
    settings = {"seq_len": 16, "precision": "float32", "threads": 1, **SIZES[0], **settings}
    return homespun.new_model(settings.pop("model_size"), tokenizer, engine=engine, **settings)


@pytest.fixture
def model(tokenizer: Tokenizer) -> Any:
    return new(tokenizer)


def batches(n: int, rows: int = 3, width: int = 16) -> list[Batch]:
    """Random tokens; some targets do not count."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(n):
        tokens = rng.integers(0, 400, (rows, width + 1), dtype=np.int32)
        targets = tokens[:, 1:].copy()
        targets[rng.random(targets.shape) < 0.2] = -1
        made.append(Batch(tokens[:, :-1].copy(), targets))
    return made


def weights_by_the_engine(
    tokenizer: Tokenizer,
    model: Any,
    steps: Sequence[Sequence[Batch]],
    rates: Sequence[float],
    **of_run: Any,
) -> dict[str, Any]:
    """The weights after steps of the engine, as `homespun train` takes them: one for each list of micro-batches."""
    config = ResolvedConfig(precision="float32", threads=1, **of_run)
    options = engine_options(config, tokenizer.eot_id, compiled=False)
    engine = select.create(model.config, options, name=of_run["engine"])
    for number, (microbatches, rate) in enumerate(zip(steps, rates, strict=True)):
        assert engine.train_step(microbatches, {"adamw": rate}, number).result().applied
    return {name: array for name, array in engine.state() if name in model.parameters}


def schedule(step: int) -> float:
    return homespun.cosine_schedule(step, max_lr=3e-3, warmup_steps=2, total_steps=6, min_lr=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: size["model_size"])
def test_typed_steps_are_those_of_the_engine(
    tokenizer: Tokenizer, engine: EngineName, size: dict[str, Any]
) -> None:
    model = new(tokenizer, engine, **size)
    optimizer = homespun.AdamW(learning_rate=schedule, betas=(0.9, 0.95), weight_decay=0.1)
    data = batches(6)
    for batch in data:
        _, loss = model(batch.inputs, batch.targets)
        optimizer.update(model, homespun.compute_gradients(loss))
    rates = [schedule(step) for step in range(1, 7)]
    theirs = weights_by_the_engine(
        tokenizer, model, [[b] for b in data], rates, engine=engine, max_grad_norm=1e9
    )
    assert model.steps == optimizer.steps == 6
    for name, weight in model.weights().items():
        assert np.array_equal(weight, theirs[name]), name


@pytest.mark.parametrize("engine", ENGINES)
def test_clipped_steps_are_those_of_the_engine(tokenizer: Tokenizer, engine: EngineName) -> None:
    model, optimizer, data = new(tokenizer, engine, **PLAIN), homespun.AdamW(1e-3), batches(4)
    for batch in data:
        _, loss = model(batch.inputs, batch.targets)
        grads = homespun.compute_gradients(loss)
        norm = math.sqrt(
            sum(np.linalg.norm(grad) ** 2 for grad in grads.values())
        )  # as typed by hand
        assert homespun.gradient_norm(grads) == pytest.approx(norm, rel=1e-5)
        clipped = homespun.clip_gradients(grads, max_norm=norm / 3)
        assert homespun.gradient_norm(clipped) == pytest.approx(norm / 3, rel=1e-5)
        by_hand = {name: grad * (0.1 / norm) for name, grad in grads.items()}
        optimizer.update(model, by_hand)
    theirs = weights_by_the_engine(
        tokenizer, model, [[b] for b in data], [1e-3] * 4, engine=engine, max_grad_norm=0.1
    )
    for name, weight in model.weights().items():
        assert relative_error(weight, theirs[name]) < 1e-5, name


@pytest.mark.parametrize("engine", ENGINES)
def test_accumulated_gradients_are_those_of_one_large_batch(
    tokenizer: Tokenizer, engine: EngineName
) -> None:
    model, optimizer = new(tokenizer, engine, **PLAIN), homespun.AdamW(1e-3)
    steps = [batches(4)[:2], batches(4)[2:]]
    assert steps[0][0].n_targets != steps[0][1].n_targets
    for microbatches in steps:
        for batch in microbatches:
            loss = model(batch.inputs, batch.targets)[1]
            homespun.accumulate_gradients()
        assert loss > 0
        optimizer.step()
        homespun.reset_gradients()
    theirs = weights_by_the_engine(
        tokenizer, model, steps, [1e-3, 1e-3], engine=engine, max_grad_norm=1e9
    )
    for name, weight in model.weights().items():
        assert relative_error(weight, theirs[name]) < 1e-4, name


def test_the_loss_is_a_number_and_that_of_the_model(model: Any) -> None:
    [batch] = batches(1)
    logits, loss = model(batch.inputs, batch.targets)
    assert logits.shape == (3, 16, 400)
    total, count = model.engine.loss(batch)
    assert isinstance(loss, float)
    assert loss == total / count
    assert f"{loss:.3f}" == f"{total / count:.3f}"
    assert loss == pytest.approx(math.log(400), abs=0.2)
    assert np.array_equal(model(batch.inputs), logits)


def test_the_schedule_is_the_formula_and_that_of_a_run() -> None:
    def by_hand(step: int) -> float:
        if step < 100:
            return 3e-4 * step / 100
        progress = (step - 100) / (1000 - 100)
        return 3e-5 + (3e-4 - 3e-5) * 0.5 * (1 + math.cos(math.pi * progress))

    curve = rate_curve(ResolvedConfig(max_steps=1000, warmup_steps=100), {"max_steps": 1000})
    for step in (0, 1, 50, 99, 100, 101, 500, 999, 1000):
        ours = homespun.cosine_schedule(step, max_lr=3e-4, warmup_steps=100, total_steps=1000)
        assert ours == pytest.approx(by_hand(step), rel=1e-12)
        if step:
            assert ours == 3e-4 * curve(step - 1, step / 1000)
    assert homespun.cosine_schedule(1, total_steps=1000) == pytest.approx(3e-4 / 20)
    assert homespun.cosine_schedule(1000, total_steps=1000, min_lr=0.0) == pytest.approx(0.0)
    for setting in ({"total_steps": [9]}, {"warmup_steps": [2]}, {"min_lr": 1.0}):
        with pytest.raises(homespun.UserError, match=r"total-steps|warmup-steps|min-lr is 1\.0"):
            homespun.cosine_schedule(1, **{"total_steps": 9, **setting})  # type: ignore[arg-type]


def test_biases_and_norms_do_not_decay(model: Any) -> None:
    before = model.weights()
    zeros = {name: np.zeros(shape) for name, shape in model.parameters.items()}
    homespun.AdamW(0.1, weight_decay=0.5).update(model, zeros)
    for name, weight in model.weights().items():
        decays = weight.ndim > 1
        assert np.allclose(weight, before[name] * (0.95 if decays else 1.0), rtol=1e-6), name


def test_a_model_generates_and_is_saved_at_any_step(
    model: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    first = model.generate("Once", max_tokens=8, temperature=0)
    [batch] = batches(1)
    optimizer = homespun.AdamW(0.05)
    for _ in range(3):
        loss = model(batch.inputs, batch.targets)[1]
        optimizer.update(model, homespun.compute_gradients(loss))
    then = model.generate("Once", max_tokens=8, temperature=0)
    assert then != first
    model.save_weights(tmp_path / "best_model.npz")
    stored = homespun.load(tmp_path / "best_model.npz")
    assert stored.stored.step == 3
    assert stored(batch.inputs, batch.targets)[1] == pytest.approx(
        model(batch.inputs, batch.targets)[1], rel=1e-4
    )
    again = homespun.new_model(
        init_from=tmp_path / "best_model.npz", precision="float32", threads=1
    )
    for name, weight in again.weights().items():
        assert np.array_equal(weight, model.weights()[name])
    assert again.steps == 3
    assert again.config == model.config


def test_a_new_optimizer_begins_with_moments_of_zero(model: Any) -> None:
    [batch] = batches(1)
    grads = homespun.compute_gradients(model(batch.inputs, batch.targets)[1])
    for _ in range(2):
        homespun.AdamW(1e-3).update(model, grads)
    moments = {n: a for n, a in model.engine.state() if n not in model.parameters}
    assert moments["optimizer/step"] == 1
    for name, grad in grads.items():
        assert np.allclose(moments[f"exp_avg/{name}"], 0.1 * grad, rtol=1e-5)


def test_losses_that_are_kept_do_not_keep_their_batches(model: Any) -> None:
    [batch] = batches(1)
    optimizer, losses = homespun.AdamW(1e-3), []
    for _ in range(2):
        losses.append(model(batch.inputs, batch.targets)[1])
        optimizer.update(model, homespun.compute_gradients(losses[-1]))
    assert [loss.batch for loss in losses] == [None, None]
    for _ in range(3):
        model(batch.inputs, batch.targets)
    assert len(model._losses) == 1


def test_a_model_that_nobody_uses_any_more_frees_its_memory(tokenizer: Tokenizer) -> None:
    model = new(tokenizer)
    [batch] = batches(1)
    model(batch.inputs, batch.targets)
    homespun.accumulate_gradients()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    with pytest.raises(homespun.UserError, match="no model has computed a loss yet"):
        homespun.accumulate_gradients()


Wrong = Callable[[Any, Any, Any], object]
WRONG: dict[str, tuple[Wrong, str]] = {
    "number": (lambda m, o, g: homespun.compute_gradients(2.5), "is not the loss that a model"),  # type: ignore[arg-type]
    "computed": (
        lambda m, o, g: homespun.compute_gradients(m([1], [2])[1] / 2),
        "pass the loss itself",
    ),
    "stale": (
        lambda m, o, g: [loss := m([1], [2])[1], o.update(m, g), homespun.compute_gradients(loss)],
        "the weights have changed since this loss",
    ),
    "missing": (lambda m, o, g: o.update(m, dict(list(g.items())[1:])), "is missing"),
    "unknown": (lambda m, o, g: o.update(m, {**g, "x": 1}), "x is no parameter of this model"),
    "shape": (lambda m, o, g: o.update(m, {n: a[:1] for n, a in g.items()}), "and the parameter"),
    "nan": (lambda m, o, g: o.update(m, {n: a * np.nan for n, a in g.items()}), "is not finite"),
    "list": (lambda m, o, g: o.update(m, [1]), "a dictionary of arrays by name is expected"),
    "turned around": (lambda m, o, g: o.update(g, m), "homespun.new_model makes a model that can"),
    "nothing accumulated": (
        lambda m, o, g: [m([1], [2]), homespun.reset_gradients(), o.step()],
        "call accumulate_gradients",
    ),
    "not reset": (
        lambda m, o, g: [
            m([1], [2]), homespun.accumulate_gradients(), o.step(), m([1], [2]),
            homespun.accumulate_gradients(),
        ],
        "call reset_gradients",
    ),
    "betas": (lambda m, o, g: homespun.AdamW(betas=0.9), "two numbers are expected"),  # type: ignore[arg-type]
    "beta": (lambda m, o, g: homespun.AdamW(betas=(0.9, 1.0)), "betas is 1.0: it must be below 1"),
    "rate": (lambda m, o, g: homespun.AdamW(learning_rate=-1.0), "learning-rate is -1.0"),
    "rate of a function": (
        lambda m, o, g: homespun.AdamW(learning_rate=lambda step: math.nan).update(m, g),
        "learning-rate is nan",
    ),
    "norm": (lambda m, o, g: homespun.clip_gradients(g, max_norm=0.0), "max-norm is 0.0"),
    "size": (lambda m, o, g: homespun.new_model("huge", m.tokenizer), "'huge' is unknown"),
    "no size": (lambda m, o, g: homespun.new_model(tokenizer=m.tokenizer), "needs a model_size"),
    "vocabulary": (
        lambda m, o, g: homespun.new_model("pico", m.tokenizer, vocab_size=8000),
        "the tokenizer has 400 tokens",
    ),
    "setting": (lambda m, o, g: homespun.new_model("pico", m.tokenizer, layers=2), "unknown setting"),
    "length": (
        lambda m, o, g: homespun.new_model(init_from="x.npz", seq_len=64),
        "leave model_size, tokenizer, seq_len",
    ),
    "both": (lambda m, o, g: homespun.new_model("pico", init_from="x.npz"), "own shape"),
    "no tokenizer": (lambda m, o, g: homespun.new_model("pico"), "there is no tokenizer yet"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_told_in_a_sentence_and_changes_nothing(
    model: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mistake, message = WRONG[name]
    [batch] = batches(1)
    grads = homespun.compute_gradients(model(batch.inputs, batch.targets)[1])
    optimizer = homespun.AdamW(1e-3)
    before = model.weights()
    with pytest.raises(homespun.UserError) as caught:
        mistake(model, optimizer, grads)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    if name not in ("stale", "not reset"):  # which update before
        assert all(np.array_equal(w, before[n]) for n, w in model.weights().items())


def test_an_optimizer_belongs_to_one_model(model: Any, tokenizer: Tokenizer) -> None:
    [batch] = batches(1)
    grads = homespun.compute_gradients(model(batch.inputs, batch.targets)[1])
    optimizer, other = homespun.AdamW(1e-3), new(tokenizer)
    optimizer.update(model, grads)
    with pytest.raises(homespun.UserError, match="make a new AdamW"):
        optimizer.update(other, grads)


def test_a_notebook_completes_the_settings_of_a_new_model(model: Any) -> None:
    names = inspect.signature(homespun.new_model).parameters
    assert {"model_size", "tokenizer", "init_from", "seed", "n_layers", "experts"} <= names.keys()
    assert repr(model).startswith("<TrainableModel tiny: gpt2, 1 layer x 32, ")
    assert repr(homespun.AdamW()) == (
        "AdamW(learning_rate=0.0003, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-08)"
    )


def test_a_step_is_taken_by_the_model_of_the_optimizer(model: Any, tokenizer: Tokenizer) -> None:
    optimizer, other = homespun.AdamW(1e-3), new(tokenizer)
    for batch in batches(2):
        homespun.reset_gradients(model)
        _, loss = model(batch.inputs, batch.targets)
        homespun.accumulate_gradients(loss)
        if optimizer.steps:
            other(batch.inputs, batch.targets)
        optimizer.step()
    assert (model.steps, other.steps) == (2, 0)
