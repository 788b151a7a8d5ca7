"""A download that was killed or changed is resumed, or begun anew, and its text is the same."""

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from homespun import durable, workspace
from homespun.data.corpus import survey
from homespun.data.documents import documents
from homespun.errors import UserError
from tests.data.downloading import MARK, TINY, Log, left_in_data, table, tell
from tests.data.hub import Hub

pytestmark = pytest.mark.usefixtures("in_own_folder")


def test_what_is_there_is_not_fetched_again(hub: Hub, log: Log) -> None:
    hub.publish_tinystories(tell(50))
    path = log.fetch(20)
    workspace.remember("data", Path("other.txt"), print)
    asked = len(hub.requests)
    assert log.fetch(20) == path
    assert len(hub.requests) == asked
    assert log.said("already there, 20 documents")
    assert workspace.recall("data") == path
    log.fetch(30, output=str(path))
    assert len(list(documents(path))) == 30


def test_a_folder_that_cannot_remember_a_download_says_so(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, record: dict[str, Any]) -> None:
        if path == workspace.RECORD:
            raise OSError(errno.EROFS, "Read-only file system")
        write_json(path, record)

    write_json = durable.write_json
    monkeypatch.setattr(durable, "write_json", refuse)
    path = log.fetch(3, dataset="stories")
    assert path.exists()
    assert log.said(f"(Read-only file system), so this folder does not remember {path}: name it")


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
