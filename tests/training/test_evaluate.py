"""The numbers of an evaluation, with a fake engine of known loss."""

import math
from typing import Any

import numpy as np
import pytest

from homespun.data.batch import IGNORED, Batch
from homespun.records.events import perplexity
from homespun.training.evaluate import Evaluator


class Half:
    """A fake engine that gives every target a probability of one half."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def loss(self, batch: Batch) -> tuple[float, int]:
        valid = batch.targets[batch.targets != IGNORED]
        self.seen += valid.tolist()
        return math.log(2) * len(valid), len(valid)


def evaluator(n_tokens: int, **settings: Any) -> Evaluator:
    byte_lengths = np.array([0, *[4] * 5000], dtype=np.int32)
    settings = {"seq_len": 10, "batch_size": 3, "max_tokens": 1000, **settings}
    return Evaluator(np.arange(n_tokens), byte_lengths, **settings)


def test_loss_perplexity_and_bits_per_byte() -> None:
    engine = Half()
    result = evaluator(101)(engine)  # type: ignore[arg-type]
    assert engine.seen == list(range(1, 101))
    assert result.loss == pytest.approx(math.log(2))
    assert result.bits_per_byte == pytest.approx(1 / 4)


def test_an_end_of_text_mark_is_predicted_but_is_no_byte_of_text() -> None:
    byte_lengths = np.array([0, 3], dtype=np.int32)
    tokens = np.array([0, 1, 1, 0, 1], dtype=np.int32)
    one = Evaluator(tokens, byte_lengths, seq_len=4, batch_size=1, max_tokens=100)
    assert one(Half()).bits_per_byte == pytest.approx(4 / 9)  # type: ignore[arg-type]


def test_only_the_first_tokens_count_and_always_the_same() -> None:
    first, second = Half(), Half()
    evaluate = evaluator(5000, max_tokens=95)
    evaluate(first)  # type: ignore[arg-type]
    evaluate(second)  # type: ignore[arg-type]
    assert first.seen == second.seen == list(range(1, 91))


def test_a_text_shorter_than_a_window_still_counts() -> None:
    engine = Half()
    assert evaluator(5)(engine).loss == pytest.approx(math.log(2))  # type: ignore[arg-type]
    assert engine.seen == [1, 2, 3, 4]


def test_a_hopeless_loss_has_an_infinite_perplexity() -> None:
    assert perplexity(1e4) == math.inf
    assert perplexity(math.nan) != perplexity(math.nan)
