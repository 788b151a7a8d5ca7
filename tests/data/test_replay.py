"""Two texts in one order: which samples come, what they weigh, and that documents stay apart."""

import numpy as np
import pytest

from homespun.data.batch import IGNORED, Batch
from homespun.data.chat_samples import ChatDataset
from homespun.data.replay import ReplayDataset
from homespun.data.samples import TextDataset

SEQ_LEN = 8
MARK = 0
TEXT = np.array([MARK if n % 5 == 0 else 100 + n % 50 for n in range(1000)], np.int32)


def talks() -> ChatDataset:
    """A stream of conversations of four to seven tokens, the last two of which are the answer."""
    stream = []
    for n in range(60):
        length = 4 + n % 4
        ids = [10 + (n + k) % 80 for k in range(length)]
        marked = [token << 2 | (k >= length - 2) for k, token in enumerate(ids)]
        marked[0] |= 2
        stream += marked
    return ChatDataset(np.array(stream, np.int32), SEQ_LEN)


def mixed(share: float = 0.3) -> ReplayDataset:
    return ReplayDataset(talks(), TextDataset(TEXT, SEQ_LEN), share, MARK)


def of_text(batch: Batch) -> list[bool]:
    """Whether each row has a target at each position, as rows of text do."""
    return [bool(all_targets) for all_targets in (batch.targets != IGNORED).all(axis=1)]


def test_a_share_of_the_samples_is_of_the_earlier_text_and_spread_evenly() -> None:
    [batch] = mixed(0.3).batches(seed=1).microbatches(0, 1000, 1)
    rows = of_text(batch)
    assert sum(rows) == 300
    for first in range(0, 1000, 10):
        assert sum(rows[first : first + 10]) == 3


def test_each_text_comes_in_its_own_order_and_a_pass_has_all_of_the_new_one() -> None:
    dataset = mixed()
    n = dataset.samples_per_pass
    assert n == -(-dataset.new.samples_per_pass * 10 // 7)
    [batch] = dataset.batches(seed=4).microbatches(0, n, 1)
    is_text = np.array(of_text(batch))
    n_text = int(is_text.sum())
    [new] = talks().batches(4).microbatches(0, n - n_text, 1)
    [earlier] = TextDataset(TEXT, SEQ_LEN).batches(4).microbatches(0, n_text, 1)
    assert n - n_text >= dataset.new.samples_per_pass
    assert (batch.inputs[~is_text] == new.inputs).all()
    assert (batch.targets[~is_text] == new.targets).all()
    assert (batch.inputs[is_text] == earlier.inputs).all()
    assert (batch.targets[is_text] == earlier.targets).all()


@pytest.mark.parametrize("first", [0, 7, 12_345])
def test_a_sample_follows_from_its_number_alone(first: int) -> None:
    whole = mixed().batches(seed=2).microbatches(first, 12, 1)[0]
    assert whole.documents is not None
    for size in (1, 3, 4):
        parts = mixed().batches(seed=2).microbatches(first, size, 12 // size)
        for name in ("inputs", "targets", "documents", "weights"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            assert (joined == getattr(whole, name)).all()
    alone = mixed().batches(seed=2).microbatches(first + 5, 1, 1)[0]
    assert (alone.inputs == whole.inputs[5:6]).all()


def test_documents_of_a_text_begin_at_their_marks() -> None:
    [batch] = mixed().batches(seed=0).microbatches(0, 40, 1)
    assert batch.documents is not None
    row = of_text(batch).index(True)
    begins = np.diff(batch.documents[row]) > 0
    assert begins.any()
    assert (begins == (batch.inputs[row, 1:] == MARK)).all()


def test_the_loss_of_a_step_is_the_weighted_mean_of_both_means() -> None:
    """However many targets the rows of each kind have, and however the step is divided."""
    for n in (1, 2, 5):
        batches = mixed(0.3).batches(seed=3).microbatches(20, 10 // n, n)
        total, count, sums = 0.0, 0, {True: np.zeros(2), False: np.zeros(2)}
        for batch in batches:
            assert batch.weights is not None
            losses = np.where(batch.is_target, 2 + np.sin(batch.inputs + 3.0 * batch.targets), 0)
            total += float((losses * batch.weights * batch.is_target).sum())
            count += batch.n_targets
            for row, is_text in enumerate(of_text(batch)):
                sums[is_text] += losses[row].sum(), batch.is_target[row].sum()
        means = {kind: loss / targets for kind, (loss, targets) in sums.items()}
        assert sums[True][1] / sums[False][1] != pytest.approx(3 / 7, rel=0.2)
        assert total / count == pytest.approx(0.7 * means[False] + 0.3 * means[True], rel=1e-5)


def test_a_step_of_one_kind_has_its_mean() -> None:
    batches = mixed(0.1).batches(seed=0)
    kinds = [batches.microbatches(number, 1, 1)[0] for number in range(20)]
    assert sum(of_text(batch)[0] for batch in kinds) == 2
    assert all(batch.weights is None for batch in kinds)
