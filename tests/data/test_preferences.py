"""Preference pairs are read under one policy, and become rows whose targets are the two last answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from homespun.data.batch import IGNORED
from homespun.data.corpus import survey
from homespun.data.pair_samples import PairDataset, PairEncoder
from homespun.data.preferences import Pair, document_of, located, pair_of
from homespun.errors import UserError
from homespun.tokenizer import ChatTemplate, train

Write = Callable[..., Path]
TEMPLATE = ChatTemplate(train(["Who has the ball? Anna has it in the barn."] * 9, 280))
QUESTION = [{"role": "user", "content": "Q"}]


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*records: Any) -> Path:
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return write


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": " Q", "chosen": "A\0\r\n", "rejected": "B"},
        {"question": "Q", "chosen": "A", "rejected": "B", "score": 5},
        {"prompt": QUESTION, "chosen": [said("assistant", "A")], "rejected": "B"},
        {
            "prompt": "Q",
            "chosen": [*QUESTION, said("assistant", "A")],
            "rejected": [*QUESTION, said("assistant", "B")],
            "messages": [*QUESTION, said("assistant", "A")],
        },
        {
            "chosen": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
            "rejected": [*QUESTION, said("assistant", "B")],
        },
    ],
)
def test_forms_of_a_pair(write: Write, record: dict[str, Any]) -> None:
    path = write(record)
    assert list(located(path)) == [(Pair(QUESTION, "A", "B"), f"{path}:1")]


def test_parquet_and_the_system(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    record = {"prompt": "Q", "system": "S", "chosen": "A", "rejected": "B", "id": 1}
    pq.write_table(pa.Table.from_pylist([record]), path)
    [(pair, _)] = located(path)
    assert pair == Pair([said("system", "S"), *QUESTION], "A", "B")
    assert pair_of(document_of(pair)) == pair


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"prompt": "Q", "chosen": "A"},
            r":2: no column 'rejected'; a pair has .*, this has 'prompt'",
        ),
        ({"prompt": "Q", "chosen": 5, "rejected": "B"}, ":2: chosen: 5 is neither a text nor"),
        ({"prompt": 5, "chosen": "A", "rejected": "B"}, ":2: prompt: 5 is neither a text nor"),
        ({"chosen": "A", "rejected": "B"}, ":2: prompt: there is none, so it is unknown what"),
        (
            {"prompt": "Q", "chosen": QUESTION, "rejected": "B"},
            ":2: chosen: the last message has to be one of the assistant",
        ),
        (
            {"prompt": "Q", "chosen": "A", "rejected": [said("narrator", "B")]},
            r":2: rejected\[0\]\.role: 'narrator' is none of",
        ),
        (
            {
                "chosen": [*QUESTION, said("assistant", "A")],
                "rejected": [said("user", "Other"), said("assistant", "B")],
            },
            ":2: rejected: it differs from chosen before the last message",
        ),
        (
            {"prompt": [said("assistant", "A")], "chosen": "A", "rejected": "B"},
            r":2: chosen, after its prompt: messages\[0\]\.role: assistant comes first",
        ),
        ([1], ":2: an object with `prompt`, `chosen` and `rejected` is expected"),
    ],
)
def test_errors_name_file_line_and_field(write: Write, record: Any, message: str) -> None:
    path = write({"prompt": "Q", "chosen": "A", "rejected": "B"}, record)
    with pytest.raises(UserError, match=f"pairs.jsonl{message}"):
        list(located(path))


def test_equal_and_empty_answers_are_left_out_and_told(write: Write) -> None:
    records = [
        {"prompt": f"Q{n}", "chosen": chosen, "rejected": rejected}
        for n, (chosen, rejected) in enumerate([("A", "B"), ("A", " A "), ("", "B"), ("A", None)])
    ]
    path, said = write(*records, records[0] | {"prompt": "Q9"}), list[str]()
    corpus = survey(path, said.append, as_pairs=True)
    assert corpus.is_pairs
    assert corpus.n_documents == 2
    assert said == [
        f"Left out of {path}: 3 pairs with an empty message or equal answers; the first is {path}:2."
    ]
    with pytest.raises(UserError, match="no pair of two different answers"):
        survey(write(records[1]), as_pairs=True)


def test_the_same_file_as_pairs_and_as_conversations(write: Write, tmp_path: Path) -> None:
    answer, kept = said("assistant", "A"), tmp_path / "kept"
    path = write(
        *(
            {"messages": [said("user", f"{n}"), answer], "prompt": f"{n}"}
            | {"chosen": "A", "rejected": "B"}
            for n in range(20)
        )
    )
    for _ in range(2):  # the second time from the record
        pairs, talks = survey(path, None, kept, as_pairs=True), survey(path, None, kept)
        assert pairs.is_pairs
        assert talks.is_chat
        assert not talks.is_pairs
        assert pairs.sha256 != talks.sha256


PAIRS = [
    Pair([said("user", f"Who has {n}?")], f"Anna{n}", "Tim " * (1 + n % 5)) for n in range(30)
] + [Pair([*QUESTION, said("assistant", "Before"), said("user", "And?")], "This", "That")]


def dataset(seq_len: int = 80) -> PairDataset:
    return PairDataset(PairEncoder(TEMPLATE).join(map(document_of, PAIRS)), seq_len)


def test_a_row_has_one_answer_as_its_targets() -> None:
    data = dataset()
    assert data.n_pairs == len(PAIRS)
    assert data.samples_per_pass == 2 * len(PAIRS)
    for number, pair in enumerate(PAIRS):
        batch = data.pairs([number])
        for row, answer in enumerate((pair.chosen, pair.rejected)):
            targets = batch.targets[row][batch.targets[row] != IGNORED]
            assert targets[-1] == TEMPLATE.end_id
            assert TEMPLATE.tokenizer.decode(targets[:-1].tolist()).strip() == answer.strip()


def test_long_pairs_are_left_out_whole() -> None:
    data, shorter = dataset(), dataset(40)
    assert shorter.n_left_out > 0
    assert shorter.n_pairs + shorter.n_left_out == data.n_pairs
    assert shorter.pairs(range(shorter.n_pairs)).inputs.shape[1] == 40
    with pytest.raises(UserError, match="no pair fits into --seq-len 4"):
        dataset(4)


@pytest.mark.parametrize("seq_len", [40, 50, 80, 200])
def test_the_longest_row_is_that_of_a_batch_with_all_pairs(seq_len: int) -> None:
    data = dataset(seq_len)
    assert data.pairs(range(data.n_pairs)).inputs.shape[1] == data.longest_row


@pytest.mark.parametrize("count", [2, 10])
def test_each_pass_has_each_pair_once_however_steps_are_divided(count: int) -> None:
    batches, n = dataset().batches(3), len(PAIRS)
    whole = batches.numbers(0, 4 * n)
    assert sorted(whole[:n]) == sorted(whole[n:]) == list(range(n))
    assert whole[:n].tolist() != whole[n:].tolist()
    parts = [batches.numbers(first, count) for first in range(0, 4 * n, count)]
    np.testing.assert_array_equal(np.concatenate(parts)[: 2 * n], whole)
    one, two = batches.microbatches(6, 8, 1), batches.microbatches(6, 4, 2)
    rows = np.concatenate([batch.inputs[:, :20] for batch in two])
    np.testing.assert_array_equal(one[0].inputs[:, :20], rows)
