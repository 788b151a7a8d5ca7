"""A run continues while its files are written, and is told of failures."""

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homespun.checkpoint.archive import CheckpointError, read_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.writer import CheckpointWriter
from homespun.errors import DiskFullError, UserError
from tests.checkpoint.faults import Call, intercepted

WEIGHTS_BYTES = 400


class Model:
    """A model with weights that change in every step."""

    def __init__(self) -> None:
        self.weights = np.zeros(100, np.float32)

    def step(self) -> None:
        self.weights += 1

    def tensors(self) -> Iterator[tuple[str, Any]]:
        yield "w", self.weights.copy()


class Disk:
    """Delays calls that change the disk until `awake` is set, and lets writes fail with `error` if it is set."""

    def __init__(self) -> None:
        self.awake = threading.Event()
        self.awake.set()
        self.busy = threading.Event()
        self.error: int | None = None

    def call(self, call: Call) -> None:
        self.busy.set()
        assert self.awake.wait(60)
        if self.error and call[0] == "write":
            raise OSError(self.error, os.strerror(self.error))


class Run:
    """A model, its checkpoint folder and the writer."""

    def __init__(self, path: Path, in_background: bool = True) -> None:
        self.model = Model()
        self.folder = CheckpointFolder(path)
        self.said: list[str] = []
        self.writer = CheckpointWriter(
            self.folder, WEIGHTS_BYTES, in_background=in_background, report=self.said.append
        )

    def save(self, step: int) -> None:
        tensors = self.model.tensors
        self.writer.save(step, tensors(), tensors(), {"step": step}, {"step": step})

    def save_best(self, step: int) -> None:
        self.writer.save_best(step, self.model.tensors(), {"step": step})

    def newest(self) -> tuple[int, list[float]]:
        checkpoint = self.folder.latest(self.said.append)
        assert checkpoint is not None
        return checkpoint.step, [float(tensor[0]) for _, tensor in checkpoint.tensors()]

    def best(self) -> float:
        [(_, weights)] = read_archive(self.folder.path / "best.npz").tensors()
        return float(weights[0])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "run").mkdir()
    return Run(tmp_path / "run")


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    with intercepted(disk.call):
        yield disk


def names(run: Run) -> list[str]:
    return sorted(path.name for path in run.folder.path.iterdir())


def test_steps_go_on_and_the_checkpoint_is_of_the_moment_it_was_asked_for(
    run: Run, disk: Disk
) -> None:
    disk.awake.clear()
    with run.writer:
        run.model.step()
        run.save(1)
        run.model.step()  # reached before anything is on the disk
        run.writer.check()
        assert disk.busy.wait(60)
        assert not any(name.endswith(".npz") for name in names(run))
        disk.awake.set()
        run.writer.wait()
        assert run.newest() == (1, [1.0, 1.0])
        assert run.writer.seconds_to_save > 0


def test_one_at_a_time_and_in_order(run: Run) -> None:
    calls: list[str] = []

    def renamed(call: Call) -> None:
        if call[0] == "rename":
            calls.append(call[1])

    with intercepted(renamed), run.writer:
        for step in (1, 2):
            run.model.step()
            run.save_best(step)
            run.save(step)
    assert calls == [
        "best.npz",
        "checkpoint_step_1.npz",
        "checkpoint_step_1.state.npz",
        "best.npz",
        "checkpoint_step_2.npz",
        "checkpoint_step_2.state.npz",
    ]
    assert (run.best(), run.newest()) == (2.0, (2, [2.0, 2.0]))


def test_a_run_ends_when_all_is_written_whatever_ends_it(run: Run, disk: Disk) -> None:
    disk.awake.clear()
    threading.Timer(0.1, disk.awake.set).start()

    def ended() -> None:
        with run.writer:
            run.save(1)
            raise UserError("the loss is not finite")

    with pytest.raises(UserError, match="not finite"):
        ended()
    assert run.newest()[0] == 1
    assert not [thread for thread in threading.enumerate() if "checkpoints" in thread.name]


@pytest.mark.parametrize("in_background", [True, False])
def test_a_failure_is_raised_at_the_next_step_and_the_old_checkpoint_stays(
    tmp_path: Path, disk: Disk, in_background: bool
) -> None:
    (tmp_path / "run").mkdir()
    run = Run(tmp_path / "run", in_background)
    run.save(1)
    run.writer.wait()
    before = names(run)
    disk.error = errno.EIO

    def next_steps() -> None:
        run.save(2)
        while True:
            run.writer.check()

    with pytest.raises(UserError, match="Input/output error"), run.writer:
        next_steps()
    assert names(run) == before
    assert run.newest()[0] == 1
    assert run.said == []


def test_what_fails_beside_another_error_is_said(run: Run, disk: Disk) -> None:
    disk.error = errno.EIO

    def ended() -> None:
        with run.writer:
            run.save(1)
            raise UserError("the loss is not finite")

    with pytest.raises(UserError, match="not finite"):
        ended()
    assert len(run.said) == 1
    assert "Input/output error" in run.said[0]


def test_a_checkpoint_that_does_not_read_back_ends_the_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(folder: CheckpointFolder, step: int) -> Any:
        raise CheckpointError("damaged")

    monkeypatch.setattr(CheckpointFolder, "open", damaged)
    with pytest.raises(CheckpointError), run.writer:
        run.save(1)


def test_a_full_disk_is_said_and_the_run_goes_on_until_there_is_room(run: Run, disk: Disk) -> None:
    with run.writer:
        run.model.step()
        run.save_best(1)
        run.save(1)
        run.writer.wait()
        before = names(run)
        disk.error = errno.ENOSPC
        run.model.step()
        run.save_best(2)
        run.model.step()
        run.save(3)
        run.model.step()
        run.writer.wait()
        assert names(run) == before
        assert (run.best(), run.newest()) == (1.0, (1, [1.0, 1.0]))
        assert len(run.said) == 2
        assert all("No space left" in line and "tries again" in line for line in run.said)
        disk.error = None
        run.save(4)
        run.writer.finish()
    assert (run.best(), run.newest()) == (2.0, (4, [4.0, 4.0]))


def test_a_run_whose_last_save_found_no_room_does_not_end_well(run: Run, disk: Disk) -> None:
    disk.error = errno.ENOSPC
    run.save(1)
    with pytest.raises(DiskFullError, match="No space left"), run.writer:
        run.writer.finish()
    assert names(run) == []


def test_room_is_looked_for_before_anything_is_written(
    run: Run, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 3 * WEIGHTS_BYTES
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - free, free)
    )
    with run.writer:
        run.save(1)
        run.writer.finish()
        disk.busy.clear()
        free -= 1
        run.save(1_002)
        with pytest.raises(DiskFullError, match="step 1,002 needs 1 MB, and 0 MB are"):
            run.writer.finish()
        assert not disk.busy.is_set()
    assert run.newest()[0] == 1


def test_without_memory_for_a_copy_tensors_are_streamed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = Run(tmp_path / "run", in_background=False)
    alive = 0

    def tensors() -> Iterator[tuple[str, Any]]:
        nonlocal alive
        for name in "abc":
            alive += 1
            assert alive == 1
            yield name, np.zeros(3)
            alive -= 1

    with run.writer:
        run.writer.save(1, tensors(), tensors(), {}, {})
        assert run.folder.latest() is not None
        with pytest.raises(DiskFullError):
            run.writer.no_room(DiskFullError("full"))
