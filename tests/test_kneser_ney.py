"""The n-gram model of the benchmarks: values computed by hand, and probabilities that sum to one."""

import math
from collections import Counter
from itertools import product

import pytest

from benchmarks.kneser_ney import FALLBACK, KneserNey, estimated

MARK, A, B = 0, 1, 2


def test_values_computed_by_hand() -> None:
    model = KneserNey([[A, B], [A]], order=2, vocab_size=3, mark=MARK, discounts=(0.5, 1, 1.5))
    # One symbol stands before a, one before b, two before the mark; half of the mass is left to the uniform third.
    p_a, p_b, p_mark = 0.5 / 4 + 0.5 / 3, 0.5 / 4 + 0.5 / 3, 1 / 4 + 0.5 / 3
    assert [model.probability((), symbol) for symbol in (A, B, MARK)] == pytest.approx(
        [p_a, p_b, p_mark]
    )
    # The mark is followed by a twice, a by b and by the mark once each, b by the mark once.
    assert model.probability((MARK,), A) == pytest.approx((2 - 1) / 2 + 1 / 2 * p_a)
    assert model.probability((A,), B) == pytest.approx((1 - 0.5) / 2 + (0.5 + 0.5) / 2 * p_b)
    assert model.probability((A,), A) == pytest.approx(0.5 * p_a)
    end = model.probability((B,), MARK)
    assert end == pytest.approx(0.5 + 0.5 * p_mark)
    expected = (0.5 + 0.5 * p_a) * (0.25 + 0.5 * p_b) * end
    assert model.nats([A, B]) == pytest.approx(-math.log(expected))


def test_discounts_follow_from_counts_of_counts() -> None:
    # Six n-grams occur once, three twice, two three times, one four times: y = 6 / (6 + 2 * 3).
    once = {(n,): Counter([A]) for n in range(6)}
    more = {(n,): Counter({A: times}) for n, times in enumerate((2, 2, 2, 3, 3, 4), start=6)}
    expected = (1 - 2 * 0.5 * 3 / 6, 2 - 3 * 0.5 * 2 / 3, 3 - 4 * 0.5 * 1 / 2)
    assert estimated(once | more) == pytest.approx(expected)
    assert estimated(once) == FALLBACK


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_sum_to_one_after_any_context(order: int) -> None:
    texts = [[A, B, A, A, B], [B, B, A], [A], [], [A, B, A, B, 3]]
    model = KneserNey(texts, order=order, vocab_size=5, mark=MARK)
    for length in range(order):
        for context in product(range(5), repeat=length):
            total = sum(model.probability(context, symbol) for symbol in range(5))
            assert total == pytest.approx(1)


def test_a_longer_context_predicts_a_regular_text_better() -> None:
    text = [A, A, B] * 30
    surprise = [
        KneserNey([text], order=order, vocab_size=3, mark=MARK).nats(text) for order in (1, 2, 3)
    ]
    assert surprise == sorted(surprise, reverse=True)
