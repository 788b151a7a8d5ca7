"""A folder always has a complete checkpoint, even after a failure or a kill."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from homespun.checkpoint.archive import CheckpointError, write_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.errors import UserError
from tests.checkpoint.faults import Call, intercepted, trace
from tests.checkpoint.folders import ROOT, flip, made, names, pairs, save, tensors

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
        save(CheckpointFolder(made(tmp_path / run)), 1, 2)
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
    folder = CheckpointFolder(made(tmp_path / "run"), keep=2)
    folder.save_best(1, tensors(1), {})
    (folder.path / "notes.txt").touch()
    save(folder, 1, 2, 10, 9, 11)
    assert names(folder.path) == sorted(["best.npz", "notes.txt", *pairs(10, 11)])


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    folder = CheckpointFolder(made(tmp_path / "run"), keep=2)
    save(folder, 1, 2)
    (folder.path / "checkpoint_step_2.state.npz").unlink()
    save(folder, 3)
    assert names(folder.path) == pairs(1, 3)


def test_a_damaged_later_step_does_not_push_out_a_good_one(tmp_path: Path) -> None:
    folder = CheckpointFolder(made(tmp_path / "run"), keep=1)
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
    folder = CheckpointFolder(made(tmp_path / "run"), keep=1)
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
    folder = CheckpointFolder(made(tmp_path / "run"))
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
    folder = CheckpointFolder(made(tmp_path / "run"), keep=1)
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
    start = CheckpointFolder(made(tmp_path / "start"), keep=1)
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
