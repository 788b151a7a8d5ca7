"""The folder of a run: pairs of weights and training state, the best weights, and a lock.

A step is saved as `checkpoint_step_N.npz` and then `checkpoint_step_N.state.npz`, which states the SHA-256 of the
weights. The second rename commits the step. Whatever happens in between, the checkpoint of the run is the newest pair
that verifies. Clocks and file times play no part.
"""

import contextlib
import errno
import math
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.checkpoint.archive import (
    Archive,
    CheckpointError,
    read_archive,
    read_as,
    write_archive,
)
from homespun.checkpoint.lock import Holder, ProcessLock, holder_of
from homespun.checkpoint.names import (
    BASE,
    BEST,
    EARLIER,
    LATER,
    LOCK,
    METRICS,
    NOT_OF_A_RUN,
    OF_THE_START,
    PLOT,
    REFERENCE,
    STEP_FILE,
    SUFFIXES,
    by_age,
    is_of_run,
    names_in,
)
from homespun.errors import DiskFullError, UserError, cannot_write
from homespun.named_array import NamedArray
from homespun.terminal import Say

CANNOT_MOVE = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS)
"""The errors for a folder that cannot be renamed although its files can: a mount point, a parent of somebody else."""


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
    narrow: frozenset[str] = frozenset()
    """The names of the arrays of a run that are stored in bfloat16."""

    @contextmanager
    def lock(self) -> Iterator["FolderLock"]:
        """Make the folder, lock it for this process, and remove half-written files.

        The system releases the lock when the process ends, however it ends, so a lock is never stale. If the block
        fails before there is anything of a run in the folder, what was made here is removed.

        Raises:
            UserError: another run has locked the folder, or it cannot be written.
        """
        lock = FolderLock(self)
        try:
            yield lock
        except BaseException:
            lock.undo()
            raise
        finally:
            lock.release()

    def check_free(self) -> None:
        """Check that no other run uses the folder and, if it exists, that it can be written.

        Raises:
            UserError: another run uses it, or it cannot be written.
        """
        with self.writing():
            try:
                self.path.lstat()
            except FileNotFoundError:
                return
        with self.lock():
            pass

    def holder(self) -> Holder | None:
        """The process that has locked the folder, None if none has. Nothing is written; see `holder_of`."""
        return holder_of(self.path)

    def has_run(self) -> bool:
        """Whether there is anything of a run in the folder. One that ended before its first step leaves nothing but an
        empty record and the files of its start."""
        names = [
            name for name in names_in(self.path) if is_of_run(name) and name not in OF_THE_START
        ]
        return bool(names) and (names != [METRICS] or bool((self.path / METRICS).stat().st_size))

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

    def bytes_to_replace(self, step: int, *, with_step: bool = True) -> int:
        """Bytes of the kept checkpoints and of the best weights that a run has at a step. It removes them when it has
        newer ones, so they are part of the room that it needs.

        Args:
            with_step: the checkpoint of the step itself is one of them.
        """
        kept = [n for n in self.steps() if n < step or (with_step and n == step)][: self.keep]
        files = [self.file(n, suffix) for n in kept for suffix in SUFFIXES]
        files += [self.path / name for name in BEST if _step_of(self.path / name) <= step]
        return sum(file.stat().st_size for file in files if file.exists())

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
        path = self.file(step)
        earlier = self._opened(step)
        if (
            earlier and earlier.weights.path == path
        ):  # it stays usable until the new state is written
            with self.writing():
                path.replace(self.file(step, ".replaced"))
                durable.sync_folder(self.path)
        try:
            sha256 = write_archive(path, weights, header, step=step, narrow=self.narrow)
            commit = {**state_header, "weights_sha256": sha256}
            state_file = self.file(step, ".state")
            write_archive(state_file, state, commit, kind="state", step=step, narrow=self.narrow)
        except BaseException:
            self._drop_uncommitted(step)
            raise
        self.open(step).verify()
        with self.writing():
            self._prune(step)
        return path

    def save_best(self, step: int, weights: Iterable[NamedArray], header: dict[str, Any]) -> Path:
        """Save the best weights so far, which are never removed. Raises the exceptions of `write_archive`."""
        path = self.path / BEST[0]
        write_archive(path, weights, header, step=step, narrow=self.narrow)
        return path

    def save_base(self, step: int, weights: Iterable[NamedArray], header: dict[str, Any]) -> str:
        """Save the weights that the adapters of a run belong to, before there are any.

        Returns the SHA-256 of the manifest, and raises the exceptions of `write_archive`.
        """
        return write_archive(self.path / BASE, weights, header, step=step)

    def save_reference(self, values: Iterable[NamedArray]) -> str:
        """Save the log-probabilities of the initial model. Returns and raises as `save_base`."""
        return write_archive(self.path / REFERENCE, values, {}, kind="state")

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
        matches = (STEP_FILE.fullmatch(name) for name in names_in(self.path))
        return sorted({int(match[1]) for match in matches if match}, reverse=True)

    def newest_before(self, step: int) -> int | None:
        """The newest step before this one whose pair is complete, if there is one."""
        return next((n for n in self.steps() if n < step and self._opened(n)), None)

    def open(self, step: int) -> Checkpoint:
        """Open the pair of a step, and check everything except the arrays.

        Raises:
            CheckpointError: the pair is incomplete or damaged.
        """
        weights, commit = self.file(step), self.file(step, ".state")
        if not commit.exists():
            raise CheckpointError(f"{weights} was not saved completely ({commit.name} is missing)")
        state = read_as(commit, "state", step)
        for path in (weights, self.file(step, ".replaced")):
            if path.exists():
                archive = read_as(path, "weights", step)
                if archive.sha256 == state.header.get("weights_sha256"):
                    return Checkpoint(step, archive, state)
        raise CheckpointError(
            f"{commit}: {weights.name} is missing, or is not the file that was saved with it"
        )

    def _opened(self, step: int) -> Checkpoint | None:
        """The pair of a step; None if it is incomplete or damaged."""
        try:
            return self.open(step)
        except CheckpointError:
            return None

    def _drop_uncommitted(self, step: int) -> None:
        """Remove weights without a matching state, to free room on a full disk."""
        path, whole = self.file(step), self._opened(step)
        if whole is None or whole.path != path:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _prune(self, step: int) -> None:
        """Remove old checkpoints. Higher steps are damaged, and stay until the run reaches and rewrites them."""
        older = [n for n in self.steps() if n < step]
        kept = [n for n in older if self._opened(n)][: self.keep - 1]
        for n in older:
            if n not in kept:
                for suffix in SUFFIXES:
                    self.file(n, suffix).unlink(missing_ok=True)
        self.file(step, ".replaced").unlink(missing_ok=True)

    def finish_replacements(self) -> None:
        """After a kill while a step was saved again, keep the weights that fit its state, under their usual name."""
        for step in self.steps():
            replaced = self.file(step, ".replaced")
            found = self._opened(step) if replaced.exists() else None
            if found and found.path == replaced:
                replaced.replace(self.file(step))
                durable.sync_folder(self.path)
            elif found:
                with contextlib.suppress(CheckpointError):
                    found.weights.verify()
                    replaced.unlink()

    def file(self, step: int, suffix: str = "") -> Path:
        """The path of one of the files of a step."""
        return self.path / f"checkpoint_step_{step}{suffix}.npz"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raise a UserError for any OSError inside the block."""
        try:
            yield
        except OSError as error:
            file = Path(str(error.filename))
            if error.errno == errno.ELOOP and file.name in (LOCK, METRICS):
                raise UserError(
                    f"{file} is a link to another file, which a run must not overwrite: remove the link, "
                    "or choose another folder (--checkpoint-dir)"
                ) from error
            raise cannot_write(
                error,
                f"{file if file.name in (LOCK, METRICS) else self.path} cannot be written",
                "choose another folder (--checkpoint-dir)",
            ) from error


class FolderLock:
    """The lock on the folder of a run, held by this process, and the moves that need it."""

    def __init__(self, folder: CheckpointFolder) -> None:
        self.folder = folder
        self._lock = ProcessLock(folder.path)
        self._had_file = os.path.lexists(folder.path / LOCK)
        try:
            with folder.writing():
                self._lock.take()
                self._tidy()
        except BaseException:
            self.undo()
            self.release()
            raise

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def undo(self) -> None:
        """Remove the files and folders that were made for the lock, if there is no run."""
        path = self.folder.path
        with contextlib.suppress(OSError, UserError):
            if self._lock.is_taken and not self._had_file and not self.folder.has_run():
                (path / LOCK).unlink()
            for made in reversed(self._lock.made):
                made.rmdir()

    def set_aside(self) -> Path | None:
        """Move an earlier run to the first free name of PATH.1, PATH.2, ..., and leave an empty folder.

        A folder that cannot be renamed, such as a mount point, stays, and the run moves to PATH/earlier.1 (.2, ...).

        Returns:
            The new place of the earlier run; None if there was none, in which case nothing is changed.

        Raises:
            UserError: the earlier run cannot be moved.
        """
        path = self.folder.path
        if not self.folder.has_run():
            return None
        with self.folder.writing():
            folder = path.resolve() if path.is_symlink() else path
            if Path.cwd().is_relative_to(folder.resolve()):
                raise UserError(
                    f"{path} holds an earlier run and is your working directory: "
                    "choose another folder"
                )
            try:
                earlier = durable.set_aside(folder)
            except OSError as error:
                if error.errno not in CANNOT_MOVE:
                    raise
                return self._set_aside_inside()
            of_earlier, self._lock.descriptors = self._lock.descriptors, []
            try:
                self._lock.made += durable.make_folder(folder)
                self._lock.take()
            finally:
                for descriptor in of_earlier:
                    os.close(descriptor)
        return earlier

    def go_back(self, step: int, metrics_length: int, *, with_step: bool = False) -> Path | None:
        """Move everything that was saved after a step to PATH/later.1 (.2, ...), with a copy of the whole record.

        Checkpoints move newest first, so that the folder is that of a run at every moment.

        Args:
            step: stays the newest one.
            metrics_length: length of the record up to the step, in bytes. The caller cuts the record.
            with_step: move the checkpoint of the step as well, because a new one takes its place.

        Returns:
            The new folder, which is the folder of a run as well; None if nothing was saved after the step.

        Raises:
            UserError: the files cannot be moved.
        """
        path, record = self.folder.path, self.folder.path / METRICS
        with self.folder.writing():
            steps = [n for n in self.folder.steps() if n > step or (with_step and n == step)]
            best = [name for name in BEST if _step_of(path / name) > step]
            is_longer = record.exists() and record.stat().st_size > metrics_length
            if not (steps or best or is_longer):
                return None
            later = durable.free_name(path / LATER)
            durable.make_folder(later)
            self._share_start(later)
            if record.exists():
                with record.open("rb") as source, durable.replacing(later / METRICS) as copy:
                    shutil.copyfileobj(source, copy)
            files = [self.folder.file(n, suffix).name for n in steps for suffix in SUFFIXES]
            for name in [*best, *files]:
                if (path / name).exists():
                    (path / name).rename(later / name)
            durable.sync_folder(later)
            durable.sync_folder(path)
        return later

    def _share_start(self, folder: Path) -> None:
        """Let the files of the start be in a folder inside the run's own, too: as second names, or else copies."""
        for name in OF_THE_START:
            path = self.folder.path / name
            if not path.exists():
                continue
            try:
                os.link(path, folder / name)
            except OSError:
                with path.open("rb") as source, durable.replacing(folder / name) as copy:
                    shutil.copyfileobj(source, copy)

    def _set_aside_inside(self) -> Path:
        """Move the files of an earlier run into a folder inside its own, the newest checkpoint and the record last."""
        path = self.folder.path
        earlier = durable.free_name(path / EARLIER)
        durable.make_folder(earlier)
        self._share_start(earlier)
        for name in sorted(names_in(path), key=by_age):
            if NOT_OF_A_RUN.fullmatch(name) or name in OF_THE_START:
                continue
            try:
                (path / name).rename(earlier / name)
            except OSError:
                if is_of_run(name):
                    raise
        for name in OF_THE_START:
            (path / name).unlink(missing_ok=True)
        durable.sync_folder(earlier)
        durable.sync_folder(path)
        return earlier

    def _tidy(self) -> None:
        """Remove the files that a killed process has left, and see whether the record can be written."""
        path = self.folder.path
        durable.remove_leftovers(
            path,
            lambda name: (
                STEP_FILE.fullmatch(name) or name in (BEST[0], *OF_THE_START, METRICS, PLOT)
            ),
        )
        self.folder.finish_replacements()
        if os.path.lexists(path / METRICS):
            os.close(durable.open_file(path / METRICS, os.O_WRONLY))


def _step_of(weights: Path) -> int:
    """The step of a file of weights; -1 if it is missing or damaged."""
    try:
        return read_archive(weights).step
    except CheckpointError:
        return -1
