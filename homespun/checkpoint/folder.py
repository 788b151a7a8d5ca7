"""The folder of a run: pairs of weights and training state, the best weights, and a lock.

A step is saved as `checkpoint_step_N.npz`, then `checkpoint_step_N.state.npz`, which names the
SHA-256 of the weights: the second rename is the commit. Whatever happens in between, the newest
pair that verifies is the run's checkpoint; neither clocks nor file times have a say.
"""

import contextlib
import datetime
import fcntl
import math
import os
import re
import shutil
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from homespun import durable
from homespun.checkpoint.archive import (
    Archive,
    CheckpointError,
    Kind,
    Named,
    read_archive,
    write_archive,
)
from homespun.errors import DiskFullError, UserError, cannot_write

Report = Callable[[str], Any]
"""Takes one line that the user should see."""

BEST = ("best.npz", "best_model.npz")
"""The weights to generate from, in order of preference; a run writes the first."""
METRICS = "metrics.jsonl"
LOCK = ".lock"
STEP_FILE = re.compile(r"checkpoint_step_(0|[1-9]\d{0,17})(\.state|\.replaced)?\.npz", re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """A committed pair."""

    step: int
    weights: Archive
    state: Archive

    @property
    def path(self) -> Path:
        """The file by which one would name it, that of the weights."""
        return self.weights.path

    def tensors(self) -> Iterator[Named]:
        """All arrays, weights first; see `Archive.tensors`."""
        yield from self.weights.tensors()
        yield from self.state.tensors()

    def verify(self) -> None:
        """Read both files.

        Raises:
            CheckpointError: one of them is damaged.
        """
        self.weights.verify()
        self.state.verify()


@dataclass(frozen=True)
class CheckpointFolder:
    """Where a run keeps its checkpoints. Whoever writes holds the `lock`; reading needs none."""

    path: Path
    keep: int = 3
    """How many checkpoints are kept, beside the best."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder, be the only one to write in it, and clear away half-written files.

        The lock dies with its process, whatever ends it, so that none is ever stale.

        Raises:
            UserError: another run has the folder, or it cannot be written.
        """
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / LOCK).open("a+", encoding="utf-8")
        with file:
            with self._writing():
                self._take(file)
                durable.remove_leftovers(
                    self.path, lambda name: STEP_FILE.fullmatch(name) or name == BEST[0]
                )
            yield

    def check_free(self) -> None:
        """Make sure that no other run has the folder, and that it can be written if it is there.

        Raises:
            UserError: one has it, or it cannot.
        """
        with self._writing():
            try:
                self.path.lstat()
            except FileNotFoundError:
                return
        with self.lock():
            pass

    def set_aside(self) -> Path | None:
        """Move an earlier run to the first free of PATH.1, PATH.2, ... and leave an empty folder.

        Returns:
            Where the earlier run is now; None where there was none, and nothing was touched.

        Raises:
            UserError: the run is still going on, or the folder cannot be moved.
        """
        if not any(STEP_FILE.fullmatch(n) or n in (*BEST, METRICS) for n in _names_in(self.path)):
            return None
        with self.lock(), self._writing():
            folder = self.path.resolve() if self.path.is_symlink() else self.path
            if Path.cwd().is_relative_to(folder.resolve()):
                raise UserError(
                    f"{self.path} holds an earlier run, and you are in it: choose another folder"
                )
            earlier = durable.set_aside(folder)
            folder.mkdir()
        return earlier

    def check_space(self, bytes_needed: int, who_needs: str = "the checkpoints need") -> None:
        """Make sure, before it is written, that something fits.

        Raises:
            DiskFullError: there is less room on the disk.
        """
        disk = next(path for path in (self.path, *self.path.resolve().parents) if path.exists())
        free = shutil.disk_usage(disk).free
        if free < bytes_needed:
            raise DiskFullError(
                f"{self.path}: {who_needs} {math.ceil(bytes_needed / 1e6):,} MB, and "
                f"{math.floor(free / 1e6):,} MB are free: make room, keep fewer (--keep) or choose another "
                "folder (--checkpoint-dir)"
            )

    def save(
        self,
        step: int,
        weights: Iterable[Named],
        state: Iterable[Named],
        header: dict[str, Any],
        state_header: dict[str, Any],
    ) -> Path:
        """Save a step, which may be one that was saved before; then drop all but the newest `keep`.

        At any moment the folder holds a whole checkpoint: this one or the one before, which goes
        only after this one has been read back.

        Returns:
            The file of the weights.

        Raises:
            DiskFullError: there is no room; nothing of this step is left.
            UserError: the folder is read-only, and the like.
            CheckpointError: what was written does not read back.
            ValueError: see `write_archive`.
        """
        path = self._file(step)
        earlier = self._whole(step)
        if earlier and earlier.weights.path == path:  # whole until the new state is there
            with self._writing():
                path.replace(self._file(step, ".replaced"))
                durable.sync_folder(self.path)
        try:
            sha256 = write_archive(path, weights, header, step=step)
            commit = {**state_header, "weights_sha256": sha256}
            write_archive(self._file(step, ".state"), state, commit, kind="state", step=step)
        except BaseException:
            self._drop_uncommitted(step)
            raise
        self.open(step).verify()
        with self._writing():
            self._prune(step)
        return path

    def save_best(self, step: int, weights: Iterable[Named], header: dict[str, Any]) -> Path:
        """Save the best weights so far, which are never pruned. Raises as `write_archive`."""
        path = self.path / BEST[0]
        write_archive(path, weights, header, step=step)
        return path

    def latest(self, report: Report = warnings.warn) -> Checkpoint | None:
        """The highest step that verifies; `report` hears of every higher one and what ails it."""
        for step in self.steps():
            try:
                checkpoint = self.open(step)
                checkpoint.verify()
                return checkpoint
            except CheckpointError as error:
                report(f"skipped: {error}")
        return None

    def steps(self) -> list[int]:
        """All steps that have a file, newest first."""
        matches = (STEP_FILE.fullmatch(name) for name in _names_in(self.path))
        return sorted({int(match[1]) for match in matches if match}, reverse=True)

    def open(self, step: int) -> Checkpoint:
        """The pair of a step, of which all but the arrays has been checked.

        Raises:
            CheckpointError: it is incomplete or damaged.
        """
        weights, commit = self._file(step), self._file(step, ".state")
        if not commit.exists():
            raise CheckpointError(f"{weights} was not saved completely ({commit.name} is missing)")
        state = _read(commit, "state", step)
        for path in (weights, self._file(step, ".replaced")):
            if path.exists():
                archive = _read(path, "weights", step)
                if archive.sha256 == state.header.get("weights_sha256"):
                    return Checkpoint(step, archive, state)
        raise CheckpointError(
            f"{commit}: {weights.name} is missing, or not the one it was saved with"
        )

    def _take(self, file: TextIO) -> None:
        """Lock the lock file until it is closed, and say in it who has it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), Path(file.name).stat()):
                raise BlockingIOError  # the folder was set aside, and another run is in its place
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{self.path} is in use by {holder}: wait for it or choose another folder"
            ) from None
        file.truncate(0)
        since = f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M}"
        file.write(f"process {os.getpid()} on {socket.gethostname()}, running since {since}\n")
        file.flush()

    def _whole(self, step: int) -> Checkpoint | None:
        try:
            return self.open(step)
        except CheckpointError:
            return None

    def _drop_uncommitted(self, step: int) -> None:
        """Remove weights that no state names: on a full disk, others need the room."""
        path, whole = self._file(step), self._whole(step)
        if whole is None or whole.path != path:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _prune(self, step: int) -> None:
        """Higher steps are damaged, and stay until the run gets there and writes them anew."""
        older = [n for n in self.steps() if n < step]
        kept = [n for n in older if self._whole(n)][: self.keep - 1]
        for n in older:
            if n not in kept:
                for suffix in (".state", "", ".replaced"):
                    self._file(n, suffix).unlink(missing_ok=True)
        self._file(step, ".replaced").unlink(missing_ok=True)

    def _file(self, step: int, suffix: str = "") -> Path:
        return self.path / f"checkpoint_step_{step}{suffix}.npz"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(
                error,
                f"{self.path} cannot be written ({error.strerror}): "
                "choose another folder (--checkpoint-dir)",
            ) from error


def open_weights(path: Path, report: Report = warnings.warn) -> Archive:
    """Weights to generate from: a file, or the best of a run's folder, else its newest checkpoint.

    A file that is named is taken or refused; only for a missing `best.npz`, the `best_model.npz`
    beside it will do.

    Raises:
        CheckpointError: nothing is there, or it is damaged or not weights.
    """
    candidates = [path]
    if path.is_dir():
        candidates = [path / name for name in BEST]
    elif path.name == BEST[0]:
        candidates = [path.with_name(name) for name in BEST]
    for candidate in candidates:
        if candidate.exists():
            return _read(candidate, "weights")
    if path.name in BEST and CheckpointFolder(path.parent).latest(report):
        raise CheckpointError(
            f"{path} is not there, as the run has not been evaluated yet: "
            f"name its folder, {path.parent}, to take its newest checkpoint"
        )
    newest = CheckpointFolder(path).latest(report) if path.is_dir() else None
    if newest is None:
        raise CheckpointError(
            f"{path}: no model is there: train one (homespun train), or name another file or the folder of a run "
            "(--checkpoint)"
        )
    return newest.weights


def _read(path: Path, kind: Kind, step: int | None = None) -> Archive:
    archive = read_archive(path)
    if archive.kind != kind:
        raise CheckpointError(f"{path} holds {archive.kind}, not {kind}: name another file")
    if step is not None and archive.step != step:
        raise CheckpointError(f"{path} was saved at step {archive.step}: give it its own name back")
    return archive


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder} cannot be read as a folder ({error.strerror})") from error
