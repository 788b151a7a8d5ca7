"""Bytes in, files out that are there whole or not at all, after a kill and after a power cut.

A new file is written under a temporary name, flushed to the disk and renamed, and then the folder
is flushed; what stood there before stays until the rename. The protocol is said here and only here.
"""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY = re.compile(r"(.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)
"""A temporary name, and in it the final one."""


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nothing else has."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well.

    Raises:
        OSError: it cannot be written; nothing is left behind, and an earlier file is still there.
            (Only if the folder cannot be flushed, at the very end, it is the new one.)
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
    """Write a file of these parts. Raises as `replacing`."""
    with replacing(path) as file:
        for part in parts:
            file.write(part)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record for `read_json`. Raises as `replacing`."""
    write(path, (json.dumps(record, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A record; empty where there is none, or something else.

    Raises:
        OSError: the file is there and cannot be read.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def remove_leftovers(folder: Path, is_ours: Callable[[str], object]) -> None:
    """Remove what killed writers left of the files whose final names are ours.

    Only for a process that is alone in writing them: it would take the files of another one too.
    """
    for entry in folder.iterdir():
        match = TEMPORARY.fullmatch(entry.name)
        if match and is_ours(match[1]):
            entry.unlink()


def set_aside(path: Path) -> Path:
    """Move what is at `path` to the first free of PATH.1, PATH.2, ..., and say which that is."""
    names = (path.with_name(f"{path.name}.{n}") for n in itertools.count(1))
    free = next(name for name in names if not name.exists())
    path.rename(free)
    return free


def sync(file: BinaryIO) -> None:
    """Return when all that was written to an open file is on the disk."""
    file.flush()
    _sync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` as durable as the files behind them, where the system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # as some network file systems say
            raise
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:  # macOS, where fsync ends in the cache of the drive
        try:
            fcntl.fcntl(descriptor, full_sync)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY):
                raise
    os.fsync(descriptor)
