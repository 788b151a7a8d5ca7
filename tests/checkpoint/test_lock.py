"""Only one run writes into a folder, and the lock ends with its process."""

import contextlib
import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from homespun import durable
from homespun.checkpoint.folder import CheckpointFolder
from homespun.errors import UserError
from homespun.records.metrics import MetricsLog
from tests.checkpoint.folders import ROOT, made, names, set_aside

HOLD = """
import sys
from pathlib import Path
from homespun.checkpoint.folder import CheckpointFolder
with CheckpointFolder(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """Another process that holds the lock of the folder until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "checkpoints")],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_the_second_run_is_told_who_has_the_folder(holder: Any, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    with (
        pytest.raises(UserError, match=rf"process {holder.pid} on .*since \d{{4}}-") as caught,
        folder.lock(),
    ):
        pass
    assert "\n" not in str(caught.value)
    (folder.path / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="in use"):
        set_aside(folder)
    assert names(tmp_path) == ["checkpoints"]


def test_who_has_the_folder_is_seen_without_the_lock(holder: Any, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    found = folder.holder()
    assert found
    assert (found.pid, found.is_here) == (holder.pid, True)
    holder.stdin.close()
    holder.wait()
    assert folder.holder() is None
    assert CheckpointFolder(tmp_path / "none").holder() is None
    # the number of another process that lives: the lock alone decides
    note = (folder.path / ".lock").read_text().replace(str(holder.pid), str(os.getpid()))
    (folder.path / ".lock").write_text(note)
    assert folder.holder() is None
    with folder.lock():
        found = folder.holder()
        assert found
        assert found.pid == os.getpid()


@pytest.mark.parametrize("killed", [True, False])
def test_the_lock_ends_with_its_process(holder: Any, tmp_path: Path, killed: bool) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    if killed:
        holder.send_signal(signal.SIGKILL)
    else:
        holder.stdin.close()
    assert holder.wait() == (-signal.SIGKILL if killed else 0)
    with folder.lock():
        line = (folder.path / ".lock").read_text()
        assert line.startswith(f"process {os.getpid()} ")
        assert line.count("\n") == 1
        with pytest.raises(UserError, match=f"process {os.getpid()} "), folder.lock():
            pass
    with folder.lock():
        pass


def test_the_lock_ends_with_an_error(folder: CheckpointFolder, tmp_path: Path) -> None:
    other = CheckpointFolder(tmp_path / "other")
    with pytest.raises(OSError, match="of the run itself"), other.lock():
        raise OSError("of the run itself")
    with other.lock():
        pass


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    folder = CheckpointFolder(made(tmp_path / "run"))
    left = [
        "best.npz.0123abcd.tmp",
        "checkpoint_step_1.npz.0123abcd.tmp",
        "checkpoint_step_12.state.npz.ffffffff.tmp",
    ]
    others = ["best.npz", "mine.tmp", "model.npz.0123abcd.tmp"]
    for name in left + others:
        (folder.path / name).touch()
    with folder.lock():
        assert names(folder.path) == others


def test_a_lock_in_a_folder_that_was_moved_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the folder and locking it, another process sets it aside and takes its place."""
    folder = CheckpointFolder(made(tmp_path / "run"))
    flock, moved = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not moved:
            folder.path.rename(tmp_path / "run.1")
            descriptors = [os.open(made(folder.path), os.O_RDONLY)]
            flock(descriptors[0], operation)
            moved.extend(descriptors)
            (folder.path / ".lock").write_text("process 1")
        flock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", late)
    with pytest.raises(UserError, match="in use by process 1"), folder.lock():
        pass
    os.close(moved[0])
    with folder.lock():
        assert (tmp_path / "run").samefile(folder.path)


def test_a_removed_lock_file_lets_nobody_in(holder: Any, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    (folder.path / ".lock").unlink()
    with pytest.raises(UserError, match="in use by another process"), folder.lock():
        pass
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.ENOTSUP])
def test_where_folders_cannot_be_locked_the_file_is(
    holder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    flock = fcntl.flock

    def like_nfs(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        flock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", like_nfs)
    with (
        pytest.raises(UserError, match=f"process {holder.pid} "),
        CheckpointFolder(tmp_path / "checkpoints").lock(),
    ):
        pass
    with CheckpointFolder(tmp_path / "other").lock():
        pass


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl"])
def test_a_link_in_place_of_a_file_is_refused_and_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("no line end")
    run = made(tmp_path / "run")
    for target in ("precious", "missing"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(tmp_path / target)
        with pytest.raises(UserError, match=f"{name} is a link"), CheckpointFolder(run).lock():
            pass
        with pytest.raises(UserError, match="is a link"):
            MetricsLog(run / name)
    assert (tmp_path / "precious").read_text() == "no line end"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["precious", "run"]
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(UserError, match="no regular file"), CheckpointFolder(run).lock():
        pass


def test_a_failure_before_there_is_a_run_leaves_nothing(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "a" / "b")
    with contextlib.suppress(UserError), folder.lock():
        raise UserError("no text")
    assert list(tmp_path.iterdir()) == []
    with contextlib.suppress(UserError), folder.lock():
        (folder.path / "metrics.jsonl").touch()
        raise UserError("standstill")
    assert names(folder.path) == ["metrics.jsonl"]


def test_the_name_of_a_new_folder_is_flushed(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "runs" / "a")
    with mock.patch.object(durable, "sync_folder") as flushed, folder.lock() as lock:
        assert [call.args[0] for call in flushed.mock_calls] == [tmp_path, tmp_path / "runs"]
        (folder.path / "best.npz").touch()
        flushed.reset_mock()
        lock.set_aside()
    assert {call.args[0] for call in flushed.mock_calls} == {tmp_path / "runs"}
