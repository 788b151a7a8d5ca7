"""The numbers of an evaluation, with fake engines of known loss."""

import math
from typing import Any

import numpy as np
import pytest

from homespun.data.batch import IGNORED, Batch
from homespun.evaluation.scoring import Evaluator
from homespun.records.events import perplexity


class Half:
    """A fake engine that gives every target a probability of one half."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.n_before: list[int] = []
        """For each target, the tokens of the window up to it."""

    def loss(self, batch: Batch) -> tuple[float, int]:
        for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
            for place in np.flatnonzero(targets != IGNORED):
                self.seen.append(int(targets[place]))
                self.n_before.append(int(place) + 1)
                assert inputs[place] == targets[place] - 1
        n = batch.n_targets
        return math.log(2) * n, n


def evaluator(n_tokens: int, **settings: Any) -> Evaluator:
    """Of the tokens 0, 1, 2, ..., of four bytes each."""
    byte_lengths = np.full(5001, 4, np.int32)
    settings = {"seq_len": 10, "batch_size": 3, **settings}
    return Evaluator(np.arange(n_tokens), byte_lengths, **settings)


def test_loss_perplexity_and_bits_per_byte() -> None:
    engine = Half()
    result = evaluator(101)(engine)  # type: ignore[arg-type]
    assert engine.seen == list(range(1, 101))
    assert result.loss == pytest.approx(math.log(2))
    assert result.bits_per_byte == pytest.approx(1 / 4)


def test_bits_per_byte_do_not_depend_on_the_tokenizer() -> None:
    """One token of two bytes says as much as two tokens of one byte, each of half its surprise."""
    bytes_of = np.array([0, 1], np.int32), np.array([0, 2], np.int32)
    tokens = np.array([0, 1, 1, 1, 1], np.int32), np.array([0, 1, 1], np.int32)

    class Surprised(Half):
        bits = 1.0

        def loss(self, batch: Batch) -> tuple[float, int]:
            return self.bits * math.log(2) * batch.n_targets, batch.n_targets

    class TwiceSurprised(Surprised):
        bits = 2.0

    fine, coarse = (
        Evaluator(ids, lengths, seq_len=3, batch_size=2)
        for ids, lengths in zip(tokens, bytes_of, strict=True)
    )
    measured = fine(Surprised()), coarse(TwiceSurprised())  # type: ignore[arg-type]
    assert measured[0].bits_per_byte == pytest.approx(measured[1].bits_per_byte) == 1.0
    assert measured[1].loss == pytest.approx(2 * measured[0].loss)


def test_an_end_of_text_mark_is_predicted_but_is_no_byte_of_text() -> None:
    byte_lengths = np.array([0, 3], dtype=np.int32)
    one = Evaluator(np.array([0, 1, 1, 0, 1]), byte_lengths, seq_len=4, batch_size=1)

    class Bit:
        def loss(self, batch: Batch) -> tuple[float, int]:
            return math.log(2) * batch.n_targets, batch.n_targets

    assert one(Bit()).bits_per_byte == pytest.approx(4 / 9)  # type: ignore[arg-type]


def test_only_the_first_tokens_count_and_always_the_same() -> None:
    first, second = Half(), Half()
    evaluate = evaluator(5000, max_tokens=95)
    evaluate(first)  # type: ignore[arg-type]
    evaluate(second)  # type: ignore[arg-type]
    assert first.seen == second.seen == list(range(1, 96))


@pytest.mark.parametrize("n_tokens", [2, 10, 11, 12, 13, 20, 21, 57])
@pytest.mark.parametrize("stride", [1, 3, 5, 9, 10])
def test_each_token_is_scored_once_with_enough_before_it(stride: int, n_tokens: int) -> None:
    engine = Half()
    result = evaluator(n_tokens, stride=stride)(engine)  # type: ignore[arg-type]
    assert engine.seen == list(range(1, n_tokens))
    assert result.loss == pytest.approx(math.log(2))
    for token, n_before in zip(engine.seen, engine.n_before, strict=True):
        assert min(token, 10 - stride + 1) <= n_before <= 10


def test_a_stride_of_a_window_is_no_sliding() -> None:
    for plain, sliding in zip(
        evaluator(57).batches(), evaluator(57, stride=10).batches(), strict=True
    ):
        np.testing.assert_array_equal(plain.inputs, sliding.inputs)
        np.testing.assert_array_equal(plain.targets, sliding.targets)


def test_progress_counts_the_tokens() -> None:
    done: list[int] = []
    evaluator(57, stride=5)(Half(), done.append)  # type: ignore[arg-type]
    assert len(done) > 1
    assert sum(done) == 56


def test_a_text_shorter_than_a_window_still_counts() -> None:
    engine = Half()
    assert evaluator(5)(engine).loss == pytest.approx(math.log(2))  # type: ignore[arg-type]
    assert engine.seen == [1, 2, 3, 4]


def test_a_hopeless_loss_has_an_infinite_perplexity() -> None:
    assert perplexity(1e4) == math.inf
    assert perplexity(math.nan) != perplexity(math.nan)
