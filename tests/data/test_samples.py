"""The tokens of each sample: in an order that follows from the sample number, each token equally often."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.data.samples import Batches, TextDataset, permuted
from homespun.errors import UserError

Positions = npt.NDArray[np.int64]


def test_a_dataset_is_the_one_of_the_guide() -> None:
    dataset = TextDataset(list(range(21)), seq_len=5)
    assert len(dataset) == 4
    inputs, targets = dataset[1]
    assert inputs.tolist() == [5, 6, 7, 8, 9]
    assert targets.tolist() == [6, 7, 8, 9, 10]
    assert [t for _, targets in dataset for t in targets] == list(range(1, 21))  # type: ignore[attr-defined]


def test_the_targets_of_a_dataset_stay_inside_its_text() -> None:
    dataset = TextDataset(list(range(20)), seq_len=5)
    assert len(dataset) == 3
    assert dataset[-1][1].tolist() == [11, 12, 13, 14, 15]


def test_too_short_a_text_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="5 tokens, too few for one sample of --seq-len 5"):
        TextDataset(list(range(5)), seq_len=5)


SEQ_LEN = 40


def dataset_of(n_tokens: int, seq_len: int = SEQ_LEN) -> TextDataset:
    """A text in which each token is its own position."""
    return TextDataset(np.arange(n_tokens), seq_len)


def targets_of(dataset: TextDataset, number: int, seed: int = 0) -> Positions:
    """The targets of a pass, in order."""
    n = dataset.samples_per_pass
    return Batches(dataset, seed).batch(number * n, n).targets.flatten().astype(np.int64)


@settings(derandomize=True, deadline=None)
@given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_an_order_holds_every_index_once(n: int, key: int) -> None:
    order = permuted(np.arange(n, dtype=np.uint64), n, np.uint64(key))
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize(
    "n_tokens", [1234, 10 * SEQ_LEN, SEQ_LEN + 1, 2 * SEQ_LEN - 1, 4 * SEQ_LEN + 39]
)
def test_each_token_is_a_target_equally_often(n_tokens: int) -> None:
    dataset = dataset_of(n_tokens)
    n_left_out = n_tokens % SEQ_LEN
    times = np.zeros(n_tokens, dtype=np.int64)
    passes = 40
    for number in range(passes):
        inside = np.bincount(targets_of(dataset, number), minlength=n_tokens)
        assert inside.max() == 1
        assert np.count_nonzero(inside == 0) == n_left_out < SEQ_LEN
        times += inside
    assert times.max() - times.min() <= 3


def test_passes_and_seeds_differ_and_are_not_sorted() -> None:
    for dataset in (dataset_of(10_001, 10), dataset_of(12_345, 7)):
        orders = [targets_of(dataset, *which) for which in ((0, 0), (1, 0), (0, 1))]
        for one in orders:
            assert abs(np.corrcoef(one, np.arange(len(one)))[0, 1]) < 0.15
            place = np.empty(len(dataset.token_ids))
            place[one] = np.arange(len(one))
            for other in orders:
                assert other is one or abs(np.corrcoef(place[other], place[one])[0, 1]) < 0.15


@pytest.mark.parametrize("n_tokens", [1234, 10 * SEQ_LEN])
def test_the_text_is_cut_at_other_places_in_each_pass(n_tokens: int) -> None:
    dataset = dataset_of(n_tokens)
    n = dataset.samples_per_pass
    places: dict[int, set[int]] = {}
    for number in range(40):
        inputs = Batches(dataset, 0).batch(number * n, n).inputs
        for token in (41, 59):
            if (found := np.argwhere(inputs == token)).size:
                places.setdefault(token, set()).add(int(found[0, 1]))
    assert all(len(found) > 15 for found in places.values())


def test_one_document_is_read_in_windows() -> None:
    n_tokens = 1013
    dataset = TextDataset(np.arange(n_tokens), seq_len=10)
    inputs = Batches(dataset, seed=0).batch(0, dataset.samples_per_pass).inputs
    np.testing.assert_array_equal(inputs, (inputs[:, :1] + np.arange(10)) % n_tokens)


@pytest.mark.parametrize("position", [0, 3, 97, 12_345])
def test_any_position_is_reached_at_once_and_division_changes_no_order(position: int) -> None:
    dataset = dataset_of(1234)
    whole = Batches(dataset, seed=5).batch(position, 24)
    for batch_size in (1, 2, 8, 24):
        parts = Batches(dataset, seed=5).microbatches(position, batch_size, 24 // batch_size)
        np.testing.assert_array_equal(np.concatenate([p.inputs for p in parts]), whole.inputs)
        np.testing.assert_array_equal(np.concatenate([p.targets for p in parts]), whole.targets)
    one_by_one = [Batches(dataset, seed=5).batch(position + i, 1).inputs[0] for i in range(24)]
    np.testing.assert_array_equal(one_by_one, whole.inputs)
