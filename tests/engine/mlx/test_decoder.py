"""Sequences of different length in one batch, copies of a sequence, and weights that are cast once."""

import dataclasses
from typing import Any

import numpy as np
import numpy.testing as npt
import pytest

from homespun.config import ModelConfig
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.mlx.engine import MlxEngine
from tests.reference import GPT2, LLAMA, QWEN3, QWEN3_MOE, random_batch, random_weights

CONFIGS = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "qwen3_moe": QWEN3_MOE,
    "qwen3": QWEN3,
    "qwen3 tied": dataclasses.replace(QWEN3, tie_embeddings=True),
}
EACH = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
ADAMW = OptimizerSettings("adamw", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
LENGTHS = (3, 9, 1, 6)


def engine(config: ModelConfig, **options: Any) -> MlxEngine:
    made = MlxEngine(config, EngineOptions(**{"precision": "float32"} | options))
    made.load(random_weights(config).items())
    return made


def close(ours: Any, theirs: Any) -> None:
    npt.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@EACH
def test_rows_of_different_length_are_as_each_row_alone(config: ModelConfig) -> None:
    ours = engine(config)
    inputs = random_batch(config, rows=4).inputs
    padded = inputs[:, :10].copy()
    for row, length in enumerate(LENGTHS):
        padded[row, length:] = -1  # not a valid id
    together = ours.decoder(4, config.seq_len)
    found = [together.prefill(padded, LENGTHS)]
    found += [together.step(inputs[:, 10 + i]) for i in range(3)]
    found += [together.prefill(inputs[:, 13:16])]
    assert together.length == max(LENGTHS) + 6
    together.rewind(5)
    assert together.length == 5
    found += [together.step(inputs[:, 16 + i]) for i in range(2)]
    for row, length in enumerate(LENGTHS):
        alone, tokens = ours.decoder(1, config.seq_len), inputs[row : row + 1]
        expected = [alone.prefill(tokens[:, :length])]
        expected += [alone.step(tokens[:, 10 + i]) for i in range(3)]
        expected += [alone.prefill(tokens[:, 13:16])]
        alone.rewind(5)
        expected += [alone.step(tokens[:, 16 + i]) for i in range(2)]
        for logits, reference in zip(found, expected, strict=True):
            close(logits[row], reference[0])


@EACH
def test_a_cached_model_gives_the_logits_of_the_whole_text(config: ModelConfig) -> None:
    ours, inputs = engine(config), random_batch(config).inputs
    whole = ours.logits(inputs)
    decoder = ours.decoder(len(inputs), config.seq_len)
    close(decoder.prefill(inputs[:, :7]), whole[:, 6])
    close(decoder.prefill(inputs[:, 7:10]), whole[:, 9])
    for i in range(10, config.seq_len):
        close(decoder.step(inputs[:, i]), whole[:, i])


def test_equal_lengths_are_no_lengths_bit_for_bit() -> None:
    ours, inputs = engine(QWEN3), random_batch(QWEN3).inputs
    plain, given, padded = (ours.decoder(3, 24) for _ in range(3))
    expected = plain.prefill(inputs[:, :6])
    npt.assert_array_equal(given.prefill(inputs[:, :6], [6, 6, 6]), expected)
    npt.assert_array_equal(padded.prefill(inputs[:, :8], [6, 6, 6]), expected)
    for decoder in (given, padded):
        assert decoder.length == 6
    expected = plain.step(inputs[:, 6])
    npt.assert_array_equal(given.step(inputs[:, 6]), expected)
    npt.assert_array_equal(padded.step(inputs[:, 6]), expected)


@EACH
def test_a_repeated_sequence_is_so_many_copies(config: ModelConfig) -> None:
    ours, inputs = engine(config), random_batch(config).inputs
    one = ours.decoder(1, config.seq_len)
    one.prefill(inputs[:1, :5])
    copies = one.repeated(3)
    assert copies.length == 5
    whole = ours.decoder(3, config.seq_len)
    whole.prefill(np.repeat(inputs[:1, :5], 3, axis=0))
    for i in range(5, 9):  # the copies differ from here on
        close(copies.step(inputs[:, i]), whole.step(inputs[:, i]))
    assert one.length == 5
    alone = ours.decoder(1, config.seq_len)
    alone.prefill(inputs[:1, :5])
    npt.assert_array_equal(one.step(inputs[:1, 5]), alone.step(inputs[:1, 5]))


def test_what_does_not_fit_is_refused() -> None:
    ours, inputs = engine(QWEN3), random_batch(QWEN3).inputs
    with pytest.raises(ValueError, match="25 positions"):
        ours.decoder(1, 25)
    decoder = ours.decoder(3, 8)
    with pytest.raises(ValueError, match="lengths"):
        decoder.prefill(inputs[:, :4], [1, 2])
    with pytest.raises(ValueError, match="lengths"):
        decoder.prefill(inputs[:, :4], [1, 2, 5])
    with pytest.raises(ValueError, match="lengths"):
        decoder.prefill(inputs[:, :4], [1, 2, 0])
    decoder.prefill(inputs[:, :4], [1, 2, 4])
    with pytest.raises(ValueError, match="empty cache"):
        decoder.prefill(inputs[:, :2], [1, 2, 2])
    with pytest.raises(ValueError, match="only one"):
        decoder.repeated(2)
    decoder.prefill(inputs[:, :4])
    with pytest.raises(ValueError, match="do not fit"):
        decoder.step(inputs[:, 0])


def test_weights_are_cast_once_until_they_change() -> None:
    ours = engine(QWEN3, precision="bfloat16", optimizer=ADAMW)
    inputs = random_batch(QWEN3).inputs
    first, second = ours.decoder(3, 24), ours.decoder(3, 24)
    assert first.model is second.model
    before = first.prefill(inputs)
    ours.train_step([random_batch(QWEN3)], {"adamw": 1e-2}, 0).result()
    trained = ours.decoder(3, 24).prefill(inputs)
    assert not np.array_equal(trained, before)
    npt.assert_array_equal(second.prefill(inputs), before)  # a decoder keeps its weights
    ours.load(random_weights(QWEN3).items())
    npt.assert_array_equal(ours.decoder(3, 24).prefill(inputs), before)
