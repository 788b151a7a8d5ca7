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
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise DamagedRecord(f"{path} is damaged (not a JSON object)")
        checksum = record.pop(CHECKSUM, None)
        if checksum is not None and checksum != _checksum(record):
            raise DamagedRecord(f"{path} is damaged (its checksum differs)")
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        raise DamagedRecord(f"{path} is damaged (not JSON)") from None
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


def set_aside(path: Path) -> Path:
    """Move a file or folder to the first free name of PATH.1, PATH.2, ..., and return that name."""
    names = (path.with_name(f"{path.name}.{n}") for n in itertools.count(1))
    free = next(name for name in names if not name.exists())
    path.rename(free)
    return free


def sync(file: BinaryIO) -> None:
    """Flush an open file to the disk."""
    file.flush()
    sync_descriptor(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, if the system supports that."""
    descriptor = os.open(folder, os.O_RDONLY)
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
