"""PyTorch and MLX with 8 bits a weight: near float32, the same with and without a cache, alone and in a batch."""

from typing import Any

import numpy as np
import pytest

from homespun.config import ModelConfig
from homespun.engine import select
from homespun.engine.base import EngineOptions, Floats, Reader
from homespun.engine.numpy.engine import NumpyEngine
from tests.reference import EACH_FAMILY, random_batch, random_weights, relative_error

FARTHEST = {"gpt2": 0.04, "qwen3": 0.05, "llama": 0.05, "qwen3_moe": 0.1}
"""Of the logits, from those in float32; rounding changes which experts some tokens get."""
ROUNDING = {"gpt2": 0.05, "qwen3": 0.05, "llama": 0.05, "qwen3_moe": 0.2}
"""Of a computation in bfloat16, from another one of the same numbers; it, too, changes experts."""

pytestmark = [
    pytest.mark.parametrize("name", select.available()),
    pytest.mark.parametrize("family", EACH_FAMILY),
]


def reader(name: Any, config: ModelConfig) -> Reader:
    options = EngineOptions(eight_bits=True, precision="bfloat16", threads=2, seed=None)
    made = select.create(config, options, name=name)
    made.load(random_weights(config).items())
    return made


def steps(reader: Reader, tokens: Any, lengths: list[int], n: int) -> Floats:
    """The logits after the first `lengths` tokens of each row and after each of `n` more, [B, 1 + n, V]."""
    decoder = reader.decoder(len(tokens), tokens.shape[1])
    found = [decoder.prefill(tokens[:, : max(lengths)], lengths)]
    for step in range(n):
        found.append(
            decoder.step(
                np.array([row[at + step] for row, at in zip(tokens, lengths, strict=True)])
            )
        )
    return np.stack(found, axis=1)


def test_logits_are_near_those_in_float32(name: Any, family: str) -> None:
    config = EACH_FAMILY[family]
    batch = random_batch(config)
    exact = NumpyEngine(config)
    exact.load(random_weights(config).items())
    ours = reader(name, config)
    assert (
        1e-3
        < relative_error(ours.logits(batch.inputs), exact.logits(batch.inputs))
        < FARTHEST[family]
    )
    assert ours.loss(batch)[0] == pytest.approx(exact.loss(batch)[0], rel=0.03)


def test_a_cached_model_gives_the_logits_of_the_whole_text(name: Any, family: str) -> None:
    config = EACH_FAMILY[family]
    ours, inputs = reader(name, config), random_batch(config).inputs
    whole = ours.logits(inputs)
    for lengths in ([5, 5, 5], [5, 2, 7]):
        found = steps(ours, inputs, lengths, 8)
        for row, at in enumerate(lengths):
            assert relative_error(found[row], whole[row, at - 1 : at + 8]) < ROUNDING[family]
            alone = steps(ours, inputs[row : row + 1], [at], 8)
            assert relative_error(alone[0], found[row]) < ROUNDING[family]


def test_rounded_weights_are_not_given_as_the_weights(name: Any, family: str) -> None:
    ours = reader(name, EACH_FAMILY[family])
    assert ours.rounds_weights
    with pytest.raises(RuntimeError, match="were rounded"):
        next(ours.state())
