"""A file is complete or absent, whichever call fails, and no temporary file is left behind."""

import errno
import fcntl
import os
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun import durable
from tests.checkpoint.faults import Call, intercepted, trace


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_content_is_on_the_disk_before_its_name(tmp_path: Path) -> None:
    with mock.patch("secrets.token_hex", return_value="0123abcd"):
        calls = trace(lambda: durable.write(tmp_path / "file", b"one ", b"two"))
    assert calls == [
        ("write", "file.0123abcd.tmp"),
        ("fsync", "file.0123abcd.tmp"),
        ("rename", "file"),
        ("fsync", "folder"),
    ]
    assert (tmp_path / "file").read_bytes() == b"one two"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("failing", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, failing: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"earlier")

    def full(call: Call) -> None:
        if call[0] == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with intercepted(full), pytest.raises(OSError, match="No space left"):
        durable.write(path, b"later")
    assert path.read_bytes() == b"earlier"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"earlier")

    def fail_halfway() -> None:
        with durable.replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail_halfway()
    assert path.read_bytes() == b"earlier"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("supported", [True, False])
def test_macos_flushes_the_drive_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool
) -> None:
    calls: list[str] = []

    def control(descriptor: int, command: int) -> int:
        assert command == 51
        calls.append("full")
        if not supported:
            raise OSError(errno.ENOTSUP, "not on this file system")
        return 0

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", control)
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync"))
    durable.write(tmp_path / "file", b"")
    assert calls == (["full"] * 2 if supported else ["full", "fsync"] * 2)


@pytest.mark.parametrize(("number", "tolerated"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_only_a_system_that_cannot_flush_folders_may_leave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, tolerated: bool
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(durable, "sync_descriptor", fail)
    if tolerated:
        durable.sync_folder(tmp_path)
    else:
        with pytest.raises(OSError, match="Input/output"):
            durable.sync_folder(tmp_path)


def test_only_our_leftovers_are_removed(tmp_path: Path) -> None:
    ours = ["a.0123abcd.tmp", "a.ffffffff.tmp"]
    others = ["a", "a.0123abcd", "a.0123ABCD.tmp", "a.tmp", "b.0123abcd.tmp", "ca.0123abcd.tmp"]
    for name in ours + others:
        (tmp_path / name).touch()
    durable.remove_leftovers(tmp_path, lambda name: name == "a")
    assert names(tmp_path) == sorted(others)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(name=st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1))
def test_a_leftover_of_any_name_is_known(name: str) -> None:
    match = durable.TEMPORARY.fullmatch(durable.temporary_name(Path("x") / f"_{name}").name)
    assert match
    assert match[1] == f"_{name}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(record=st.dictionaries(st.text(), json_values, max_size=3))
def test_a_record_comes_back(tmp_path_factory: pytest.TempPathFactory, record: dict) -> None:
    path = tmp_path_factory.mktemp("record") / "record.json"
    durable.write_json(path, record)
    assert durable.read_json(path) == record


def test_a_path_that_is_not_utf8_comes_back(tmp_path: Path) -> None:
    record = {"data": os.fsdecode(b"t\xe9xt")}
    durable.write_json(tmp_path / "record.json", record)
    assert durable.read_json(tmp_path / "record.json") == record


def test_a_missing_record_is_empty_and_one_of_others_has_no_checksum(tmp_path: Path) -> None:
    assert durable.read_json(tmp_path / "record.json") == {}
    (tmp_path / "record.json").write_text('{"data": "a.txt"}')
    assert durable.read_json(tmp_path / "record.json") == {"data": "a.txt"}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[1]", b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}"]
)
def test_what_is_no_record_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(durable.DamagedRecord, match=r"record\.json is damaged"):
        durable.read_json(tmp_path / "record.json")


def test_a_record_with_a_flipped_bit_or_a_lost_end_is_never_another(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = {"data": "data/stories_300.txt", "documents": 300, "source": {"offset": 1.5}}
    durable.write_json(path, record)
    whole = path.read_bytes()
    flipped = [
        whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
        for at in range(len(whole))
        for bit in range(8)
    ]
    named = 0
    for damaged in flipped + [whole[:length] for length in range(len(whole))]:
        path.write_bytes(damaged)
        try:
            found = durable.read_json(path)
        except durable.DamagedRecord:
            named += 1
        else:
            known = found.keys() & record.keys()
            assert {key: found[key] for key in known} == record
    assert named > len(whole) * 8


def test_what_is_set_aside_replaces_nothing(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "file").write_text(str(number))
        assert durable.set_aside(folder) == tmp_path / f"run.{number}"
    assert [(tmp_path / f"run.{number}/file").read_text() for number in (1, 2, 3)] == list("123")


def test_new_folders_are_flushed_from_the_outside_in(tmp_path: Path) -> None:
    flushed: list[Path] = []
    with mock.patch.object(durable, "sync_folder", flushed.append):
        assert durable.make_folder(tmp_path / "a" / "b") == [tmp_path / "a", tmp_path / "a" / "b"]
        assert flushed == [tmp_path, tmp_path / "a"]
        assert durable.make_folder(tmp_path / "a" / "b") == []
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        durable.make_folder(tmp_path / "file" / "below")


def test_no_other_module_makes_folders() -> None:
    package = Path(durable.__file__).parent
    makers = [path.name for path in package.rglob("*.py") if "mkdir(" in path.read_text()]
    assert makers == ["durable.py"]


def test_a_folder_of_a_killed_writer_is_removed_and_that_of_a_live_one_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model"
    dead = tmp_path / "model.0123abcd.tmp"
    others = [tmp_path / name for name in ("other.0123abcd.tmp", "model.tmp", "model.1")]
    for folder in (dead, *others):
        folder.mkdir()
        (folder / "file").touch()
    with durable.replacing_folder(path) as alive:
        assert not dead.exists()
        with durable.replacing_folder(path) as second:
            assert alive.exists()
            second.rename(path)
        assert names(tmp_path) == sorted([alive.name, "model", *(one.name for one in others)])
    assert names(tmp_path) == sorted(["model", *(one.name for one in others)])
