"""A text and its tokens are read once, and again only after a change. A damaged manifest is ignored."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homespun.data import corpus as corpus_module
from homespun.data import manifest as manifest_module
from homespun.data import prepare as prepare_module
from homespun.data.corpus import Corpus
from homespun.data.manifest import TIMESTAMP_GRANULARITY, Manifest, Snapshot
from homespun.data.prepare import prepare
from homespun.data.shards import Shard, open_shard
from homespun.terminal import Say
from homespun.tokenizer import train
from tests.data.files import written

TEXT = "\n<|endoftext|>\n".join(f"story number {i}" for i in range(300))


def survey(path: Path, say: Say | None = None) -> Corpus:
    """The survey of a text, with its manifest in the folder `tokens` beside it."""
    return corpus_module.survey(path, say, path.parent / "tokens")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return written(tmp_path / "stories.txt", TEXT)


@pytest.fixture
def fine_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system whose times differ after every change, so that a file can be trusted at once."""
    monkeypatch.setattr(manifest_module, "TIMESTAMP_GRANULARITY", 0)


@pytest.fixture
def n_readings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one entry each time a text is read."""
    readings: list[int] = []
    read = corpus_module.documents

    def counted(path: Path) -> Iterator[str]:
        readings.append(1)
        return read(path)

    monkeypatch.setattr(corpus_module, "documents", counted)
    return readings


def later(path: Path, change: Callable[[], object]) -> None:
    """Make a change, repeatedly until the file has a new change time."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        change()


def rewrite(path: Path) -> None:
    """Write other text of the same size into the same file, and restore its modification time."""
    times = path.stat()
    later(path, lambda: path.write_text(TEXT.replace("9", "8")))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert path.stat().st_size == times.st_size


def replace(path: Path) -> None:
    """Put another file of the same size in its place."""
    path.with_name("new").write_text(TEXT.replace("9", "8"))
    path.with_name("new").replace(path)


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("\n<|endoftext|>\none more")


# Texts


@pytest.mark.usefixtures("fine_clock")
def test_a_text_is_read_once(text: Path, n_readings: list[int]) -> None:
    first = survey(text)
    assert len(n_readings) == 1
    assert survey(text) == first
    assert len(n_readings) == 1
    assert list(first.split()) == list(survey(text).split())


@pytest.mark.usefixtures("fine_clock")
@pytest.mark.parametrize("lengths", [[1] * 400, [1, 2, 3, 30] * 10, [5000]])
def test_every_kind_of_split_is_known_again(
    tmp_path: Path, n_readings: list[int], lengths: list[int]
) -> None:
    stories = [f"story {i}" + " and so on" * n for i, n in enumerate(lengths)]
    text = written(tmp_path / "a.txt", "\n<|endoftext|>\n".join(stories))
    first = survey(text)
    n = len(n_readings)
    assert survey(text) == first
    assert len(n_readings) == n


@pytest.mark.usefixtures("fine_clock")
@pytest.mark.parametrize("change", [rewrite, replace, append])
def test_a_changed_text_is_read_again(
    text: Path, n_readings: list[int], change: Callable[[Path], None]
) -> None:
    first = survey(text)
    change(text)
    again = survey(text)
    assert len(n_readings) == 2
    assert again.sha256 != first.sha256
    assert list(again.split())  # raises an error if the text differs from its survey


