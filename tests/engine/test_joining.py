"""Sequences join and leave a decoder: each gets the logits that it gets alone, in every engine and family."""

from collections.abc import Callable

import numpy as np
import pytest

from homespun.config import ModelConfig
from homespun.data.batch import Tokens
from homespun.engine.base import Decoder, EngineOptions, Floats, Reader
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.numpy.engine import NumpyEngine
from homespun.engine.torch.engine import TorchEngine
from tests.reference import EACH_FAMILY, QWEN3, random_batch, random_weights, relative_error

OPTIONS = EngineOptions(precision="float32", threads=2, seed=None)
ENGINES: dict[str, Callable[[ModelConfig], Reader]] = {
    "numpy": NumpyEngine,
    "torch": lambda config: TorchEngine(config, OPTIONS),
    "mlx": lambda config: MlxEngine(config, OPTIONS),
}
TOLERANCE = 2e-5
EACH_ENGINE = pytest.mark.parametrize("engine", ENGINES)
EACH_CONFIG = pytest.mark.parametrize("config", EACH_FAMILY.values(), ids=EACH_FAMILY)


def reader(engine: str, config: ModelConfig) -> Reader:
    made = ENGINES[engine](config)
    made.load(random_weights(config).items())
    return made


def read(model: Reader, tokens: Tokens, max_len: int) -> Decoder:
    """A decoder that has read one sequence, [T]."""
    decoder = model.decoder(1, max_len)
    decoder.prefill(tokens[None])
    return decoder


@EACH_ENGINE
@EACH_CONFIG
def test_sequences_that_join_and_leave_are_as_each_alone(engine: str, config: ModelConfig) -> None:
    """Twelve texts of different length pass through a batch of up to five, which also grows in length."""
    model = reader(engine, config)
    texts = random_batch(config, rows=12).inputs
    rng = np.random.default_rng(1)
    waiting = [(row, int(rng.integers(1, 18))) for row in range(12)]
    batch: Decoder | None = None
    rows: list[list[int]] = []  # the text of each row, and how much of it has been read
    seen = 0
    while waiting or rows:
        while waiting and len(rows) < 5:
            row, length = waiting.pop(0)
            own = read(model, texts[row, :length], max_len=min(24, 2 * length + 6))
            if batch is None:
                batch = own
            else:
                batch.join(own)
            rows.append([row, length])
        assert batch is not None
        assert batch.length == max(length for _, length in rows)
        logits = batch.step(np.array([texts[row, length] for row, length in rows], np.int32))
        for i, (row, length) in enumerate(rows):
            assert relative_error(logits[i], expected(model, texts[row, : length + 1])) < TOLERANCE
            rows[i][1] += 1
            seen += 1
        leaving = int(rng.integers(len(rows)))
        for i in {leaving, *(i for i, (row, n) in enumerate(rows) if n > row % 5 + 18)}:
            rows[i][0] = -1
        for i in reversed(range(len(rows))):
            if rows[i][0] < 0:
                last = rows.pop()
                if not rows:
                    batch = None
                    break
                batch.drop(i)
                if i < len(rows):
                    rows[i] = last
    assert seen > 20


def expected(model: Reader, tokens: Tokens) -> Floats:
    """The logits after a whole text, without a cache: [V]."""
    return model.logits(tokens[None])[0, -1]


@EACH_ENGINE
def test_the_decoder_that_joined_goes_on_by_itself(engine: str) -> None:
    model = reader(engine, QWEN3)
    texts = random_batch(QWEN3).inputs
    first, second = read(model, texts[0, :6], 12), read(model, texts[1, :4], 24)
    first.join(second)
    for n in range(4, 8):
        both = first.step(np.array([texts[2, n], texts[1, n]], np.int32))
        alone = second.step(texts[1, n : n + 1])
        assert relative_error(both[1], alone[0]) < TOLERANCE
    first.join(second)
    assert first.length == 10
    third = first.step(np.array([1, 2, 3], np.int32))[2]
    assert relative_error(third, second.step(np.array([3], np.int32))[0]) < TOLERANCE


@EACH_ENGINE
def test_only_one_sequence_joins_and_the_last_one_stays(engine: str) -> None:
    model = reader(engine, QWEN3)
    one, two = model.decoder(1, 8), model.decoder(2, 8)
    with pytest.raises(ValueError, match="only one sequence can join, not 2"):
        one.join(two)
    with pytest.raises(ValueError, match="the only sequence cannot be dropped"):
        one.drop(0)
