"""A folder always has a complete checkpoint, even after a failure or a kill, and only one run writes into it."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from homespun import durable
from homespun.checkpoint.archive import CheckpointError, write_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.opening import open_weights
from homespun.errors import UserError
from homespun.records.metrics import MetricsLog
from tests.checkpoint.faults import Call, intercepted, trace

ROOT = Path(__file__).parents[2]


def tensors(version: float) -> list[tuple[str, Any]]:
    return [
        ("wte.weight", np.full((4, 8), version, np.float32)),
        ("exp_avg/b", np.full(3, version)),
    ]


def save(folder: CheckpointFolder, *steps: int, version: float | None = None) -> None:
    for step in steps:
        v = step if version is None else version
        folder.save(step, tensors(v), tensors(v), {"v": v}, {"v": v})


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.name != ".lock")


def set_aside(folder: CheckpointFolder) -> Path | None:
    with folder.lock() as lock:
        return lock.set_aside()


def pairs(*steps: int) -> list[str]:
    return sorted(f"checkpoint_step_{n}{s}.npz" for n in steps for s in ("", ".state"))


def flip(path: Path, place: float = 0.3) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    with folder.lock():
        yield folder


# Saving and finding


def test_save_and_latest(folder: CheckpointFolder) -> None:
    assert folder.latest() is None
    path = folder.save(5, tensors(1), tensors(2), {"config": {"a": 1}}, {"position": [0, 80]})
    newest = folder.latest()
    assert newest is not None
    assert path == folder.path / "checkpoint_step_5.npz" == newest.weights.path
    assert newest.step == newest.weights.step == newest.state.step == 5
    assert newest.weights.header == {"config": {"a": 1}}
    assert newest.state.header == {"position": [0, 80], "weights_sha256": newest.weights.sha256}
    assert [(n, float(t.flat[0])) for n, t in newest.tensors()] == [
        ("wte.weight", 1.0), ("exp_avg/b", 1.0), ("wte.weight", 2.0), ("exp_avg/b", 2.0),
    ]  # fmt: skip


def test_equal_runs_give_equal_files(tmp_path: Path) -> None:
    for run in ("a", "b"):
        save(CheckpointFolder(_made(tmp_path / run)), 1, 2)
    for name in pairs(1, 2):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_steps_count_as_numbers_and_times_not_at_all(folder: CheckpointFolder) -> None:
    save(folder, 9, 10, 100)
    for n, path in enumerate(sorted(folder.path.glob("checkpoint_step_*"), reverse=True)):
        os.utime(path, (n, n))
    newest = folder.latest()
    assert newest is not None
    assert newest.step == 100


def test_other_names_are_not_steps(folder: CheckpointFolder) -> None:
    save(folder, 1)
    for name in (
        "checkpoint_step_007.npz",
        "checkpoint_step_9.npz.bak",
        "checkpoint_step_x.npz",
        "checkpoint_step_٣.npz",
    ):
        (folder.path / name).write_bytes(b"")
    skipped: list[str] = []
    newest = folder.latest(skipped.append)
    assert newest is not None
    assert (newest.step, skipped) == (1, [])


@pytest.mark.parametrize("suffix", ["", ".state"])
@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.98, None])
def test_a_damaged_checkpoint_is_named_and_skipped(
    folder: CheckpointFolder, suffix: str, place: float | None
) -> None:
    save(folder, 1, 2)
    victim = folder.path / f"checkpoint_step_2{suffix}.npz"
    if place is None:
        victim.write_bytes(victim.read_bytes()[:-500])
    else:
        flip(victim, place)
    skipped: list[str] = []
    newest = folder.latest(skipped.append)
    assert newest is not None
    assert newest.step == 1
    assert len(skipped) == 1
    assert victim.name in skipped[0]
    with pytest.warns(UserWarning, match=victim.name):
        folder.latest()


def test_files_that_do_not_belong_together(folder: CheckpointFolder) -> None:
    save(folder, 1, 2, 3)
    (folder.path / "checkpoint_step_3.state.npz").unlink()
    write_archive(folder.path / "checkpoint_step_2.npz", tensors(9), {}, step=2)
    for suffix in ("", ".state"):
        shutil.copy(
            folder.path / f"checkpoint_step_1{suffix}.npz",
            folder.path / f"checkpoint_step_4{suffix}.npz",
        )
    shutil.copy(folder.path / "checkpoint_step_1.npz", folder.path / "checkpoint_step_5.state.npz")
    skipped: list[str] = []
    newest = folder.latest(skipped.append)
    assert newest is not None
    assert newest.step == 1
    reasons = (
        "holds weights",
        "saved at step 1",
        "not saved completely",
        "is not the file that was saved with it",
    )
    assert [reason in line for reason, line in zip(reasons, skipped, strict=True)] == [True] * 4


# Pruning


def test_the_newest_are_kept_and_the_best(tmp_path: Path) -> None:
    folder = CheckpointFolder(_made(tmp_path / "run"), keep=2)
    folder.save_best(1, tensors(1), {})
    (folder.path / "notes.txt").touch()
    save(folder, 1, 2, 10, 9, 11)
    assert names(folder.path) == sorted(["best.npz", "notes.txt", *pairs(10, 11)])


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    folder = CheckpointFolder(_made(tmp_path / "run"), keep=2)
    save(folder, 1, 2)
    (folder.path / "checkpoint_step_2.state.npz").unlink()
    save(folder, 3)
    assert names(folder.path) == pairs(1, 3)


def test_a_damaged_later_step_does_not_push_out_a_good_one(tmp_path: Path) -> None:
    folder = CheckpointFolder(_made(tmp_path / "run"), keep=1)
    save(folder, 3)
    flip(folder.path / "checkpoint_step_3.npz")
    save(folder, 2)
    newest = folder.latest(lambda line: None)
    assert newest is not None
    assert newest.step == 2
    assert names(folder.path) == pairs(2, 3)
    save(folder, 3)
    assert names(folder.path) == pairs(3)


def test_nothing_is_pruned_before_the_new_one_reads_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(_made(tmp_path / "run"), keep=1)
    save(folder, 1)

    def broken_disk(path: Path, *args: Any, **kwargs: Any) -> str:
        sha256 = write_archive(path, *args, **kwargs)
        flip(path)
        return sha256

    monkeypatch.setattr("homespun.checkpoint.folder.write_archive", broken_disk)
    with pytest.raises(CheckpointError, match="damaged"):
        save(folder, 2)
    newest = folder.latest(lambda line: None)
    assert newest is not None
    assert newest.step == 1


# A kill or a failure at every call


def test_killed_at_every_call(tmp_path: Path) -> None:
    program = subprocess.run(
        [sys.executable, "-m", "tests.checkpoint.kill_points", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert program.returncode == 0, program.stderr
    kills = [json.loads(line) for line in program.stdout.splitlines()]
    struck = Counter((kill["scenario"], kill["call"][0]) for kill in kills)
    assert struck["next", "write"] >= 6
    assert (struck["next", "fsync"], struck["next", "rename"], struck["next", "unlink"]) == (
        4,
        2,
        2,
    )
    assert (struck["same", "fsync"], struck["same", "rename"], struck["same", "unlink"]) == (
        5,
        3,
        1,
    )
    # The earlier weights first get their usual name back.
    assert (struck["torn", "fsync"], struck["torn", "rename"]) == (6, 4)
    assert (struck["best", "fsync"], struck["best", "rename"]) == (2, 1)

    whole = {
        "next": ([1, [1.0]], [2, [2.0]]),
        "same": ([1, [1.0]], [1, [2.0]]),
        "torn": ([1, [1.0]], [1, [2.0]]),
        "best": ([1, [1.0]],),
    }
    for kill in kills:
        earlier, later = whole[kill["scenario"]][0], whole[kill["scenario"]][-1]
        assert [kill["after"]["step"], kill["after"]["versions"]] in (earlier, later), kill
        assert kill["best"] in ([1.0], [2.0] if kill["scenario"] == "best" else [1.0]), kill
        assert [kill["again"]["step"], kill["again"]["versions"]] == later, kill
        assert kill["again"]["skipped"] == [], kill
        assert kill["files"] == sorted([".lock", "best.npz", *pairs(later[0])]), kill


@pytest.mark.parametrize("committed", [True, False])
def test_a_replaced_file_is_not_left_behind(tmp_path: Path, committed: bool) -> None:
    """A run was killed while it saved a step again, before or after the new state was in its place."""
    folder = CheckpointFolder(_made(tmp_path / "run"))
    save(folder, 1, version=1)
    weights, replaced = (folder.path / f"checkpoint_step_1{s}.npz" for s in ("", ".replaced"))
    if committed:
        shutil.copy(weights, replaced)
        save_over(folder)
    else:
        weights.rename(replaced)
        write_archive(weights, tensors(2), {}, step=1)
    with folder.lock():
        assert names(folder.path) == pairs(1)
        found = folder.open(1)
        found.verify()
        assert found.weights.header == {"v": 2 if committed else 1}


def save_over(folder: CheckpointFolder) -> None:
    """Save step 1 again, and put the earlier weights back under their temporary name."""
    replaced = folder.path / "checkpoint_step_1.replaced.npz"
    earlier = replaced.read_bytes()
    replaced.unlink()
    save(folder, 1, version=2)
    replaced.write_bytes(earlier)


def test_order_of_a_save(tmp_path: Path) -> None:
    folder = CheckpointFolder(_made(tmp_path / "run"), keep=1)
    save(folder, 1)
    calls = [(kind, name.split(".npz.")[0]) for kind, name in trace(lambda: save(folder, 2))]
    assert calls == [
        ("write", "checkpoint_step_2"),
        ("fsync", "checkpoint_step_2"),
        ("rename", "checkpoint_step_2.npz"),
        ("fsync", "folder"),
        ("write", "checkpoint_step_2.state"),
        ("fsync", "checkpoint_step_2.state"),
        ("rename", "checkpoint_step_2.state.npz"),
        ("fsync", "folder"),
        ("unlink", "checkpoint_step_1.state.npz"),
        ("unlink", "checkpoint_step_1.npz"),
    ]


@pytest.mark.parametrize("step", [1, 2])
def test_a_full_disk_at_every_call(tmp_path: Path, step: int) -> None:
    start = CheckpointFolder(_made(tmp_path / "start"), keep=1)
    save(start, 1)
    calls: list[Call] = []
    with intercepted(calls.append):
        save(
            CheckpointFolder(shutil.copytree(start.path, tmp_path / "count"), keep=1),
            step,
            version=2,
        )
    for k in range(len(calls)):
        folder = CheckpointFolder(shutil.copytree(start.path, tmp_path / str(k)), keep=1)
        left = iter([False] * k + [True])

        def full(call: Call, left: Any = left) -> None:
            if next(left, False):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with intercepted(full), pytest.raises(UserError, match="No space left"):
            save(folder, step, version=2)
        newest = folder.latest(lambda line: None)
        assert newest is not None
        assert [newest.step, newest.state.header["v"]] in ([1, 1], [step, 2])
        assert not any(name.endswith(".tmp") for name in names(folder.path))
        if newest.state.header["v"] == 1:  # the failed save left no files that take up room
            assert len(names(folder.path)) == 2
        save(folder, step, version=3)
        assert names(folder.path) == pairs(step)


# One run at a time

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
    folder = CheckpointFolder(_made(tmp_path / "run"))
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
    folder = CheckpointFolder(_made(tmp_path / "run"))
    flock, moved = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not moved:
            folder.path.rename(tmp_path / "run.1")
            descriptors = [os.open(_made(folder.path), os.O_RDONLY)]
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
    run = _made(tmp_path / "run")
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


# Folders


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
    folder = CheckpointFolder(_made(tmp_path / "run"))
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
    folder = CheckpointFolder(_made(tmp_path / "run"))
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
    folder = CheckpointFolder(_made(tmp_path / "run"), keep=9)
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
        folder = CheckpointFolder(_made(tmp_path / str(k)), keep=9)
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
    folder = CheckpointFolder(_made(tmp_path / "run"))
    (folder.path / "thesis.txt").touch()
    assert set_aside(folder) is None
    assert names(folder.path) == ["thesis.txt"]


def test_a_linked_folder_stays_on_its_disk(tmp_path: Path) -> None:
    _made(tmp_path / "disk" / "run")
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
    folder = CheckpointFolder(_made(tmp_path / "protected"))
    save(folder, 1)
    with folder.lock():
        pass
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder.path)
    with pytest.raises(UserError, match=r"protected.* cannot be written"), folder.lock():
        pass


# Weights to generate from


def test_the_best_weights_of_a_folder(folder: CheckpointFolder) -> None:
    best, best_model = folder.path / "best.npz", folder.path / "best_model.npz"
    for path in (folder.path, best):
        with pytest.raises(CheckpointError, match="no model is there"):
            open_weights(path)
    save(folder, 1, 2)
    assert open_weights(folder.path).step == 2
    with pytest.raises(CheckpointError, match="not been evaluated yet"):
        open_weights(best)
    write_archive(best_model, tensors(0), {}, step=7)
    assert open_weights(folder.path).path == open_weights(best).path == best_model
    folder.save_best(8, tensors(0), {"best": True})
    assert open_weights(folder.path).path == open_weights(best).path == best
    assert open_weights(best_model).step == 7


def test_weights_fall_back_in_a_folder_and_not_by_name(folder: CheckpointFolder) -> None:
    save(folder, 1, 2)
    newest = folder.path / "checkpoint_step_2.npz"
    flip(newest, 0.02)
    skipped: list[str] = []
    assert open_weights(folder.path, skipped.append).step == 1
    assert newest.name in skipped[0]
    with pytest.raises(CheckpointError, match="damaged"):
        open_weights(newest).verify()
    with pytest.raises(CheckpointError, match="holds state"):
        open_weights(folder.path / "checkpoint_step_2.state.npz")


def test_a_copied_file_stands_alone(folder: CheckpointFolder, tmp_path: Path) -> None:
    folder.save_best(3, tensors(3), {"tokenizer": {"version": "1.0"}})
    copy = shutil.copy(folder.path / "best.npz", tmp_path / "mine.npz")
    opened = open_weights(copy)
    assert (opened.step, opened.header) == (3, {"tokenizer": {"version": "1.0"}})
    assert [float(tensor.flat[0]) for _, tensor in opened.tensors()] == [3.0, 3.0]


def _made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path
