"""The tokens of each sample: in an order that follows from the sample number, each token equally often."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from homespun.data.packing import Positions
from homespun.data.samples import Batches, TextDataset
from homespun.errors import UserError


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


RANDOM = np.random.default_rng(0)
SEQ_LEN = 40
TEXTS = {
    "short documents": RANDOM.integers(2, 25, 120),
    "documents of the size of a sample": RANDOM.integers(15, SEQ_LEN + 1, 60),
    "long documents": RANDOM.integers(60, 300, 12),
    "short and long documents": RANDOM.permutation([*RANDOM.integers(2, 40, 40), 90, 300, 41, 80]),
    "documents of 60% of a sample": np.full(50, 24),
    "documents of one sample": np.full(30, SEQ_LEN),
    "documents of two samples": np.full(20, 2 * SEQ_LEN),
    "one document": np.array([1234]),
    "one document of whole samples": np.array([10 * SEQ_LEN]),
    "one document of hardly more than a sample": np.array([SEQ_LEN + 1]),
    "single tokens": np.full(500, 1),
}
"""Lengths of the documents of some texts."""


def dataset_of(lengths: Positions, seq_len: int = SEQ_LEN) -> TextDataset:
    """A text in which each token is its own position."""
    ends = np.cumsum(lengths)
    return TextDataset(np.arange(ends[-1]), seq_len, ends - lengths)


def targets_of(dataset: TextDataset, number: int, seed: int = 0) -> Positions:
    """The targets of a pass, in order."""
    n = dataset.samples_per_pass
    return Batches(dataset, seed).batch(number * n, n).targets.flatten().astype(np.int64)


@pytest.mark.parametrize("name", TEXTS)
def test_each_token_is_a_target_equally_often(name: str) -> None:
    dataset = dataset_of(TEXTS[name])
    n_tokens = len(dataset.token_ids)
    n_left_out = n_tokens % SEQ_LEN
    times = np.zeros(n_tokens, dtype=np.int64)
    passes = 40
    for number in range(passes):
        inside = np.bincount(targets_of(dataset, number), minlength=n_tokens)
        assert inside.max() == 1
        assert np.count_nonzero(inside == 0) == n_left_out < SEQ_LEN
        times += inside
    assert times.max() - times.min() <= 2


@settings(derandomize=True, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    seq_len=st.integers(1, 30),
    seed=st.integers(0, 2**32),
)
def test_a_pass_divides_any_text_and_only_a_rest_at_its_beginning_has_no_mark(
    lengths: list[int], seq_len: int, seed: int
) -> None:
    n_tokens = sum(lengths)
    assume(n_tokens > seq_len)
    dataset = dataset_of(np.array(lengths), seq_len)
    for number in range(3):
        n = dataset.samples_per_pass
        batch = Batches(dataset, seed).batch(number * n, n)
        np.testing.assert_array_equal((batch.inputs + 1) % n_tokens, batch.targets)
        assert len(np.unique(batch.inputs)) == batch.inputs.size == n * seq_len
        follows = batch.inputs[:, 1:] == batch.inputs[:, :-1] + 1
        begins = np.isin(batch.inputs[:, 1:], dataset.document_starts)
        assert (follows | begins).all()


def share_in_rests(dataset: TextDataset) -> float:
    """The share of the tokens of a pass that stand in a sample without the beginning of their document."""
    n = dataset.samples_per_pass
    inputs = Batches(dataset, 0).batch(0, n).inputs
    begun = np.logical_or.accumulate(np.isin(inputs, dataset.document_starts), axis=1)
    return float(1 - begun.mean())


@pytest.mark.parametrize(
    ("shortest", "longest", "most"), [(10, 80, 0.01), (5, 256, 0.13), (96, 256, 0.22)]
)
def test_most_documents_are_read_from_their_beginning(
    shortest: int, longest: int, most: float
) -> None:
    """Windows cut without regard to documents have 10%, 32% and 34%."""
    lengths = np.random.default_rng(1).integers(shortest, longest + 1, 4000)
    assert share_in_rests(dataset_of(lengths, 256)) < most


def test_passes_and_seeds_differ_and_are_not_sorted() -> None:
    for lengths in (np.array([10_001]), np.random.default_rng(2).integers(3, 11, 1500)):
        dataset = dataset_of(lengths, 10)
        orders = [targets_of(dataset, *which) for which in ((0, 0), (1, 0), (0, 1))]
        for one in orders:
            assert abs(np.corrcoef(one, np.arange(len(one)))[0, 1]) < 0.15
            place = np.empty(len(dataset.token_ids))
            place[one] = np.arange(len(one))
            for other in orders:
                assert other is one or abs(np.corrcoef(place[other], place[one])[0, 1]) < 0.15


@pytest.mark.parametrize("name", ["long documents", "documents of two samples", "one document"])
def test_a_long_document_is_cut_at_other_places_in_each_pass(name: str) -> None:
    dataset = dataset_of(TEXTS[name])
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
@pytest.mark.parametrize("name", ["one document", "short and long documents"])
def test_any_position_is_reached_at_once_and_division_changes_no_order(
    name: str, position: int
) -> None:
    dataset = dataset_of(TEXTS[name])
    whole = Batches(dataset, seed=5).batch(position, 24)
    for batch_size in (1, 2, 8, 24):
        parts = Batches(dataset, seed=5).microbatches(position, batch_size, 24 // batch_size)
        np.testing.assert_array_equal(np.concatenate([p.inputs for p in parts]), whole.inputs)
        np.testing.assert_array_equal(np.concatenate([p.targets for p in parts]), whole.targets)
    one_by_one = [Batches(dataset, seed=5).batch(position + i, 1).inputs[0] for i in range(24)]
    np.testing.assert_array_equal(one_by_one, whole.inputs)
