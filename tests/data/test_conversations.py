"""Files of conversations are read under one policy, and errors name file, line and field."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homespun.data.conversations import (
    conversations,
    document_of,
    holds_conversations,
    messages_of,
    read,
)
from homespun.data.corpus import survey
from homespun.errors import UserError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*records: Any, name: str = "chats.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return path

    return write


def chat(*contents: str, system: str | None = None) -> dict[str, Any]:
    messages = [
        {"role": ("user", "assistant")[n % 2], "content": content}
        for n, content in enumerate(contents)
    ]
    return {"messages": [*([{"role": "system", "content": system}] if system else []), *messages]}


def contents(path: Path) -> list[list[tuple[str, str]]]:
    return [[(m["role"], m["content"]) for m in one.messages] for one in conversations(path)]


def test_messages_are_read_and_cleaned(write: Write) -> None:
    path = write(chat(" Who?\r\nYou. ", "Me\0\n", system="Be brief."))
    assert holds_conversations(path)
    expected = [("system", "Be brief."), ("user", "Who?\nYou."), ("assistant", "Me")]
    assert contents(path) == [expected]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Q", "answer": "A"},
        {"question": "Q", "answer": "A", "id": 7},
        {"instruction": "Q", "input": "", "output": "A"},
        {"query": "Q", "response": "A"},
        {"prompt": "Q", "completion": "A"},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"messages": chat("Q", "A")["messages"], "text": "rendered", "prompt": "x", "answer": "y"},
    ],
)
def test_other_names_of_columns(write: Write, record: dict[str, Any]) -> None:
    path = write(record)
    assert holds_conversations(path)
    assert contents(path) == [[("user", "Q"), ("assistant", "A")]]


def test_context_and_system_of_a_pair(write: Write) -> None:
    path = write({"system": "S", "instruction": "Q", "input": "C", "output": "A"})
    assert contents(path) == [[("system", "S"), ("user", "Q\n\nC"), ("assistant", "A")]]


def test_a_pair_with_half_a_character_is_named(write: Write) -> None:
    path = write({"prompt": "Q\ud800", "answer": "A"})
    with pytest.raises(UserError, match=r"chats.jsonl:1: messages\[0\].content: half of a surr"):
        contents(path)


def test_a_column_of_text_makes_it_a_text(write: Write) -> None:
    assert not holds_conversations(write({"text": "T", "instruction": "Q", "output": "A"}))
    assert not holds_conversations(write({"content": "T"}))
    assert not holds_conversations(write("a text"))


def test_parquet_and_compressed_files(tmp_path: Path, write: Write) -> None:
    import pyarrow
    from pyarrow import parquet

    records = [chat(f"Q{n}", f"A{n}") | {"skill": f"s{n}"} for n in range(100)]
    jsonl = write(*records)
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "chats.parquet")
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(jsonl.read_bytes()))
    expected = list(conversations(jsonl, also=["skill"]))
    assert expected[3].fields == {"skill": "s3"}
    for name in ("chats.parquet", "packed.jsonl.gz"):
        assert holds_conversations(tmp_path / name)
        assert list(conversations(tmp_path / name, also=["skill"])) == expected


def test_reading_can_start_after_any_conversation(write: Write) -> None:
    path = write(*(chat(f"Q{n}", f"A{n}") for n in range(5)))
    with path.open("rb") as file:
        all_of_it = list(read(file, path.name))
        for number, (_, _, position) in enumerate(all_of_it):
            assert position is not None
            rest = [found for found, _, _ in read(file, path.name, position)]
            assert rest == [found for found, _, _ in all_of_it[number + 1 :]]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": "no"}, "chats.jsonl:2: messages: a list of messages is expected"),
        ({"messages": [7]}, r"chats.jsonl:2: messages\[0\]: an object with `role` and `content`"),
        (
            {"messages": [{"role": "wizard", "content": "Q"}]},
            r"chats.jsonl:2: messages\[0\].role: 'wizard' is none of system, user, assistant",
        ),
        (
            {"messages": [{"role": "user", "content": ["Q"]}]},
            r"chats.jsonl:2: messages\[0\].content: \['Q'\] is not a text",
        ),
        (
            {"messages": chat("Q", "A")["messages"][::-1] + chat("Q", "A")["messages"]},
            r"chats.jsonl:2: messages\[0\].role: assistant comes first, where user is expected",
        ),
        (
            {"messages": [*chat("Q", "A", "Q")["messages"], *chat("Q", "A")["messages"]]},
            r"chats.jsonl:2: messages\[3\].role: user follows user, where assistant is expected",
        ),
        (
            {"messages": [*chat("Q", "A")["messages"], *chat("Q", "A", system="S")["messages"]]},
            r"chats.jsonl:2: messages\[2\].role: a system message can only be the first",
        ),
        (
            {"prompt": "Q", "answer": "A"},
            "chats.jsonl:2: no column 'messages'; it has 'prompt', 'answer'",
        ),
        ("text", "chats.jsonl:2: an object with `messages` is expected"),
        (
            {"messages": [{"role": "user", "content": "\ud800"}]},
            r"messages\[0\].content: half of a",
        ),
    ],
)
def test_what_breaks_the_rules_is_named(write: Write, record: Any, message: str) -> None:
    path = write(chat("Q", "A"), record)
    with pytest.raises(UserError, match=message):
        list(conversations(path))


def test_messages_after_the_last_answer_are_left_out(write: Write) -> None:
    path = write(chat("Q", "A", "and now?"))
    assert contents(path) == [[("user", "Q"), ("assistant", "A")]]


def test_empty_ones_are_left_out_and_counted(write: Write, tmp_path: Path) -> None:
    usual = [chat(f"Q{n}", f"A{n}") for n in range(20)]
    empty = [chat("Q", " "), chat("Q"), {"messages": []}, chat("Q", "A", "", "A")]
    said: list[str] = []
    corpus = survey(write(*usual[:7], *empty, *usual[7:]), said.append)
    assert corpus.is_chat
    assert corpus.n_documents == 20
    assert corpus.n_left_out == 4
    [line] = said
    assert "4 conversations with an empty message or without an answer" in line
    assert "chats.jsonl:8" in line
    with pytest.raises(UserError, match="no conversation with an answer in it"):
        survey(write(*empty, name="empty.jsonl"))


def test_a_conversation_is_one_document_that_is_split_as_a_whole(write: Write) -> None:
    path = write(*(chat(f"Q{n}", f"A{n} {'long ' * 100}") for n in range(5)))
    corpus = survey(path)
    documents = [document for document, _ in corpus.split()]
    assert documents == [document_of(one.messages) for one in conversations(path)]
    assert 0 < len(list(corpus.validation())) < 5
    assert messages_of(documents[0]) == list(next(conversations(path)).messages)
