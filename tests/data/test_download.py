"""Downloads from a real server on loopback fetch only the needed bytes and documents; other sources are copied."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from homespun import workspace
from homespun.data import download_file
from homespun.data import hub as hub_module
from homespun.data.dataset_files import training_files
from homespun.data.documents import documents
from homespun.errors import UserError
from homespun.stories.questions import conversations
from tests.data.downloading import MARK, TINY, Log, left_in_data, table, tell
from tests.data.hub import Fault, Hub

pytestmark = pytest.mark.usefixtures("in_own_folder")


# Choosing files and documents


def test_tinystories(hub: Hub, log: Log) -> None:
    stories = tell(300)
    hub.publish_tinystories(stories)
    path = log.fetch(200)
    assert path == Path("data/tinystories_200.txt")
    assert path.read_text() == "".join(f"{story}\n{MARK}\n" for story in stories[:200])
    assert list(documents(path)) == stories[:200]
    assert workspace.recall("data") == path
    assert log.lines[-1] == f"{path}: 200 documents, {path.stat().st_size:,} bytes"
    assert sorted(file.name for file in Path("data").iterdir()) == [path.name, path.name + ".json"]


def test_ten_thousand_by_default(hub: Hub, log: Log) -> None:
    hub.publish_tinystories([f"Story {i}" for i in range(10_001)])
    path = log.fetch()
    assert path.name == "tinystories_10000.txt"
    assert list(documents(path))[-1] == "Story 9999"


def test_of_a_big_text_only_the_head_is_read(hub: Hub, log: Log) -> None:
    hub.publish_tinystories(tell(1_000) * 60)
    assert len(hub.content(TINY, "TinyStoriesV2-GPT4-train.txt")) > 30_000_000
    path = log.fetch(1_000)
    assert hub.bytes_served < path.stat().st_size + hub_module.BLOCK


def test_of_a_big_table_only_the_first_rows_are_read(
    hub: Hub, log: Log, small_blocks: None
) -> None:
    stories = tell(10_000)
    data = table(stories, "story", row_group_size=10_000)
    hub.publish("Some/Stories", {"data/train-0.parquet": data, "data/test-0.parquet": data})
    path = log.fetch(100, "Some/Stories")
    assert path == Path("data/stories_100.txt")
    assert list(documents(path)) == stories[:100]
    assert len(data) > 5_000_000
    assert hub.bytes_served < 4 * hub_module.BLOCK


def test_all_files_of_the_training_split_in_order(hub: Hub, log: Log) -> None:
    stories = tell(700)
    files = {
        f"data/train-{i}.parquet": table(stories[100 * i : 100 * i + 100], row_group_size=30)
        for i in range(7)
    }
    hub.page_size = 3
    hub.publish("a/b", {**files, "data/validation-0.parquet": table(["no"]), "x/y.parquet": b""})
    path = log.fetch(1_000, "a/b")
    assert list(documents(path)) == stories
    assert path.name == "b_1000.txt"
    assert log.said("has no more documents; 1,000 were asked for")


def test_jsonl_and_a_subset(hub: Hub, log: Log) -> None:
    stories = tell(50)
    lines = "\n".join(json.dumps({"content": story}) for story in stories).encode()
    hub.publish("a/b", {"sample/10BT/000.jsonl": lines, "sample/100BT/000.jsonl": b'"no"'})
    path = log.fetch(20, "a/b:sample-10BT")
    assert path == Path("data/b-sample-10bt_20.txt")
    assert list(documents(path)) == stories[:20]


def test_conversations_become_lines(hub: Hub, log: Log) -> None:
    talks = [
        {
            "messages": [
                {"role": "user", "content": f"Q{n}"},
                {"role": "assistant", "content": f"A{n}"},
            ]
        }
        for n in range(30)
    ]
    empty = {"messages": [{"role": "user", "content": "Q"}]}
    lines = "".join(json.dumps(talk) + "\n" for talk in [*talks[:5], empty, *talks[5:]]).encode()
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(talks), file)
    hub.publish("a/lines", {"train.jsonl": lines})
    hub.publish("a/rows", {"data/train-0.parquet": file.getvalue()})
    for name in ("lines", "rows"):
        path = log.fetch(20, f"a/{name}")
        assert path == Path(f"data/{name}_20.jsonl")
        assert [json.loads(line) for line in path.read_text().splitlines()] == talks[:20]
        before = len(hub.requests)
        assert log.fetch(20, f"a/{name}") == path
        assert len(hub.requests) == before
    assert log.said(
        "Left out: 1 conversation with an empty message or without an answer; the first is train.jsonl:6"
    )
    local = log.fetch(None, "data/lines_20.jsonl", output="copy.jsonl")
    assert local.read_text() == Path("data/lines_20.jsonl").read_text()
    with pytest.raises(UserError, match="conversations are written as"):
        log.fetch(20, "a/lines", output="x.txt")
    hub.publish_tinystories(tell(30))
    with pytest.raises(UserError, match="texts are written as"):
        log.fetch(20, output="x.jsonl")


def test_a_download_of_conversations_is_continued(
    hub: Hub, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    talks = [
        {
            "messages": [
                {"role": "user", "content": f"Q{n}"},
                {"role": "assistant", "content": "A" * 400},
            ]
        }
        for n in range(300)
    ]
    lines = "".join(json.dumps(talk) + "\n" for talk in talks).encode()
    hub.publish("a/lines", {"train.jsonl": lines})
    monkeypatch.setattr(download_file, "COMMIT", 1000)
    monkeypatch.setattr(hub_module, "BLOCK", 20_000)
    hub.faults.append(Fault("status", times=99, after=60_000, status=403))
    with pytest.raises(UserError):
        log.fetch(300, "a/lines")
    hub.faults.clear()
    path = log.fetch(300, "a/lines")
    assert log.said("continuing after")
    assert [json.loads(line) for line in path.read_text().splitlines()] == talks


@pytest.mark.parametrize(
    ("paths", "subset", "expected"),
    [
        (["data/train-1.parquet", "data/train-0.parquet", "data/test-0.parquet", "a.jsonl"], None,
         ["data/train-0.parquet", "data/train-1.parquet"]),
        (["data/CC-1/000.parquet", "data/CC-2/000.parquet", "sample/10BT/000.parquet"], None,
         ["data/CC-1/000.parquet", "data/CC-2/000.parquet"]),
        (["data/CC-1/0.parquet", "sample/10BT/0.parquet", "sample/100BT/0.parquet"], "sample-10BT",
         ["sample/10BT/0.parquet"]),
        (["en/train.jsonl", "de/train.jsonl"], "de", ["de/train.jsonl"]),
        (["train/0.parquet", "test/0.parquet"], "train", ["train/0.parquet"]),
        (["constraint.txt", "test.txt"], None, ["constraint.txt"]),
        (["en/train.jsonl", "de/train.jsonl"], None, "choose one as owner/name:de"),
        (["en/train.jsonl"], "fr", "no subset 'fr'; it has en"),
        (["test.txt", "valid.txt"], None, "no training split"),
        (["a.csv", "README.md"], None, "none of its files"),
    ],
)  # fmt: skip
def test_training_files(paths: list[str], subset: str | None, expected: list[str] | str) -> None:
    if isinstance(expected, list):
        assert training_files(paths, "owner/name", subset) == expected
    else:
        with pytest.raises(UserError, match=expected):
            training_files(paths, "owner/name", subset)


def test_a_line_that_is_the_mark_stays_text(hub: Hub, log: Log) -> None:
    texts = [f"a\n{MARK}\nb {MARK}", MARK, f"{MARK}\n{MARK}", "plain"]
    hub.publish("a/b", {"train.parquet": table(texts)})
    expected = [f"a\n {MARK}\nb {MARK}", MARK, f"{MARK}\n {MARK}", "plain"]
    first = log.fetch(None, "a/b")
    assert list(documents(first)) == expected
    again = log.fetch(None, str(first), output="again.txt")
    assert list(documents(again)) == expected


# Local sources


def test_a_local_file_or_folder_is_copied(log: Log) -> None:
    Path("texts").mkdir()
    Path("texts/a.jsonl").write_text('"one"\n"two"\n')
    Path("texts/b.txt").write_text("three\r\n")
    assert log.fetch(None, "texts") == Path("data/texts_all.txt")
    assert list(documents(Path("data/texts_all.txt"))) == ["one", "two", "three"]
    assert log.fetch(2, "texts/a.jsonl") == Path("data/a_2.txt")
    assert workspace.recall("data") == Path("data/a_2.txt")
    Path("texts/a.jsonl").write_text('"four"\n"five"\n')
    assert list(documents(log.fetch(2, "texts/a.jsonl"))) == ["four", "five"]


def test_a_broken_source_leaves_nothing(log: Log) -> None:
    Path("a.jsonl").write_text('"one"\n{"text": \n')
    with pytest.raises(UserError, match=r"a\.jsonl:2"):
        log.fetch(None, "a.jsonl")
    assert left_in_data() == []


def test_an_output_inside_its_own_source(log: Log) -> None:
    Path("data").mkdir()
    Path("data/a.txt").write_text("one")
    for dataset, output in (("data", None), ("data/a.txt", "data/a.txt")):
        with pytest.raises(UserError, match="lies inside its own source"):
            log.fetch(None, dataset, output=output)
    assert Path("data/a.txt").read_text() == "one"


def test_an_output_that_cannot_be_written(log: Log) -> None:
    Path("a.txt").write_text("one")
    for output in ("a.txt/b.txt", "/proc/none/b.txt"):
        with pytest.raises(UserError, match="choose another --output"):
            log.fetch(None, "a.txt", output=output)


# The built-in stories, and the output


def test_the_built_in_stories(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def stories(n: int, seed: int, plain: bool) -> Iterator[str]:
        return (f"Story {i} of {seed}, {'plain' if plain else 'whole'}" for i in range(n))

    monkeypatch.setattr("homespun.stories.stories", stories, raising=False)
    for seed, plain in ((7, False), (8, False), (8, True)):
        path = log.fetch(30, "stories", seed=seed, plain=plain)
        assert path == Path("data/stories_30.txt")
        assert list(documents(path)) == list(stories(30, seed, plain))


def test_progress_in_lines(log: Log) -> None:
    Path("a.txt").write_text(f"\n{MARK}\n".join(f"text {i}" for i in range(3_500)))
    log.fetch(3_000, "a.txt")
    assert log.lines[:2] == ["1,000 of 3,000 documents", "2,000 of 3,000 documents"]
    assert len(log.lines) == 3


def test_progress_as_a_bar(
    log: Log, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    Path("a.txt").write_text("text")
    log.fetch(1, "a.txt")
    assert log.lines == ["data/a_1.txt: 1 document, 19 bytes"]
    shown = capsys.readouterr()
    assert "documents" in shown.err
    assert shown.out == ""


def test_questions_about_stories(log: Log) -> None:
    path = log.fetch(5, "stories-questions", plain=True)
    assert path == Path("data/stories-questions_5.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records == list(conversations(5, 0, plain=True))
    single = log.fetch(3, "stories-questions", questions=1, output="one.jsonl")
    asked = [json.loads(line) for line in single.read_text().splitlines()]
    assert [len(record["messages"]) for record in asked] == [2] * 3
    with pytest.raises(UserError, match=r"conversations are written as \.jsonl: name it so"):
        log.fetch(3, "stories-questions", output="one.txt")
    assert not Path("one.txt").exists()
