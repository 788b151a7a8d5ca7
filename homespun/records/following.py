"""A record that grows flows in, its new lines come out, each once; and word of it when the file begins anew.

A resumed run cuts its record back to the checkpoint and writes on, and a new run replaces the file. A reader that only
remembers its place would take lines of one file for those of another, so it also remembers what it read last.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun.records.reading import parsed_line

MOST_BYTES = 8 << 20
"""Of the file, in one reading. The rest comes with the next ones."""
LOOKED_BACK = 4096
"""Bytes before the place of the reader that must still be what they were."""


@dataclass(frozen=True)
class News:
    """The result of a reading."""

    records: tuple[Mapping[str, Any], ...]
    """The new lines, in their order."""
    begins_anew: bool
    """The file was cut or replaced: these are its first lines, and all earlier ones are void."""
    is_all: bool
    """The reader has come to the end of the file."""


class Follower:
    """Reads a growing file of records from its beginning to its end, and on.

    A line that is not complete yet waits for the next reading. A damaged line is left out and counted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        """Lines that were left out since the file began."""
        self._file: tuple[int, int] | None = None
        """Device and number of the file."""
        self._place = 0
        self._before = b""
        """Hash of the bytes just before the place."""

    def read(self) -> News:
        """The lines since the last reading; none where the file is missing or cannot be read."""
        try:
            with self.path.open("rb") as file:
                facts = os.fstat(file.fileno())
                now = (facts.st_dev, facts.st_ino)
                anew = self._file is not None and not (
                    now == self._file
                    and self._place <= facts.st_size
                    and _hash_before(file.fileno(), self._place) == self._before
                )
                if anew:
                    self._place, self.damaged = 0, 0
                self._file = now
                file.seek(self._place)
                chunk = file.read(MOST_BYTES)
                while b"\n" not in chunk and (more := file.read(MOST_BYTES)):
                    chunk += more  # a line longer than a reading
                whole = chunk[: chunk.rfind(b"\n") + 1]
                self._place += len(whole)
                self._before = _hash_before(file.fileno(), self._place)
                is_all = self._place + len(chunk) - len(whole) >= facts.st_size
        except OSError:
            gone = self._file is not None
            self._file, self._place, self._before, self.damaged = None, 0, b"", 0
            return News((), begins_anew=gone, is_all=True)
        records = []
        for line in whole.splitlines():
            try:
                records.append(parsed_line(line))
            except ValueError:
                self.damaged += 1
        return News(tuple(records), anew, is_all)


def _hash_before(descriptor: int, place: int) -> bytes:
    start = max(0, place - LOOKED_BACK)
    return hashlib.sha256(os.pread(descriptor, place - start, start)).digest()
