"""An earlier run, and the later part of a run that goes back, are moved aside and stay runs."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from homespun import durable
from homespun.checkpoint.folder import CheckpointFolder
from homespun.errors import UserError
from tests.checkpoint.folders import made, names, pairs, save, set_aside, tensors


@pytest.mark.parametrize(
    "name", ["checkpoint_step_1.npz", "best.npz", "best_model.npz", "metrics.jsonl"]
)
def test_an_earlier_run_is_set_aside(tmp_path: Path, name: str) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for n in (1, 2):
        assert set_aside(folder) is None
        (folder.path / name).write_text(str(n))
        (folder.path / "notes.txt").touch()
        assert set_aside(folder) == tmp_path / f"checkpoints.{n}"
        assert (tmp_path / f"checkpoints.{n}" / name).read_text() == str(n)
        assert names(folder.path) == []


def test_after_a_run_was_set_aside_both_folders_are_guarded(tmp_path: Path) -> None:
    folder = CheckpointFolder(made(tmp_path / "run"))
    (folder.path / "best.npz").touch()
    with folder.lock() as lock:
        assert lock.set_aside() == tmp_path / "run.1"
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} "), folder.lock():
            pass
        with CheckpointFolder(tmp_path / "run.1").lock():  # nobody works in the earlier one
            pass


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EACCES])
def test_a_folder_that_cannot_be_renamed_keeps_earlier_runs_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As a mount point, or below a folder of somebody else."""
    folder = CheckpointFolder(made(tmp_path / "run"))
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path == folder.path:
            raise OSError(number, os.strerror(number))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    (folder.path / "lost+found").mkdir()
    for n in (1, 2):
        save(folder, n)
        (folder.path / "metrics.jsonl").write_text(str(n))
        (folder.path / "training.png").touch()
        with folder.lock() as lock:
            assert lock.set_aside() == folder.path / f"earlier.{n}"
            with pytest.raises(UserError, match="in use"), folder.lock():
                pass
        earlier = CheckpointFolder(folder.path / f"earlier.{n}")
        assert names(earlier.path) == sorted([*pairs(n), "metrics.jsonl", "training.png"])
        assert earlier.latest() is not None
        assert names(folder.path) == [*(f"earlier.{k}" for k in range(1, n + 1)), "lost+found"]


def test_going_back_keeps_the_later_part_as_a_run_of_its_own(tmp_path: Path) -> None:
    folder = CheckpointFolder(made(tmp_path / "run"), keep=9)
    save(folder, 1, 2, 3)
    folder.save_best(3, tensors(3), {})
    (folder.path / "metrics.jsonl").write_text("1\n2\n3\n")
    with folder.lock() as lock:
        assert lock.go_back(1, 2) == folder.path / "later.1"
    assert names(folder.path) == sorted([*pairs(1), "later.1", "metrics.jsonl"])
    later = CheckpointFolder(folder.path / "later.1")
    assert names(later.path) == sorted([*pairs(2, 3), "best.npz", "metrics.jsonl"])
    assert (later.path / "metrics.jsonl").read_text() == "1\n2\n3\n"
    assert later.latest() is not None
    (folder.path / "metrics.jsonl").write_text("1\n")
    with folder.lock() as lock:
        assert lock.go_back(1, 2) is None
    assert names(folder.path) == sorted([*pairs(1), "later.1", "metrics.jsonl"])


def test_killed_while_going_back_the_folder_is_that_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every rename, the newest checkpoint is one of the run, and nothing is lost."""
    rename = Path.rename
    for k in range(1, 6):
        folder = CheckpointFolder(made(tmp_path / str(k)), keep=9)
        save(folder, 1, 2, 3)
        folder.save_best(3, tensors(3), {})
        left = iter(range(k - 1, -1, -1))

        def killed(path: Path, target: Path, left: Any = left) -> Path:
            if next(left) == 0:
                raise KeyboardInterrupt
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt), folder.lock() as lock:
            lock.go_back(1, 0)
        monkeypatch.setattr(Path, "rename", rename)
        newest = folder.latest(lambda line: None)
        assert newest is not None
        with folder.lock() as lock:
            lock.go_back(1, 0)
        assert names(folder.path)[:2] == pairs(1)
        aside = sorted(path.name for path in folder.path.glob("later.*/*"))
        assert aside == sorted([*pairs(2, 3), "best.npz"])


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    folder = CheckpointFolder(made(tmp_path / "run"))
    (folder.path / "thesis.txt").touch()
    assert set_aside(folder) is None
    assert names(folder.path) == ["thesis.txt"]


def test_a_linked_folder_stays_on_its_disk(tmp_path: Path) -> None:
    made(tmp_path / "disk" / "run")
    (tmp_path / "disk" / "run" / "best.npz").touch()
    (tmp_path / "checkpoints").symlink_to(tmp_path / "disk" / "run")
    folder = CheckpointFolder(tmp_path / "checkpoints")
    assert set_aside(folder) == tmp_path / "disk" / "run.1"
    assert names(folder.path) == []


def test_the_folder_one_is_in_does_not_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "best.npz").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is your working directory"):
        set_aside(CheckpointFolder(Path()))


def test_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9e9, 8e9, 1e9))
    folder = CheckpointFolder(tmp_path / "not" / "yet")
    folder.check_space(1_000_000_000)
    with pytest.raises(UserError, match=r"need 1,001 MB.* 1,000 MB are free"):
        folder.check_space(1_001_000_000)


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be written"), CheckpointFolder(path).lock():
            pass

    def read_only(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(durable, "open_file", read_only)
        with pytest.raises(UserError, match="Read-only"), CheckpointFolder(tmp_path / "run").lock():
            pass
    # A run that was there before: its lock file can be written, and its folder cannot.
    folder = CheckpointFolder(made(tmp_path / "protected"))
    save(folder, 1)
    with folder.lock():
        pass
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder.path)
    with pytest.raises(UserError, match=r"protected.* cannot be written"), folder.lock():
        pass
