"""The tokens of each sample: shuffled by a permutation, computed for any sample number, with none left out."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from homespun.data.samples import Batches, TextDataset, permuted
from homespun.errors import UserError


def test_a_dataset_is_the_one_of_the_guide() -> None:
    dataset = TextDataset(list(range(21)), seq_len=5)
    assert len(dataset) == 4
    inputs, targets = dataset[1]
    assert inputs.tolist() == [5, 6, 7, 8, 9]
    assert targets.tolist() == [6, 7, 8, 9, 10]
    assert [t for _, targets in dataset for t in targets] == list(range(1, 21))  # type: ignore[attr-defined]


def test_too_short_a_text_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="5 tokens, too few for one sample of --seq-len 5"):
        TextDataset(list(range(5)), seq_len=5)


@settings(derandomize=True, deadline=None)
@given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_an_order_holds_every_index_once(n: int, key: int) -> None:
    order = permuted(np.arange(n, dtype=np.uint64), n, np.uint64(key))
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_orders_differ_between_passes_and_seeds_and_are_not_sorted() -> None:
    dataset = TextDataset(np.zeros(10_001, dtype=np.int32), seq_len=10)

    def order(seed: int, epoch: int) -> list[int]:
        return [start // 10 for start in Batches(dataset, seed).starts(epoch * 1000, 1000)]

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    for one in orders:
        assert sorted(one) == list(range(1000))
        moved = np.array(one) - np.arange(1000)
        assert np.abs(moved).mean() > 250
        assert abs(np.corrcoef(one, np.arange(1000))[0, 1]) < 0.1
    assert len({tuple(one) for one in orders}) == 3


def test_no_tail_of_the_text_is_lost_for_good() -> None:
    dataset = TextDataset(np.arange(58), seq_len=10)
    batches = Batches(dataset, seed=0)
    seen = {
        t for epoch in range(20) for t in batches.batch(epoch * 5, 5).targets.flatten().tolist()
    }
    assert seen == set(range(58))


@pytest.mark.parametrize("position", [0, 3, 97, 12_345])
def test_any_position_is_reached_at_once_and_division_changes_no_order(position: int) -> None:
    dataset = TextDataset(np.arange(1013), seq_len=10)
    whole = Batches(dataset, seed=5).batch(position, 24)
    for batch_size in (1, 2, 8, 24):
        parts = Batches(dataset, seed=5).microbatches(position, batch_size, 24 // batch_size)
        np.testing.assert_array_equal(np.concatenate([p.inputs for p in parts]), whole.inputs)
        np.testing.assert_array_equal(np.concatenate([p.targets for p in parts]), whole.targets)
    one_by_one = [Batches(dataset, seed=5).starts(position + i, 1)[0] for i in range(24)]
    assert one_by_one == Batches(dataset, seed=5).starts(position, 24)


def test_targets_follow_inputs_by_one_everywhere() -> None:
    batch = Batches(TextDataset(np.arange(503), seq_len=7), seed=1).batch(60, 40)
    np.testing.assert_array_equal((batch.inputs + 1) % 503, batch.targets)


@settings(derandomize=True, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    seq_len=st.integers(1, 30),
    seed=st.integers(0, 2**32),
)
def test_samples_begin_with_a_document_or_deep_inside_one(
    lengths: list[int], seq_len: int, seed: int
) -> None:
    ends = np.cumsum(lengths)
    assume(ends[-1] > seq_len)
    document_starts = ends - lengths
    dataset = TextDataset(np.arange(ends[-1]), seq_len, document_starts)
    starts = Batches(dataset, seed).starts(0, len(dataset))
    assert len(set(starts)) == len(starts)
    for start in starts:
        begin = document_starts[document_starts <= start][-1]
        assert start == begin or start - begin >= seq_len


def test_every_short_document_and_every_part_of_a_long_one_has_its_turn() -> None:
    lengths = [7, 3, 95, 10, 1, 4, 33]
    ends = np.cumsum(lengths)
    dataset = TextDataset(np.arange(ends[-1]), seq_len=10, document_starts=ends - lengths)
    batches = Batches(dataset, seed=0)
    n = len(dataset)
    passes = 60
    assert set(ends - lengths) <= set(batches.starts(0, passes * n))
    seen = {t for i in range(passes) for t in batches.batch(i * n, n).targets.flatten().tolist()}
    assert seen == set(range(ends[-1]))
