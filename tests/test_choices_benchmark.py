"""The benchmark of choices: rank correlation by hand, and the order of checkpoints."""

from pathlib import Path

import pytest

from benchmarks.choices import ranks, spearman, step


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert ranks([3, 1, 3, 0]) == [2.5, 1, 2.5, 0]


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3], [10, 20, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # Without ties it is 1 - 6 sum(d^2) / (n (n^2 - 1)), with rank differences d of 1, 1, 0 and 0.
    assert spearman([1, 2, 3, 4], [2, 1, 3, 4]) == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_a_checkpoint_tells_its_step() -> None:
    assert step(Path("run/checkpoint_step_1068.npz")) == 1068
