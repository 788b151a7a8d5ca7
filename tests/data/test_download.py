"""Downloads from a real server on loopback: they fetch only the needed bytes, are atomic, and can be resumed."""

import errno
import functools
import io
import json
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pytest
from pyarrow import parquet

from homespun import durable, workspace
from homespun.config import DownloadConfig
from homespun.data import download_file
from homespun.data import hub as hub_module
from homespun.data.corpus import survey
from homespun.data.dataset_files import training_files
from homespun.data.documents import documents
from homespun.data.download import download
from homespun.errors import UserError
from homespun.stories.questions import conversations
from tests.data.hub import Fault, Hub

MARK = "<|endoftext|>"
TINY = "roneneldan/TinyStories"


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, so that a small download has many requests and records."""
    monkeypatch.setattr(hub_module, "BLOCK", 300_000)
    monkeypatch.setattr(download_file, "COMMIT", 100_000)


@functools.cache
def tell(n: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    words = ["once", "upon", "time", "dog", "cat", "ball", "naïve", "漢"]
    return [
        f"Story {i}.\n\n" + " ".join(rng.choices(words, k=rng.randrange(60, 200))) for i in range(n)
    ]


class Log:
    """Collects the messages of a download, and the durations of its pauses."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.naps: list[float] = []

    def fetch(self, n: int | None = None, dataset: str = TINY, **settings: object) -> Path:
        config = DownloadConfig(dataset=dataset, num_samples=n, **settings)  # type: ignore[arg-type]
        return download(config, say=self.lines.append, sleep=self.naps.append)

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)


@pytest.fixture
def log() -> Log:
    return Log()


def table(texts: list[str], column: str = "text", row_group_size: int = 500) -> bytes:
    file = io.BytesIO()
    columns = {"id": list(range(len(texts))), column: texts, "more": [text * 2 for text in texts]}
    parquet.write_table(
        pa.table(columns), file, row_group_size=row_group_size, use_dictionary=False
    )
    return file.getvalue()


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


# Resuming


def test_what_is_there_is_not_fetched_again(hub: Hub, log: Log) -> None:
    hub.publish_tinystories(tell(50))
    path = log.fetch(20)
    workspace.remember("data", Path("other.txt"))
    asked = len(hub.requests)
    assert log.fetch(20) == path
    assert len(hub.requests) == asked
    assert log.said("already there, 20 documents")
    assert workspace.recall("data") == path
    log.fetch(30, output=str(path))
    assert len(list(documents(path))) == 30


@pytest.mark.parametrize("dataset", [TINY, "book.txt"])
def test_a_file_of_the_users_is_not_overwritten(hub: Hub, log: Log, dataset: str) -> None:
    hub.publish_tinystories(tell(50))
    Path("book.txt").write_text("text")
    Path("mine.txt").write_text("precious")
    with pytest.raises(UserError, match=r"mine\.txt: this file is in the way"):
        log.fetch(20, dataset, output="mine.txt")
    assert Path("mine.txt").read_text() == "precious"
    path = log.fetch(20, dataset, output="own.txt")
    path.write_text(path.read_text() + "edited")
    with pytest.raises(UserError, match="in the way"):
        log.fetch(20, dataset, output="own.txt")


