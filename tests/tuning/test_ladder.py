"""Lengths at which trials are compared, and their cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homespun.config import TuneConfig
from homespun.tuning.ladder import best, ladder


def test_twenty_trials_cost_less_than_six_runs() -> None:
    rungs = ladder(300 * 2048, 4096, TuneConfig.reduction, TuneConfig.rungs)
    cost = rungs.cost(TuneConfig.trials - 1, 1 + TuneConfig.spread_runs)
    assert cost <= 6 * rungs.total


@given(
    st.integers(1, 4000),
    st.sampled_from([1, 2, 4]),
    st.integers(2, 5),
    st.integers(1, 4),
)
def test_rungs_rise_and_trials_see_equal_numbers_of_tokens(
    steps: int, smaller: int, reduction: int, n: int
) -> None:
    largest = 4096
    rungs = ladder(steps * 2048, largest, reduction, n)
    assert 1 <= len(rungs.tokens) <= n
    assert list(rungs.tokens) == sorted(set(rungs.tokens))
    assert abs(rungs.total - steps * 2048) <= largest
    of_trial = rungs.steps(largest // smaller)
    assert [step * (largest // smaller) for step in of_trial] == list(rungs.tokens)
    assert all(step % of_trial[0] == 0 for step in of_trial[:-1])


def test_steps_that_do_not_divide_come_close() -> None:
    rungs = ladder(16 * 3 * 100, 300, 4, 3)
    steps = rungs.steps(7 * 16)
    assert steps == sorted(set(steps))
    assert abs(steps[-1] * 7 * 16 - rungs.total) <= 7 * 16


def test_one_rung_is_a_whole_run() -> None:
    rungs = ladder(1000, 10, 4, 1)
    assert (rungs.tokens, rungs.prunes) == ((1000,), False)
    assert rungs.cost(8, 3) == 11_000


@pytest.mark.parametrize(
    ("challengers", "counts"), [(19, [19, 5, 1]), (1, [1, 1, 1]), (4, [4, 1, 1])]
)
def test_some_go_on(challengers: int, counts: list[int]) -> None:
    assert ladder(160_000, 10, 4, 3).counts(challengers) == counts


def test_the_best_are_those_with_the_lowest_loss() -> None:
    assert best({1: 2.0, 2: 1.0, 3: 1.0, 4: 3.0}, 3) == [2, 3, 1]