@pytest.mark.usefixtures("fine_clock")
def test_a_folder_is_read_again_when_a_file_comes_or_goes(
    tmp_path: Path, n_readings: list[int]
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    written(folder / "a.txt", TEXT)
    said: list[str] = []
    alone = survey(folder, said.append)
    written(folder / "b.txt", TEXT)
    written(folder / "c.csv", TEXT)
    assert survey(folder, said.append).n_documents == 2 * alone.n_documents
    (folder / "b.txt").unlink()
    assert survey(folder, said.append) == alone
    assert len(n_readings) == 3
    assert survey(folder, said.append) == alone
    assert len(n_readings) == 3
    assert said == [f"Left out of {folder}: 1 other file."] * 3


def test_a_text_of_this_moment_is_not_trusted(text: Path, n_readings: list[int]) -> None:
    """A change within the same tick of the clock would leave the same times."""
    survey(text)
    survey(text)
    assert len(n_readings) == 2


def test_files_are_reliable_once_they_are_older_than_a_tick(text: Path) -> None:
    snapshot = Snapshot([text])
    changed = max(text.stat().st_mtime_ns, text.stat().st_ctime_ns)
    snapshot.taken = changed + TIMESTAMP_GRANULARITY
    assert snapshot.is_reliable()
    snapshot.taken -= 1
    assert not snapshot.is_reliable()


@pytest.mark.usefixtures("fine_clock")
def test_a_change_during_reading_is_not_recorded(text: Path) -> None:
    snapshot = Snapshot([text])
    later(text, lambda: text.write_text(TEXT.replace("9", "8")))
    manifest = Manifest(text.with_name("manifest"), 1)
    manifest.note("text", snapshot, "old")
    assert manifest.recall("text", snapshot) is None
    manifest.save()
    assert not text.with_name("manifest").exists()


# Manifests


@pytest.mark.usefixtures("fine_clock")
def test_a_damaged_manifest_is_not_trusted(text: Path) -> None:
    first = survey(text)
    [manifest] = text.parent.glob("tokens/*")
    whole = manifest.read_bytes()
    for at in range(0, len(whole), 23):
        manifest.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert survey(text) == first
        manifest.write_bytes(whole[:at])
        assert survey(text) == first


@pytest.mark.usefixtures("fine_clock")
@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"version": 1}', '{"entries": []}'])
def test_what_is_no_manifest_is_written_anew(
    text: Path, n_readings: list[int], content: str
) -> None:
    first = survey(text)
    [manifest] = text.parent.glob("tokens/*")
    manifest.write_text(content)
    assert survey(text) == first
    assert survey(text) == first
    assert len(n_readings) == 2


@pytest.mark.usefixtures("fine_clock")
def test_facts_found_by_other_rules_are_forgotten(
    text: Path, n_readings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    survey(text)
    monkeypatch.setattr(corpus_module, "RULES", corpus_module.RULES + 1)
    survey(text)
    assert len(n_readings) == 2


@pytest.mark.usefixtures("fine_clock")
def test_a_manifest_that_cannot_be_written_is_no_error(text: Path, n_readings: list[int]) -> None:
    text.with_name("tokens").write_text("a file is in the way")
    assert survey(text) == survey(text)
    assert len(n_readings) == 2


def test_the_rules_have_a_version(tmp_path: Path) -> None:
    """If this fails, raise `RULES` in `corpus` and write the new hashes here."""
    stories = written(tmp_path / "a.txt", "\ufeff" + TEXT.replace("number 7", "\r\n  \n") + "\n")
    book = written(tmp_path / "b.txt", "One line. And\n\nanother paragraph!\n" * 300)
    lines = written(tmp_path / "c.jsonl", "\n".join(map(json.dumps, [TEXT * 300, "b\0", "  "])))
    talks = [{"question": f" Q{n}\r\n", "answer": "A" * n} for n in range(40)]
    chats = written(tmp_path / "d.jsonl", "\n".join(map(json.dumps, talks)))
    splits = [split_of(survey(path)) for path in (stories, book, lines, chats)]
    assert corpus_module.RULES == 3
    assert splits == [
        ("67b07ba59961", 300, 33),
        ("20d3115cfc5d", 37, 1),
        ("18511b15bd85", 684, 68),
        ("9ecb8f2be5a7", 39, 4),
    ]


def split_of(corpus: Corpus) -> tuple[str, int, int]:
    sides = list(corpus.split())
    return corpus.sha256[:12], len(sides), sum(is_validation for _, is_validation in sides)


# Shards


@pytest.mark.usefixtures("fine_clock")
def test_a_shard_is_verified_once(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []

    def watched(path: Path, **expected: str) -> Shard:
        verified.append(path.name)
        return open_shard(path, **expected)

    monkeypatch.setattr(prepare_module, "SHARD_BYTES", 1_000)
    monkeypatch.setattr(prepare_module, "open_shard", watched)
    corpus, tokenizer = survey(text), train([TEXT], 270)
    folder = text.with_name("tokens")
    prepared = prepare(corpus, tokenizer, folder)
    assert len(verified) == len(set(verified)) > 3
    verified.clear()
    again = prepare(corpus, tokenizer, folder)
    assert not verified
    assert again.training[:].tolist() == prepared.training[:].tolist()
    victim = prepared.folder / "training-00001.tokens"
    content = victim.read_bytes()
    victim.with_name("copy").write_bytes(content)
    victim.with_name("copy").replace(victim)
    prepare(corpus, tokenizer, folder)
    assert verified == [victim.name]
