"""A model in Python: its insides, logits, losses, texts and files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun
from homespun.checkpoint.archive import write_archive
from homespun.config import SamplingConfig
from homespun.data.batch import Batch
from homespun.engine import select
from homespun.engine.base import EngineOptions, Floats
from homespun.engine.numpy.products import Products
from homespun.errors import UserError
from homespun.generation.batching import Batcher
from homespun.generation.session import Session
from homespun.language_model import LanguageModel
from tests.api.small_run import ids
from tests.reference import random_batch, random_weights, relative_error


def test_the_inside_of_a_model_leads_to_its_logits(model: homespun.LanguageModel) -> None:
    tokens = ids(20)
    inside = model.inspect(tokens)
    assert inside.hidden.shape == (2, 20, 32)
    assert inside.attention.shape == (1, 2, 20, 20)
    lens = model.lens(inside.hidden)
    assert lens.shape == (2, 20, 400)
    assert relative_error(lens[1], model(tokens)) < 1e-6
    assert relative_error(lens[0], model(tokens)) > 1e-3
    for wrong in (ids(2, 5), ids(33), np.array([400])):
        with pytest.raises(ValueError, match="tokens"):
            model.inspect(wrong)
    with pytest.raises(ValueError, match="states"):
        model.lens(np.zeros((3, 31)))


def test_an_engine_without_a_look_inside_says_so(folder: Path) -> None:
    model = homespun.load(folder / "checkpoints", engine="torch", precision="float32")
    with pytest.raises(UserError, match='load it with engine="numpy"'):
        model.inspect([0])


def test_logits_and_loss_agree_with_each_other(model: homespun.LanguageModel) -> None:
    tokens = ids(3, 33)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].copy()
    logits = model(inputs)
    assert logits.shape == (3, 32, 400)
    assert logits.dtype == np.float32
    again, loss = model(inputs, targets)
    np.testing.assert_array_equal(logits, again)
    exact = logits.astype(np.float64)
    nats = np.log(np.exp(exact).sum(-1)) - np.take_along_axis(exact, targets[..., None], -1)[..., 0]
    assert loss == pytest.approx(nats.mean(), rel=1e-5)
    # One sequence without a batch dimension, and ignored targets.
    one, one_loss = model(inputs[0], targets[0])
    assert one.shape == (32, 400)
    np.testing.assert_allclose(one, logits[0], atol=1e-5)
    assert one_loss == pytest.approx(nats[0].mean(), rel=1e-5)
    targets[0], targets[2] = -1, -1
    assert model(inputs, targets)[1] == pytest.approx(nats[1].mean(), rel=1e-5)


@pytest.mark.parametrize("engine", ["numpy", "torch", "mlx"])
def test_the_loss_of_a_model_is_the_one_of_training(
    engine: Any, model: homespun.LanguageModel, tmp_path: Path
) -> None:
    """In training no document sees another. The weights are far from initial ones, whose attention does nothing."""
    weights, mark = random_weights(model.config), model.tokenizer.eot_id
    path = tmp_path / "random.npz"
    write_archive(path, weights.items(), model.stored.header)
    loaded = homespun.load(path, engine=engine, precision="float32")
    tokens = random_batch(model.config).inputs
    tokens[:, 7] = tokens[1, 20] = mark
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    options = EngineOptions(precision="float32", document_mark=mark, seed=None)
    training = select.create(model.config, options)
    training.load(weights.items())
    total, n_targets = training.loss(Batch(inputs.copy(), targets.copy()))
    logits, loss = loaded(inputs, targets)
    assert loss == pytest.approx(total / n_targets, rel=1e-5)
    assert relative_error(logits, training.logits(inputs.copy())) < 1e-5


def test_the_stored_loss_is_the_models(model: homespun.LanguageModel, folder: Path) -> None:
    stored = model.stored.header["val_loss"]
    assert abs(stored - np.log(400)) < 0.5
    from homespun.data.corpus import survey

    text = next(iter(survey(folder / "stories.txt").validation()))
    tokens = np.array([model.tokenizer.eot_id, *model.tokenizer.encode(text)])[:33]
    assert model(tokens[:-1], tokens[1:])[1] == pytest.approx(stored, abs=0.5)


@pytest.mark.parametrize(
    "tokens",
    [
        np.zeros((1, 33), int),
        np.zeros((1, 1, 1), int),
        np.zeros((0, 4), int),
        np.zeros((4, 0), int),
        np.zeros(4),
        np.array([400]),
        np.array([-1]),
        np.array(5),
    ],
    ids=lambda tokens: f"{tokens.dtype}{list(tokens.shape)}",
)
def test_tokens_that_no_model_can_read_are_refused(
    model: homespun.LanguageModel, tokens: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=r"^tokens (are|must be) "):
        model(tokens)


def test_targets_of_another_shape_or_vocabulary_are_refused(model: homespun.LanguageModel) -> None:
    with pytest.raises(ValueError, match="give both the same shape"):
        model(ids(2, 8), ids(2, 7))
    for wrong in (400, -2):
        with pytest.raises(ValueError, match="targets must be"):
            model(ids(8), np.full(8, wrong))
    with pytest.raises(ValueError, match="targets must be"):
        model(ids(8), np.full(8, 0.5))


def test_generation_is_seeded_and_streams_what_it_returns(model: homespun.LanguageModel) -> None:
    settings: dict[str, Any] = {"max_tokens": 20, "seed": 5}
    text = model.generate("Once upon", **settings)
    assert text.startswith("Once upon")
    assert model.generate("Once upon", **settings) == text
    assert "Once upon" + "".join(model.stream("Once upon", **settings)) == text
    assert model.generate("Once upon", max_tokens=20, seed=6) != text
    assert model.generate(**settings)
    greedy = [model.generate("Once", max_tokens=8, temperature=0) for _ in range(2)]
    assert greedy[0] == greedy[1]


def test_prompts_of_unequal_length_are_continued_together(model: homespun.LanguageModel) -> None:
    prompts = ["Once upon a time", None, "The cat"]
    settings: dict[str, Any] = {"max_tokens": 40, "seed": 5}
    together = model.generate_batch(prompts, **settings)
    for prompt, written in zip(prompts, together, strict=True):
        assert [written] == model.continuations(prompt, **settings)


def test_saved_weights_are_the_model(model: homespun.LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "copy.npz"
    model.save_weights(path)
    copy = homespun.load(path, precision="float32")
    assert copy.config == model.config
    assert copy.tokenizer.sha256 == model.tokenizer.sha256
    ours, theirs = dict(model.engine.state()), dict(copy.engine.state())
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name])
    np.testing.assert_array_equal(model(ids(2, 9)), copy(ids(2, 9)))


def test_a_folder_stands_for_its_best_weights(model: homespun.LanguageModel, folder: Path) -> None:
    of_folder = homespun.load(folder / "checkpoints", precision="float32")
    np.testing.assert_array_equal(model(ids(2, 9)), of_folder(ids(2, 9)))


def test_compiled_functions_draw_the_tokens_of_a_batch(
    model: homespun.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Session(model.engine.decoder, model.tokenizer, model.config.seq_len)
    config = SamplingConfig(max_tokens=9, min_p=0.0, seed=4)
    sizes: list[int] = []

    def draw(self: Products, logits: Sequence[Floats], settings: Any) -> Any:
        sizes.append(len(logits))
        return drawn(self, logits, settings)

    drawn = Products.draw
    monkeypatch.setattr(Products, "draw", draw)
    copy = LanguageModel(model.stored, model.engine)
    assert copy.session.generate("Once", config, 5) == plain.generate("Once", config, 5)
    assert max(sizes) == 5
    sizes.clear()
    with Batcher(copy.session) as batcher:
        for _ in batcher.write(copy.session.prompt_ids("Once"), config, n=5):
            pass
    assert max(sizes) > 1
