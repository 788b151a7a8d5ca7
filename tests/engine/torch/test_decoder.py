"""Decoding: sequences of different length, several copies of one prompt, and weights that are prepared once."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from homespun.config import ModelConfig
from homespun.data.batch import Tokens
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.torch.engine import TorchEngine
from homespun.engine.torch.model import DecoderModel
from tests.reference import (
    GPT2,
    LLAMA,
    QWEN3,
    QWEN3_MOE,
    random_batch,
    random_weights,
    relative_error,
)

SETTINGS = OptimizerSettings("adamw", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
RATES = {"adamw": 1e-2}
LENGTHS = [3, 12, 1, 7]
N_STEPS = 6
EACH = pytest.mark.parametrize(
    "config", [GPT2, LLAMA, QWEN3, QWEN3_MOE], ids=lambda config: config.architecture
)

Logits = npt.NDArray[np.float32]


def engine(config: ModelConfig, trains: bool = False, **options: Any) -> TorchEngine:
    chosen = {"precision": "float32", "threads": 2} | options
    made = TorchEngine(config, EngineOptions(SETTINGS if trains else None, **chosen))
    made.load(random_weights(config).items())
    return made


def texts(config: ModelConfig) -> Tokens:
    return random_batch(config, rows=len(LENGTHS)).inputs


def alone(ours: TorchEngine, tokens: Tokens, length: int) -> list[Logits]:
    """Decode one text [T] in a batch of one: the logits [V] after its first `length` tokens, and after each of the next
    `N_STEPS`."""
    decoder = ours.decoder(1, len(tokens))
    found = [decoder.prefill(tokens[None, :length])]
    found += [decoder.step(tokens[i : i + 1]) for i in range(length, length + N_STEPS)]
    return [logits[0] for logits in found]


def next_tokens(tokens: Tokens, step: int) -> Tokens:
    return np.array([row[n + step] for row, n in zip(tokens, LENGTHS, strict=True)])


def assert_same(found: Logits, expected: Logits) -> None:
    assert relative_error(found, expected) < 1e-5
    assert found.argmax() == expected.argmax()


@EACH
def test_rows_of_different_length_are_as_each_by_itself(config: ModelConfig) -> None:
    ours, tokens = engine(config), texts(config)
    decoder = ours.decoder(len(LENGTHS), config.seq_len)
    padded = tokens.copy()
    for row, length in zip(padded, LENGTHS, strict=True):
        row[length:] = -1  # not a valid id
    found = [decoder.prefill(padded, LENGTHS)]
    assert decoder.length == max(LENGTHS)
    found += [decoder.step(next_tokens(tokens, i)) for i in range(N_STEPS)]
    assert decoder.length == max(LENGTHS) + N_STEPS
    for row, length in enumerate(LENGTHS):
        for logits, expected in zip(found, alone(ours, tokens[row], length), strict=True):
            assert_same(logits[row], expected)


@EACH
def test_several_tokens_at_once_follow_rows_of_different_length(config: ModelConfig) -> None:
    ours, tokens = engine(config), texts(config)
    decoder = ours.decoder(len(LENGTHS), config.seq_len)
    decoder.prefill(tokens, LENGTHS)
    following = np.stack([next_tokens(tokens, i) for i in range(N_STEPS)], axis=1)
    found = decoder.prefill(following)
    for row, length in enumerate(LENGTHS):
        assert_same(found[row], alone(ours, tokens[row], length)[-1])


@EACH
def test_rows_of_different_length_can_be_rewound(config: ModelConfig) -> None:
    ours, tokens = engine(config), texts(config)
    decoder = ours.decoder(len(LENGTHS), config.seq_len)
    decoder.prefill(tokens, LENGTHS)
    for length, starts in ((7, [3, 7, 1, 7]), (1, [1, 1, 1, 1])):
        decoder.rewind(length)
        assert decoder.length == length
        found = decoder.step(np.array([row[n] for row, n in zip(tokens, starts, strict=True)]))
        for row, start in enumerate(starts):
            assert_same(found[row], ours.logits(tokens[row : row + 1, : start + 1])[0, -1])
        decoder.rewind(length)


@EACH
def test_rows_of_equal_length_have_the_bits_of_rows_without_padding(config: ModelConfig) -> None:
    ours, tokens = engine(config, precision="bfloat16"), texts(config)
    plain, padded = (ours.decoder(len(LENGTHS), config.seq_len) for _ in range(2))
    np.testing.assert_array_equal(
        padded.prefill(tokens, [9] * len(LENGTHS)), plain.prefill(tokens[:, :9])
    )
    np.testing.assert_array_equal(padded.step(tokens[:, 9]), plain.step(tokens[:, 9]))


@pytest.mark.parametrize("lengths", [[0, 1, 2, 3], [1, 2, 3, 99], [1, 2, 3]])
def test_lengths_that_do_not_fit_are_refused(lengths: list[int]) -> None:
    decoder = engine(QWEN3).decoder(4, 20)
    with pytest.raises(ValueError, match="do not have the lengths"):
        decoder.prefill(texts(QWEN3), lengths)
    decoder.prefill(texts(QWEN3)[:, :20])
    with pytest.raises(ValueError, match="empty cache"):
        decoder.prefill(texts(QWEN3), LENGTHS)
    with pytest.raises(ValueError, match="21 positions do not fit"):
        decoder.step(texts(QWEN3)[:, 0])


@EACH
def test_a_repeated_sequence_is_as_if_each_had_been_read(config: ModelConfig) -> None:
    ours, tokens = engine(config), texts(config)
    one, copies = ours.decoder(1, 20), ours.decoder(3, 20)
    one.prefill(tokens[:1, :9])
    copies.prefill(np.repeat(tokens[:1, :9], 3, axis=0))
    repeated = one.repeated(3)
    assert repeated.length == 9
    for i in range(3):
        found, expected = (d.step(tokens[:3, i]) for d in (repeated, copies))
        for row in range(3):
            assert_same(found[row], expected[row])
    assert one.length == 9
    assert_same(one.step(tokens[:1, 9])[0], ours.logits(tokens[:1, :10])[0, -1])


def test_several_sequences_cannot_be_repeated() -> None:
    with pytest.raises(ValueError, match="only one sequence"):
        engine(QWEN3).decoder(2, 20).repeated(2)


@EACH
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_decoder_keeps_its_weights_when_training_goes_on(
    config: ModelConfig, precision: str
) -> None:
    ours, tokens = engine(config, trains=True, precision=precision), texts(config)
    decoder = ours.decoder(4, 20)
    before = decoder.prefill(tokens[:, :9])
    ours.train_step([random_batch(config)], RATES, 0).result()
    decoder.rewind(0)
    np.testing.assert_array_equal(decoder.prefill(tokens[:, :9]), before)
    assert not np.array_equal(ours.decoder(4, 20).prefill(tokens[:, :9]), before)


@pytest.mark.parametrize("trains", [False, True], ids=["reader", "trainer"])
def test_weights_are_prepared_once_until_they_change(
    trains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = []
    original = DecoderModel.for_decoding

    def for_decoding(self: DecoderModel, *, copy: bool, eight_bits: bool) -> DecoderModel:
        prepared.append(copy)
        return original(self, copy=copy, eight_bits=eight_bits)

    monkeypatch.setattr(DecoderModel, "for_decoding", for_decoding)
    ours = engine(QWEN3, trains=trains)
    ours.decoder(1, 20).prefill(texts(QWEN3)[:1, :20])
    ours.decoder(2, 20)
    assert prepared == [trains]
    changes = [lambda: ours.load(random_weights(QWEN3, seed=1).items())]
    if trains:
        changes.append(lambda: ours.train_step([random_batch(QWEN3)], RATES, 0).result())
    for n, change in enumerate(changes, start=2):
        change()
        assert ours.decoding_model is None
        ours.decoder(1, 20)
        assert len(prepared) == n
