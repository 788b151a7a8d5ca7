"""Bytes flow in, files flow out that are either complete or absent, even after a kill or a power cut.

A new file is written under a temporary name, flushed to the disk and renamed, and then its folder is flushed. An
earlier file stays until the rename. This module is the only place that implements the protocol.

Records are JSON objects with a checksum, so that a damaged one is never read as another.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from homespun.errors import UserError

TEMPORARY = re.compile(r"(.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)
"""A temporary name. The group is the final name."""
CHECKSUM = "checksum"
"""The entry of a record that holds the SHA-256 of all others."""


class DamagedRecord(UserError):
    """A record is not as it was written. The message names the file; the remedy depends on the caller."""


def temporary_name(path: Path) -> Path:
    """An unused name beside `path`."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` if the block ends without an exception.

    Raises:
        OSError: the file cannot be written. Nothing is left behind, and an earlier file is still there. If only the
            last step fails, which flushes the folder, the new file is in its place.
    """
    temporary = temporary_name(path)
    try:
        with temporary.open("xb") as file:
            yield file
            sync(file)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write(path: Path, *parts: bytes) -> None:
    """Write the parts, one after another, into a file. Raises the exceptions of `replacing`."""
    with replacing(path) as file:
        for part in parts:
            file.write(part)


def write_text(path: Path, text: str) -> None:
    """Replace the content of a file by a text. Raises as `write`."""
    write(path, encoded(text))


def encoded(text: str) -> bytes:
    """A text in UTF-8. The bytes in names of files that are no UTF-8 become escapes such as \\udce9."""
    return text.encode("utf-8", "backslashreplace")


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record for `read_json`. Raises the exceptions of `replacing`."""
    sealed = record | {CHECKSUM: _checksum(record)}
    write(path, (json.dumps(sealed, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a record; it is empty if the file is missing.

    A record without a checksum, which other programs and earlier versions write, is taken as it is.

    Raises:
        OSError: the file exists and cannot be read.
        DamagedRecord: it is not a JSON object, or its checksum differs.
    """
    try:
        return parse_json(path.read_bytes(), path)
    except FileNotFoundError:
        return {}


def parse_json(content: bytes, name: Path | str) -> dict[str, Any]:
    """The record in the content of a file that has this name.

    Raises:
        DamagedRecord: as for `read_json`.
    """
    try:
        record = json.loads(content.decode())
    except (ValueError, RecursionError):
        raise DamagedRecord(f"{name} is damaged (not JSON)") from None
    if not isinstance(record, dict):
        raise DamagedRecord(f"{name} is damaged (not a JSON object)")
    checksum = record.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(record):
        raise DamagedRecord(f"{name} is damaged (its checksum differs)")
    return record


def _checksum(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def remove_leftovers(folder: Path, is_ours: Callable[[str], object]) -> None:
    """Remove the temporary files of killed writers.

    Call this only while no other process writes into the folder, because its temporary files would be removed too.

    Args:
        folder: the folder.
        is_ours: whether a final name belongs to the caller. Other files stay.
    """
    for entry in folder.iterdir():
        match = TEMPORARY.fullmatch(entry.name)
        if match and is_ours(match[1]):
            entry.unlink()


def make_folder(path: Path, mode: int = 0o777) -> list[Path]:
    """Make a folder with its parents, if they are missing, and flush their names to the disk.

    Returns:
        The folders that were made, the outermost first.

    Raises:
        OSError: a folder cannot be made, or a file is in the way.
    """
    missing = list(itertools.takewhile(lambda folder: not folder.is_dir(), [path, *path.parents]))
    made = []
    for folder in reversed(missing):
        try:
            folder.mkdir(mode=mode)
        except FileExistsError:
            if not folder.is_dir():
                raise NotADirectoryError(
                    errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)
                ) from None
        else:
            made.append(folder)
        sync_folder(folder.parent)
    return made


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Make a folder under a temporary name beside `path`; the block fills it and gives it its name.

    The folder is removed if it still has its temporary name after the block, and by the next call for the same `path`
    if this process is killed.

    Raises:
        OSError: the folder cannot be made.
    """
    make_folder(path.parent)
    _remove_dead_folders(path)
    temporary = temporary_name(path)
    temporary.mkdir()
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        try_lock(descriptor)
        yield temporary
    finally:
        os.close(descriptor)
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_dead_folders(path: Path) -> None:
    """Remove the temporary folders of killed writers of `path`. A writer that is alive has locked its folder."""
    for entry in path.parent.glob("*.tmp"):
        match = TEMPORARY.fullmatch(entry.name)
        if not match or match[1] != path.name:
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if try_lock(descriptor):
                    shutil.rmtree(entry, ignore_errors=True)
            finally:
                os.close(descriptor)


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder until it is closed.

    Returns:
        False if another process has locked it; None if the file system cannot lock it, such as a folder on NFS.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_locked(descriptor: int) -> bool:
    """Whether another process has locked an open file or folder.

    Raises:
        OSError: the file system cannot tell.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def open_file(path: Path, flags: int) -> int:
    """Open a file of our own for writing, and make it if it is missing.

    A link is refused, because the file behind it belongs to somebody else.

    Returns:
        A file descriptor.

    Raises:
        OSError: the path is a link or no regular file, or the file cannot be opened.
    """
    try:
        descriptor = os.open(
            path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666
        )
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) or path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link", str(path)) from None
        if error.errno == errno.ENXIO:
            raise _irregular(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _irregular(path)
    return descriptor


def _irregular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "it is no regular file", str(path))


def free_name(path: Path) -> Path:
    """The first free name of PATH.1, PATH.2, ..."""
    names = (path.with_name(f"{path.name}.{n}") for n in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def set_aside(path: Path) -> Path:
    """Move a file or folder to the first free name of PATH.1, PATH.2, ..., and return that name."""
    free = free_name(path)
    path.rename(free)
    sync_folder(path.parent)
    return free


def sync(file: BinaryIO) -> None:
    """Flush an open file to the disk."""
    file.flush()
    sync_descriptor(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, if the system supports that and the folder may be read."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        sync_descriptor(descriptor)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # not supported by some network file systems
            raise
    finally:
        os.close(descriptor)


def sync_descriptor(descriptor: int) -> None:
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:  # on macOS, fsync reaches only the cache of the drive
        try:
            fcntl.fcntl(descriptor, full_sync)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY):
                raise
    os.fsync(descriptor)
