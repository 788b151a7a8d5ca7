"""Facts about files flow in and are stored; as long as the files do not change, the same facts flow out again.

Reading and hashing 100 MB of text takes seconds; looking at the size and times of a file takes microseconds. So the
first start reads everything, and later starts read only changed files.

A fact is used only while the size, modification time, change time and inode of each of its files are those from when
it was read. This comparison does not see damage below the file system, such as a bit that flips on the disk.
`homespun verify` reads every byte and finds such damage too.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from homespun import durable

TIMESTAMP_GRANULARITY = 2_000_000_000
"""Nanoseconds. Two changes within one tick of a file system's clock leave the same times. FAT ticks every two seconds,
other file systems tick faster."""

Stats = dict[str, list[int]]
"""For each file its size, modification time, change time and inode, by absolute path. JSON gives the same back."""


class Snapshot:
    """The state of some files just before they are read."""

    def __init__(self, files: Iterable[Path]) -> None:
        """Look at the files, without reading them.

        Raises:
            OSError: a file is missing.
        """
        self.taken = time.time_ns()
        self.stats: Stats = {}
        for file in files:
            found = file.stat()
            self.stats[str(file.absolute())] = [
                found.st_size,
                found.st_mtime_ns,
                found.st_ctime_ns,
                found.st_ino,
            ]

    def is_reliable(self) -> bool:
        """Whether every later change will show: the last change of each file is older than one tick of the clock.

        The index of git uses the same rule and calls younger entries "racily clean".
        """
        return self.is_unchanged_since(self.taken)

    def is_unchanged_since(self, moment: int) -> bool:
        """Whether the last change of each file is older, by one tick of the clock, than this moment, in nanoseconds."""
        changes = (max(modified, changed) for _, modified, changed, _ in self.stats.values())
        return max(changes, default=0) + TIMESTAMP_GRANULARITY <= moment

    def still_holds(self) -> bool:
        """Whether the files are still unchanged."""
        try:
            return Snapshot(map(Path, self.stats)).stats == self.stats
        except OSError:
            return False


class Manifest:
    """A file of facts, each with the state of the files that it was found in.

    A manifest that is missing, damaged or of another version holds no facts. One that cannot be written is not an
    error: the next start reads the files again.
    """

    def __init__(self, path: Path, version: int) -> None:
        """Read the manifest.

        Args:
            path: where the manifest lies.
            version: of the rules by which the facts are found. Facts found by other rules are ignored.
        """
        self._path = path
        self._version = version
        self._entries: dict[str, Any] = {}
        self._is_changed = False
        with contextlib.suppress(
            OSError, durable.DamagedRecord, KeyError, TypeError, RecursionError
        ):
            record = durable.read_json(path)
            if record["version"] == version and record["sha256"] == _sha256(record["entries"]):
                self._entries = record["entries"]

    def recall(self, name: str, snapshot: Snapshot) -> Any:
        """The fact of this name, or None where it is unknown or its files have changed since.

        Args:
            name: of the fact.
            snapshot: the files now.
        """
        entry = self._entries.get(name)
        return entry["fact"] if entry and entry["files"] == snapshot.stats else None

    def note(self, name: str, snapshot: Snapshot, fact: Any) -> None:
        """Keep a fact for `save`, if the files have not changed while they were read.

        Args:
            name: of the fact.
            snapshot: the files, from before they were read.
            fact: anything that JSON can hold, except None.
        """
        if snapshot.is_reliable() and snapshot.still_holds():
            self._entries[name] = {"files": snapshot.stats, "fact": fact}
            self._is_changed = True

    def save(self) -> None:
        """Write the manifest if it holds anything new and its folder can be written."""
        if self._is_changed:
            record = {
                "version": self._version,
                "sha256": _sha256(self._entries),
                "entries": self._entries,
            }
            with contextlib.suppress(OSError):
                durable.make_folder(self._path.parent)
                durable.write_json(self._path, record)
                self._is_changed = False


def _sha256(entries: object) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
