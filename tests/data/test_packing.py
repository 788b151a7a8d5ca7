"""The layout of a pass: a permutation without a table, and full samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.data.packing import BLOCK, Pass, packed, permuted


@settings(derandomize=True, deadline=None)
@given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_an_order_holds_every_index_once(n: int, key: int) -> None:
    order = permuted(np.arange(n, dtype=np.uint64), n, np.uint64(key))
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_pieces_that_fit_together_exactly_are_not_cut() -> None:
    pieces = [(100 * i, length) for i, length in enumerate([9, 1, 8, 2, 7, 3, 6, 4])]
    samples = packed((1000, 10), pieces, 10)
    assert samples[0] == [(1000, 10)]
    assert sorted(piece for sample in samples[1:] for piece in sample) == pieces


def test_a_long_piece_follows_the_rest_of_a_shorter_one() -> None:
    """The rest is as short as the longest piece allows."""
    pieces = [(100, 9), (200, 6), (300, 5)]
    assert packed((0, 10), pieces, 10) == [
        [(0, 10)],
        [(300, 5), (200, 5)],
        [(205, 1), (100, 9)],
    ]


@pytest.mark.parametrize("n_samples", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_blocks_divide_the_packed_samples(n_samples: int) -> None:
    starts = np.arange(0, 8 * n_samples, 4)
    layout = Pass(starts, 8 * n_samples, 8, 21 % (8 * n_samples), np.uint64(3))
    samples = [layout.sample(i) for i in range(layout.n)]
    used = sorted(p for sample in samples for start, n in sample for p in range(start, start + n))
    assert used == list(range(8 * n_samples))
