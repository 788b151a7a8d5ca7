"""The folder of a run: pairs of weights and training state, the best weights, and a lock.

A step is saved as `checkpoint_step_N.npz` and then `checkpoint_step_N.state.npz`, which states the SHA-256 of the
weights. The second rename commits the step. Whatever happens in between, the checkpoint of the run is the newest pair
that verifies. Clocks and file times play no part.
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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from homespun import durable
from homespun.checkpoint.archive import (
    Archive,
    CheckpointError,
    Kind,
    read_archive,
    write_archive,
)
from homespun.errors import DiskFullError, UserError, cannot_write
from homespun.named_array import NamedArray
from homespun.terminal import Say

BEST = ("best.npz", "best_model.npz")
"""The files of weights to generate from, in order of preference. A run writes the first one."""
METRICS = "metrics.jsonl"
LOCK = ".lock"
STEP_FILE = re.compile(r"checkpoint_step_(0|[1-9]\d{0,17})(\.state|\.replaced)?\.npz", re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """A committed pair of weights and training state."""

    step: int
    weights: Archive
    state: Archive

    @property
    def path(self) -> Path:
        """The file of the weights, by which a user names the checkpoint."""
        return self.weights.path

    def tensors(self) -> Iterator[NamedArray]:
        """Stream all arrays, weights first; see `Archive.tensors`."""
        yield from self.weights.tensors()
        yield from self.state.tensors()

    def verify(self) -> None:
        """Read and check both files.

        Raises:
            CheckpointError: one of them is damaged.
        """
        self.weights.verify()
        self.state.verify()


@dataclass(frozen=True)
class CheckpointFolder:
    """The folder in which a run keeps its checkpoints. Writers hold the `lock`; readers do not need it."""

    path: Path
    keep: int = 3
    """Number of checkpoints to keep, besides the best weights."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder, lock it for this process, and remove half-written files.

        The system releases the lock when the process ends, however it ends, so a lock is never stale.

        Raises:
            UserError: another run has locked the folder, or it cannot be written.
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
        """Check that no other run uses the folder and, if it exists, that it can be written.

        Raises:
            UserError: another run uses it, or it cannot be written.
        """
        with self._writing():
            try:
                self.path.lstat()
            except FileNotFoundError:
                return
        with self.lock():
            pass

    def set_aside(self) -> Path | None:
        """Move an earlier run to the first free name of PATH.1, PATH.2, ... and leave an empty folder.

        Returns:
            The new place of the earlier run; None if there was none, in which case nothing is changed.

        Raises:
            UserError: the earlier run has not ended, or the folder cannot be moved.
        """
        if not any(STEP_FILE.fullmatch(n) or n in (*BEST, METRICS) for n in _names_in(self.path)):
            return None
        with self.lock(), self._writing():
            folder = self.path.resolve() if self.path.is_symlink() else self.path
            if Path.cwd().is_relative_to(folder.resolve()):
                raise UserError(
                    f"{self.path} holds an earlier run and is your working directory: "
                    "choose another folder"
                )
            earlier = durable.set_aside(folder)
            folder.mkdir()
        return earlier

    def check_space(self, bytes_needed: int, need: str = "the checkpoints need") -> None:
        """Check that there is room on the disk before something is written.

        Args:
            bytes_needed: bytes to be written.
            need: subject and verb of the error message.

        Raises:
            DiskFullError: the disk has fewer free bytes.
        """
        disk = next(path for path in (self.path, *self.path.resolve().parents) if path.exists())
        free = shutil.disk_usage(disk).free
        if free < bytes_needed:
            raise DiskFullError(
                f"{self.path}: {need} {math.ceil(bytes_needed / 1e6):,} MB, and "
                f"{math.floor(free / 1e6):,} MB are free: make room, keep fewer (--keep) or choose another "
                "folder (--checkpoint-dir)"
            )

    def save(
        self,
        step: int,
        weights: Iterable[NamedArray],
        state: Iterable[NamedArray],
        header: dict[str, Any],
        state_header: dict[str, Any],
    ) -> Path:
        """Save a step, even one that was saved before, and remove all but the newest `keep` checkpoints.

        The folder holds a complete checkpoint at every moment: earlier checkpoints are removed only after this one has
        been read back.

        Returns:
            The file of the weights.

        Raises:
            DiskFullError: the disk is full; nothing of this step is left.
            UserError: the folder cannot be written for another reason, such as a read-only disk.
            CheckpointError: the written files do not read back.
            ValueError: see `write_archive`.
        """
        path = self._file(step)
        earlier = self._opened(step)
        if (
            earlier and earlier.weights.path == path
        ):  # it stays usable until the new state is written
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

    def save_best(self, step: int, weights: Iterable[NamedArray], header: dict[str, Any]) -> Path:
        """Save the best weights so far, which are never removed. Raises the exceptions of `write_archive`."""
        path = self.path / BEST[0]
        write_archive(path, weights, header, step=step)
        return path

    def latest(self, report: Say = warnings.warn) -> Checkpoint | None:
        """The checkpoint with the highest step that verifies; None if there is none.

        Args:
            report: receives a message about each higher step, with its fault.
        """
        for step in self.steps():
            try:
                checkpoint = self.open(step)
                checkpoint.verify()
                return checkpoint
            except CheckpointError as error:
                report(f"skipped: {error}")
        return None

    def steps(self) -> list[int]:
        """The steps of all files of checkpoints, newest first."""
        matches = (STEP_FILE.fullmatch(name) for name in _names_in(self.path))
        return sorted({int(match[1]) for match in matches if match}, reverse=True)

    def open(self, step: int) -> Checkpoint:
        """Open the pair of a step, and check everything except the arrays.

        Raises:
            CheckpointError: the pair is incomplete or damaged.
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
            f"{commit}: {weights.name} is missing, or is not the file that was saved with it"
        )

    def _take(self, file: TextIO) -> None:
        """Lock the lock file until it is closed, and write the name of this process into it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), Path(file.name).stat()):
                raise BlockingIOError  # the folder was moved away, and another run has taken its place
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

    def _opened(self, step: int) -> Checkpoint | None:
        """The pair of a step; None if it is incomplete or damaged."""
        try:
            return self.open(step)
        except CheckpointError:
            return None

    def _drop_uncommitted(self, step: int) -> None:
        """Remove weights without a matching state, to free room on a full disk."""
        path, whole = self._file(step), self._opened(step)
        if whole is None or whole.path != path:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _prune(self, step: int) -> None:
        """Remove old checkpoints. Higher steps are damaged, and stay until the run reaches and rewrites them."""
        older = [n for n in self.steps() if n < step]
        kept = [n for n in older if self._opened(n)][: self.keep - 1]
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
                f"{self.path} cannot be written",
                "choose another folder (--checkpoint-dir)",
            ) from error


def open_weights(path: Path, report: Say = warnings.warn) -> Archive:
    """Open weights to generate from: a file, or the best weights in the folder of a run, else its newest checkpoint.

    A missing file is an error, with one exception: `best_model.npz` stands in for a missing `best.npz` beside it.

    Args:
        path: a file or a folder.
        report: receives a message about each damaged checkpoint.

    Raises:
        CheckpointError: there are no weights, or they are damaged.
    """
    candidates = [path]
    if path.is_dir():
        _names_in(path)  # a folder that cannot be read is no empty folder
        candidates = [path / name for name in BEST]
    elif path.name == BEST[0]:
        candidates = [path.with_name(name) for name in BEST]
    for candidate in candidates:
        if candidate.exists():
            return _read(candidate, "weights")
    if path.name in BEST and CheckpointFolder(path.parent).latest(report):
        raise CheckpointError(
            f"{path} does not exist, because the run has not been evaluated yet: "
            f"name its folder, {path.parent}, to use its newest checkpoint"
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
        raise CheckpointError(f"{path} was saved at step {archive.step}: rename it accordingly")
    return archive


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder} cannot be read as a folder ({error.strerror})") from error