@pytest.mark.parametrize("dataset", [TINY, "book.txt"])
def test_a_download_that_ended_before_it_took_the_place_of_another_is_not_in_the_way(
    hub: Hub, log: Log, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    hub.publish_tinystories(tell(50))
    Path("book.txt").write_text(f"\n{MARK}\n".join(tell(50)))
    path = log.fetch(20, dataset, output="own.txt")
    earlier = path.read_bytes()
    rename = Path.replace

    def full(source: Path, target: Path) -> Path:
        if target.name == "own.txt":
            raise OSError(errno.EIO, "the disk is gone")
        return rename(source, target)

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", full)
            with pytest.raises(UserError, match="the disk is gone"):
                log.fetch(30, dataset, output="own.txt")
        assert path.read_bytes() == earlier
    assert len(list(documents(log.fetch(30, dataset, output="own.txt")))) == 30


CHILD = """
import sys
from homespun.config import DownloadConfig
from homespun.data import download, download_file, hub
hub.BLOCK, download_file.COMMIT = 300_000, 100_000
download.download(DownloadConfig(dataset=sys.argv[1], num_samples=int(sys.argv[2])))
"""


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_killed_and_resumed(hub: Hub, log: Log, small_blocks: None, kind: str) -> None:
    stories = tell(4_000)
    files = {
        "txt": f"\n{MARK}\n".join(stories).encode(),
        "jsonl": "\n".join(map(json.dumps, stories)).encode(),
        "parquet": table(stories),
    }
    half = f"\n{MARK}\n".join(["first"] * 9).encode()
    more = {"txt": half, "jsonl": b'"first"\n' * 9, "parquet": table(["first"] * 9)}
    hub.publish("a/b", {f"train-0.{kind}": more[kind], f"train-1.{kind}": files[kind]})
    # The first 1 MiB of a .txt is read before its first document is returned.
    hub.fail("hold", at=200_000, after=1_300_000 if kind == "txt" else 600_000)
    with subprocess.Popen([sys.executable, "-c", CHILD, "a/b", "3000"]) as child:
        try:
            assert hub.holding.wait(60)
            assert not Path("data/b_3000.txt").exists()
            with pytest.raises(UserError, match="is being written by another download"):
                log.fetch(3_000, "a/b")
        finally:
            child.send_signal(signal.SIGKILL)
    hub.requests.clear()
    state = json.loads(Path("data/b_3000.txt.partial.json").read_text())
    assert state["documents"] > 300
    with Path("data/b_3000.txt.partial").open("ab") as torn:
        torn.write(b"torn te")
    Path("data/b_3000.txt.partial.json.0123abcd.tmp").write_bytes(b'{"torn')
    path = log.fetch(3_000, "a/b")
    assert list(documents(path)) == ["first"] * 9 + stories[:2_991]
    assert log.said(f"continuing after {state['documents']:,} documents")
    assert left_in_data() == [path.name, path.name + ".json"]
    assert not any("train-0" in request.path for request in hub.requests)
    if kind == "jsonl":
        assert min(hub.ranges()) == state["position"]["offset"]


def left_in_data() -> list[str]:
    return sorted(file.name for file in Path("data").iterdir())


def interrupted(hub: Hub, log: Log, n: int) -> None:
    """Start a download that fails after about 1 MB."""
    hub.fail("status", status=418, after=1_000_000)
    with pytest.raises(UserError, match="HTTP 418"):
        log.fetch(n)
    assert left_in_data() == [f"tinystories_{n}.txt.{end}" for end in ("partial", "partial.json")]


def test_a_new_commit_does_not_disturb_a_download_under_way(
    hub: Hub, log: Log, small_blocks: None
) -> None:
    hub.publish_tinystories(tell(4_000))
    interrupted(hub, log, 3_000)
    hub.publish_tinystories(tell(4_000, seed=1))
    assert list(documents(log.fetch(3_000))) == tell(4_000)[:3_000]
    assert log.said("continuing after")


def test_starts_over_when_the_commit_is_gone(hub: Hub, log: Log, small_blocks: None) -> None:
    commit = hub.publish_tinystories(tell(4_000))
    interrupted(hub, log, 3_000)
    hub.publish_tinystories(tell(4_000, seed=1))
    hub.withdraw(TINY, commit)
    assert list(documents(log.fetch(3_000))) == tell(4_000, seed=1)[:3_000]
    assert log.said("starting over")


def test_starts_over_when_the_etag_differs(hub: Hub, log: Log, small_blocks: None) -> None:
    hub.publish_tinystories(tell(4_000))
    interrupted(hub, log, 3_000)
    other = f"\n{MARK}\n".join(tell(4_000, seed=1)).encode()
    hub.alter(TINY, "TinyStoriesV2-GPT4-train.txt", other)
    assert list(documents(log.fetch(3_000))) == tell(4_000, seed=1)[:3_000]
    assert log.said("starting over")


def flip(path: Path, at: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def left_by_an_interrupted(hub: Hub, log: Log) -> dict[str, bytes]:
    """The files that a download leaves which fails after about 1 MB."""
    interrupted(hub, log, 3_000)
    return {path.name: path.read_bytes() for path in Path("data").iterdir()}


@pytest.mark.parametrize(
    "name", ["tinystories_3000.txt.partial", "tinystories_3000.txt.partial.json"]
)
def test_damaged_progress_is_thrown_away(hub: Hub, log: Log, small_blocks: None, name: str) -> None:
    stories = tell(4_000)
    hub.publish_tinystories(stories)
    left = left_by_an_interrupted(hub, log)
    covered = json.loads(left["tinystories_3000.txt.partial.json"])["bytes"]
    length = covered if name.endswith("partial") else len(left[name])
    for at in (0, length // 3, length // 2, length - 3):
        for path in Path("data").iterdir():
            path.unlink()
        for file, content in left.items():
            (Path("data") / file).write_bytes(content)
        flip(Path("data") / name, at)
        log.lines.clear()
        path = log.fetch(3_000)
        assert list(documents(path)) == stories[:3_000]
        begins = f"{path}: starting over, because data/{name} is damaged ("
        assert [line.startswith(begins) for line in log.lines if "over" in line] == [True]
        assert left_in_data() == [path.name, path.name + ".json"]


def test_a_cut_text_of_an_unfinished_download_is_noticed(
    hub: Hub, log: Log, small_blocks: None
) -> None:
    hub.publish_tinystories(tell(4_000))
    interrupted(hub, log, 3_000)
    partial = Path("data/tinystories_3000.txt.partial")
    partial.write_bytes(partial.read_bytes()[:1000])
    assert list(documents(log.fetch(3_000))) == tell(4_000)[:3_000]
    assert log.said("starting over, because data/tinystories_3000.txt.partial is damaged")


def test_a_record_without_a_hash_is_not_continued(hub: Hub, log: Log, small_blocks: None) -> None:
    hub.publish_tinystories(tell(4_000))
    interrupted(hub, log, 3_000)
    record = Path("data/tinystories_3000.txt.partial.json")
    state = durable.read_json(record)
    del state["sha256"]
    record.write_text(json.dumps(state))
    assert list(documents(log.fetch(3_000))) == tell(4_000)[:3_000]
    assert log.said("starting over")


def test_a_file_that_left_the_dataset_starts_the_download_over(
    hub: Hub, log: Log, small_blocks: None
) -> None:
    hub.publish_tinystories(tell(4_000))
    interrupted(hub, log, 3_000)
    record = Path("data/tinystories_3000.txt.partial.json")
    state = durable.read_json(record)
    state["position"]["file"] = "other.txt"
    durable.write_json(record, state)
    assert list(documents(log.fetch(3_000))) == tell(4_000)[:3_000]
    assert log.said("starting over, because the dataset has changed (other.txt is no longer")


def test_text_that_changes_on_the_disk_before_the_end_is_not_published(
    hub: Hub, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish_tinystories(tell(4_000))
    sync = durable.sync

    def sync_and_damage(file: BinaryIO) -> None:
        sync(file)
        if str(file.name).endswith(".partial"):
            with Path(file.name).open("r+b") as on_disk:
                on_disk.write(b"Stori")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "sync", sync_and_damage)
        with pytest.raises(UserError, match=r"partial: damaged while it was being written; run"):
            log.fetch(3_000)
    assert left_in_data() == []
    assert list(documents(log.fetch(3_000))) == tell(4_000)[:3_000]


def test_a_damaged_record_of_a_finished_download_is_named(hub: Hub, log: Log) -> None:
    hub.publish_tinystories(tell(50))
    path = log.fetch(20)
    record = Path(f"{path}.json")
    flip(record, record.read_text().index("20"))
    with pytest.raises(UserError, match=r"in the way, and its record .*json is damaged \(its chec"):
        log.fetch(20)
    path.rename("elsewhere.txt")
    assert log.fetch(20) == path


def test_a_downloaded_text_that_changed_is_named_when_it_is_read(hub: Hub, log: Log) -> None:
    hub.publish_tinystories(tell(50))
    path = log.fetch(20)
    said: list[str] = []
    for _ in range(2):
        survey(path, said.append)
    assert said == []
    flip(path, 1000)
    survey(path, said.append)
    assert said == [f"{path} has changed since its download, see {path.name}.json."]
    said.clear()
    flip(Path(f"{path}.json"), 30)
    flip(path, 1000, bit=1)
    survey(path, said.append)
    assert len(said) == 1
    assert said[0].startswith(f"{path} cannot be compared with its download: {path}.json is dam")


def test_another_request_does_not_continue_this_one(hub: Hub, log: Log, small_blocks: None) -> None:
    hub.publish_tinystories(tell(4_000))
    interrupted(hub, log, 3_000)
    path = log.fetch(10, output="data/tinystories_3000.txt")
    assert list(documents(path)) == tell(4_000)[:10]


# Faults


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("cut", {"at": 100_000, "times": 9}),
        ("cut", {"at": 0, "times": 5}),
        ("short", {"at": 50_000, "times": 3}),
        ("ignore_ranges", {"times": 1}),
        ("ignore_ranges", {"times": 1, "after": 400_000}),
        ("status", {"status": 500, "times": 3}),
        ("status", {"status": 503, "times": 5, "after": 400_000}),
        ("status", {"status": 429, "where": "file", "times": 2}),
        ("status", {"status": 500, "where": "api", "times": 2}),
    ],
)
def test_what_passes_is_waited_for(
    hub: Hub, log: Log, small_blocks: None, kind: str, settings: dict[str, object]
) -> None:
    stories = tell(2_500)
    hub.publish_tinystories(stories)
    hub.fail(kind, **settings)
    assert list(documents(log.fetch(2_000))) == stories[:2_000]
    assert hub.faults[0].times == 0
    assert max(log.naps, default=0) <= 16


@pytest.mark.parametrize("kind", ["cut", "short", "ignore_ranges"])
def test_a_table_survives_the_same(hub: Hub, log: Log, small_blocks: None, kind: str) -> None:
    stories = tell(2_000)
    hub.publish("a/b", {"train.parquet": table(stories)})
    hub.fail(kind, at=10_000, times=3)
    assert list(documents(log.fetch(2_000, "a/b"))) == stories
    hub.fail("status", status=418)
    with pytest.raises(UserError, match="HTTP 418"):
        log.fetch(1_000, "a/b")


def test_cut_then_ranges_ignored(hub: Hub, log: Log, small_blocks: None) -> None:
    stories = tell(2_500)
    hub.publish_tinystories(stories)
    hub.fail("cut", at=100_000)
    hub.fail("ignore_ranges", after=100_000)
    assert list(documents(log.fetch(2_500))) == stories


def test_back_off_doubles_and_obeys_retry_after(hub: Hub, log: Log) -> None:
    hub.publish_tinystories(tell(9))
    hub.fail("status", status=500, times=3)
    hub.fail("status", status=429, retry_after="7", times=1)
    hub.fail("status", status=429, retry_after="Wed, 21 Oct 2099 07:28:00 GMT", times=1)
    log.fetch(9)
    assert log.naps == [1, 2, 4, 7, 16]


def test_gives_up_after_some_tries_and_goes_on_later(
    hub: Hub, log: Log, small_blocks: None
) -> None:
    stories = tell(4_000)
    hub.publish_tinystories(stories)
    hub.fail("status", status=500, times=6, after=1_000_000)
    with pytest.raises(UserError, match=r"gave up \(HTTP 500\); run this again later"):
        log.fetch(3_000)
    assert len(log.naps) == 5
    assert not Path("data/tinystories_3000.txt").exists()
    assert list(documents(log.fetch(3_000))) == stories[:3_000]
    assert log.said("continuing after")


def test_a_body_that_is_always_short_is_given_up(hub: Hub, log: Log) -> None:
    hub.publish_tinystories(tell(9))
    hub.fail("short", at=1 << 30, times=1_000)
    with pytest.raises(UserError, match=r"gave up \(the connection was closed early\)"):
        log.fetch(9)


def test_a_pause_of_an_hour_is_not_slept_through(hub: Hub, log: Log) -> None:
    hub.publish_tinystories(tell(9))
    hub.fail("status", where="api", status=429, retry_after="3600")
    with pytest.raises(UserError, match="asks to wait 3600 s"):
        log.fetch(9)
    assert log.naps == []


@pytest.mark.parametrize("where", ["api", "file", "storage"])
def test_a_redirect_loop_is_refused(hub: Hub, log: Log, where: str) -> None:
    hub.publish_tinystories(tell(9))
    hub.fail("loop", where=where, times=1_000)
    with pytest.raises(UserError, match="too many redirects"):
        log.fetch(9)
    assert len(hub.requests) < 20


@pytest.mark.parametrize(
    ("kind", "message"), [("long", "longer than announced"), ("damage", "SHA-256 differs")]
)
def test_a_wrong_body_is_refused_and_nothing_of_it_kept(
    hub: Hub, log: Log, kind: str, message: str
) -> None:
    stories = tell(100)
    hub.publish_tinystories(stories)
    hub.fail(kind)
    with pytest.raises(UserError, match=message):
        log.fetch(1_000)
    assert left_in_data() == []
    assert list(documents(log.fetch(1_000))) == stories


def test_a_file_that_changes_while_it_is_read_is_refused(
    hub: Hub, log: Log, monkeypatch: pytest.MonkeyPatch, small_blocks: None
) -> None:
    hub.publish_tinystories(tell(2_000))

    def alter(seconds: float) -> None:
        name = "TinyStoriesV2-GPT4-train.txt"
        hub.alter(TINY, name, hub.content(TINY, name).replace(b"dog", b"god"))

    hub.fail("status", status=500, after=400_000)
    with pytest.raises(UserError, match="changed while it was being read"):
        download(DownloadConfig(num_samples=1_900), say=log.lines.append, sleep=alter)
    assert left_in_data() == []


# Access


def test_the_token_goes_to_the_hub_only(
    hub: Hub, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish_tinystories(tell(9))
    hub.token = "hf_secret"
    with pytest.raises(UserError, match="set HF_TOKEN"):
        log.fetch(9)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.requests.clear()
    log.fetch(9)
    for request in hub.requests:
        sent = request.headers.get("authorization")
        assert sent == ("Bearer hf_secret" if request.server == "hub" else None)
    assert {request.server for request in hub.requests} == {"hub", "storage"}


def test_an_unknown_dataset(hub: Hub, log: Log) -> None:
    with pytest.raises(UserError, match=r"not found on the hub \(HTTP 404\)"):
        log.fetch(9, "no/such")
    assert left_in_data() == []


@pytest.mark.parametrize("dataset", ["storys", "data/absent.txt", "/absent", "a/b/c", "a b/c"])
def test_neither_here_nor_on_the_hub(log: Log, dataset: str) -> None:
    with pytest.raises(UserError, match="not a local file or folder"):
        log.fetch(9, dataset)


def test_without_a_network(log: Log, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.close()
    with pytest.raises(UserError, match=r"cannot be reached.*--dataset stories") as caught:
        log.fetch(9)
    assert "\n" not in str(caught.value)
    assert log.naps == []
    assert left_in_data() == []


def test_a_log_in_page_is_not_the_hub(hub: Hub, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "answer_hub", lambda self, handler: handler.reply(200, {}, b"<html>"))
    with pytest.raises(UserError, match="does not answer like the hub"):
        log.fetch(9)


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://mirror", "https://"])
def test_a_wrong_endpoint(log: Log, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(UserError, match="HF_ENDPOINT is"):
        log.fetch(9)


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


def test_a_full_disk(hub: Hub, log: Log, small_blocks: None) -> None:
    stories = tell(2_000)
    hub.publish_tinystories(stories)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(UserError, match=r"tinystories_1000\.txt: File too large"):
            log.fetch(1_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not Path("data/tinystories_1000.txt").exists()
    assert list(documents(log.fetch(1_000))) == stories[:1_000]
    assert log.said("continuing after")


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
