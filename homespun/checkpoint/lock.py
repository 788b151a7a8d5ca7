"""The path of a folder flows in; this process holds its lock, or learns which process holds it.

The folder itself is locked, so that nobody can remove the lock, and a file in it as well: some file systems, such as
NFS, can only lock files. The file also names the holder.
"""

import contextlib
import datetime
import errno
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from homespun import durable
from homespun.checkpoint.names import LOCK
from homespun.errors import FolderInUseError

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
NOTE = re.compile(r"process (\d{1,9}) on (.+), running since (.+)")
"""The line in a lock file."""
MOVED_MEANWHILE = 10
"""Attempts to lock a folder that other processes move away at the same moment."""


@dataclass(frozen=True)
class Holder:
    """The process that has locked the folder of a run."""

    pid: int | None
    """None where the lock file does not name it."""
    host: str
    since: str

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.pid is not None and self.host == socket.gethostname()


def holder_of(path: Path) -> Holder | None:
    """The process that has locked the folder, None if none has. Nothing is written.

    The lock is tried for a moment, which would be in the way of a run that begins just then. So it is tried only
    if the process that the lock file names is alive, or may be, on another machine.
    """
    try:
        descriptor = os.open(
            path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except OSError:
        return None
    try:
        note = os.read(descriptor, 1000).decode(errors="replace").partition("\n")[0]
        named = NOTE.fullmatch(note.strip())
        holder = Holder(int(named[1]), named[2], named[3]) if named else Holder(None, "", "")
        if holder.is_here and not _is_alive(holder.pid or 0):
            return None
        return holder if durable.is_locked(descriptor) else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


class ProcessLock:
    """The lock of this process on a folder. The system releases it when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptors: list[int] = []
        """Of the folder and of the lock file, as long as they are locked."""
        self.made: list[Path] = []
        """The folders that were made for the lock."""
        self.is_taken = self._folder_is_locked = False

    def release(self) -> None:
        """Give the lock back."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def take(self) -> None:
        """Make the folder if it is missing, lock it and its lock file, and write the name of this process there.

        Raises:
            UserError: another process has locked it.
            OSError: it cannot be made, locked or written.
        """
        path = self.path
        self.is_taken = False
        for _ in range(MOVED_MEANWHILE):
            self.release()
            self.made += durable.make_folder(path)
            if not self._hold(path):
                continue
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            file = path / LOCK
            if not self._hold(file):
                continue
            since = f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M}"
            note = f"process {os.getpid()} on {socket.gethostname()}, running since {since}\n"
            os.ftruncate(self.descriptors[-1], 0)
            os.pwrite(self.descriptors[-1], note.encode(), 0)
            self.is_taken = True
            return
        raise self._in_use()

    def _hold(self, path: Path) -> bool:
        """Open and lock the folder, or its lock file; False if the path is no longer what was opened.

        Raises:
            UserError: another process has locked it.
            OSError: it cannot be opened, or neither the folder nor the file can be locked.
        """
        is_folder = path == self.path
        try:
            descriptor = (
                os.open(path, FOLDER_FLAGS) if is_folder else durable.open_file(path, os.O_RDWR)
            )
        except FileNotFoundError:
            return False
        self.descriptors.append(descriptor)
        locked = durable.try_lock(descriptor)
        if locked is False:
            raise self._in_use()
        if is_folder:
            self._folder_is_locked = bool(locked)
        elif not (locked or self._folder_is_locked):
            raise OSError(errno.ENOLCK, "its file system has no locks", str(path))
        try:
            return os.path.samestat(os.fstat(descriptor), path.stat())
        except FileNotFoundError:
            return False

    def _in_use(self) -> FolderInUseError:
        holder = ""
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            holder = os.read(descriptor, 1000).decode(errors="replace").partition("\n")[0].strip()
            os.close(descriptor)
        return FolderInUseError(
            f"{self.path} is in use by {holder or 'another process'}: "
            "wait for it or choose another folder"
        )
