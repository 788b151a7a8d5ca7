"""Conversations become samples in which each is whole, and only its answers are targets."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homespun.data.batch import IGNORED, PADDING, Batch
from homespun.data.chat_samples import (
    ChatDataset,
    ChatEncoder,
    as_batch,
    lengths_of,
    packed,
)
from homespun.data.conversations import document_of
from homespun.errors import UserError
from homespun.tokenizer import ChatTemplate, Message, Rendered, train
from homespun.tokenizer.chat_template import OWN

TEMPLATE = ChatTemplate(train(["Who has the ball? Anna has it in the barn."] * 9, 280))


MORE = "{% if not add_generation_prompt %}{{ ' and much more' }}{% endif %}"


def talk(number: int, *lengths: int) -> list[Message]:
    """A conversation with answers of so many words."""
    messages = []
    for turn, length in enumerate(lengths):
        messages.append({"role": "user", "content": f"Who has ball {number}.{turn}?"})
        messages.append({"role": "assistant", "content": f"Anna{number} " + "barn " * length})
    return messages


TALKS = [talk(n, *(1 + (n * k) % 7 for k in range(1, 2 + n % 3))) for n in range(40)]


def dataset(talks: list[list[Message]], seq_len: int) -> ChatDataset:
    return ChatDataset(ChatEncoder(TEMPLATE).join(map(document_of, talks)), seq_len)


def inside(batch: Batch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Inputs and targets of each conversation in a batch."""
    assert batch.documents is not None
    found = []
    for inputs, targets, documents in zip(
        batch.inputs, batch.targets, batch.documents, strict=True
    ):
        for number in range(documents.max() + 1):
            here = np.flatnonzero(documents == number)
            assert here.tolist() == list(range(here[0], here[-1] + 1))
            found.append((tuple(inputs[here].tolist()), tuple(targets[here].tolist())))
        assert (targets[documents == PADDING] == IGNORED).all()
    return found


def expected(rendered: Rendered) -> tuple[tuple[int, ...], tuple[int, ...]]:
    ids, in_answer = rendered.ids.tolist(), rendered.in_answer.tolist()
    targets = [
        token if counts else IGNORED for token, counts in zip(ids[1:], in_answer[1:], strict=True)
    ]
    return tuple(ids[:-1]), tuple(targets)


def test_each_pass_has_each_conversation_once_and_whole() -> None:
    data = dataset(TALKS, 128)
    n = data.samples_per_pass
    assert (data.n_conversations, data.n_cut, data.n_left_out) == (40, 0, 0)
    whole = Counter(map(expected, TEMPLATE.render_all(TALKS)))
    orders = []
    for number in range(2):
        [batch] = data.batches(seed=3).microbatches(number * n, n, 1)
        assert Counter(inside(batch)) == whole
        orders.append(inside(batch))
    assert orders[0] != orders[1]


def test_one_conversation_in_each_row() -> None:
    batch = as_batch(TEMPLATE.render_all(TALKS[:5]))
    assert inside(batch) == list(map(expected, TEMPLATE.render_all(TALKS[:5])))
    assert as_batch(TEMPLATE.render_all(TALKS[:5]), 200).inputs.shape == (5, 200)


def test_the_order_does_not_depend_on_the_micro_batch() -> None:
    samples = dataset(TALKS, 96).batches(seed=1)
    [whole] = samples.microbatches(5, 8, 1)
    for size in (1, 2, 4):
        parts = samples.microbatches(5, size, 8 // size)
        for field in ("inputs", "targets", "documents"):
            joined = np.concatenate([getattr(part, field) for part in parts])
            np.testing.assert_array_equal(joined, getattr(whole, field))


def test_a_long_conversation_is_cut_after_the_last_whole_answer() -> None:
    long, short = talk(1, 3, 3, 3), talk(1, 3, 3)
    n_short = len(TEMPLATE.render(short).ids)
    n_long = len(TEMPLATE.render(long).ids)
    for seq_len in range(n_short - 1, n_long - 1):
        data = dataset([long, *TALKS[:1]], seq_len)
        assert (data.n_conversations, data.n_cut, data.n_left_out) == (2, 1, 0)
        batch = data.rows(range(data.samples_per_pass))
        assert expected(TEMPLATE.render(short)) in inside(batch)
    assert dataset([long, *TALKS[:1]], n_long - 1).n_cut == 0


def test_a_conversation_whose_first_answer_does_not_fit_is_left_out() -> None:
    data = dataset([talk(1, 300), *TALKS[:3], talk(2, 300, 1)], 96)
    assert (data.n_conversations, data.n_left_out) == (3, 2)
    found = Counter(inside(data.rows(range(data.samples_per_pass))))
    assert found == Counter(map(expected, TEMPLATE.render_all(TALKS[:3])))
    with pytest.raises(UserError, match="no conversation fits into --seq-len 96"):
        dataset([talk(1, 300), talk(2, 300)], 96)


def test_what_follows_the_last_answer_takes_no_room() -> None:
    template = ChatTemplate(TEMPLATE.tokenizer, OWN + MORE)
    marked = ChatEncoder(template).join([document_of(TALKS[0])])
    n_needed = len(TEMPLATE.render(TALKS[0]).ids)
    assert len(marked) > n_needed
    data = ChatDataset(marked, n_needed - 1)
    assert (data.n_conversations, data.n_cut) == (1, 0)
    assert inside(data.rows([0])) == [expected(TEMPLATE.render(TALKS[0]))]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_packing_keeps_every_item_once_within_its_row(lengths: list[int]) -> None:
    order, starts = packed(np.array(lengths), 50)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    filled = [
        sum(lengths[item] for item in order[begin:end]) for begin, end in pairwise(starts.tolist())
    ]
    assert all(0 < n <= 50 for n in filled)
    assert len(filled) == 1 or sum(sorted(filled)[:2]) > 50


def test_lengths_and_targets_of_a_stream() -> None:
    marked = ChatEncoder(TEMPLATE).join(map(document_of, TALKS))
    rendered = TEMPLATE.render_all(TALKS)
    assert lengths_of(marked).tolist() == [len(one.ids) for one in rendered]
    answers = np.concatenate([one.ids[one.in_answer] for one in rendered])
    np.testing.assert_array_equal(ChatDataset(marked, 128).targets(10**6), answers)


def test_a_conversation_that_the_template_refuses_is_named() -> None:
    source = OWN + "{% if messages[0].content == 'x' %}{{ raise_exception('no x') }}{% endif %}"
    encoder = ChatEncoder(ChatTemplate(TEMPLATE.tokenizer, source))
    bad: list[Any] = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    with pytest.raises(UserError, match=r"the conversation that begins 'x': .* no x"):
        encoder.join([*map(document_of, TALKS), document_of(bad)])
