"""Intercepts every write, fsync, rename and unlink of the code under test, on any platform.

A test can observe a call, refuse it with an exception, or kill the process before it.
"""

import fcntl
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

Call = tuple[str, str]
"""The kind of call (write, fsync, rename, unlink), and the name of the file or folder."""


@contextmanager
def intercepted(before: Callable[[Call], None]) -> Iterator[None]:
    """Call `before` at each call that changes the disk. It may raise an exception or kill the process."""
    names: dict[int, str] = {}
    fsync, replace, unlink, open_path = os.fsync, os.replace, os.unlink, Path.open

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            view = memoryview(data).cast("B")
            half = len(view) // 2
            done = super().write(view[:half])  # an interruption leaves a torn write
            before(("write", names[self.fileno()]))
            return done + super().write(view[half:])

    def traced_open(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode != "xb":
            return open_path(path, mode, *args, **kwargs)
        raw = Raw(path, mode)
        names[raw.fileno()] = path.name
        return io.BufferedWriter(raw)

    def traced_fsync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        before(("fsync", "folder" if folder else names[descriptor]))
        fsync(descriptor)

    def traced_replace(source: Path, target: Path) -> None:
        before(("rename", Path(target).name))
        replace(source, target)

    def traced_unlink(path: Path) -> None:
        if Path(path).exists():
            before(("unlink", Path(path).name))
        unlink(path)

    with (
        mock.patch.object(Path, "open", traced_open),
        mock.patch.object(os, "fsync", traced_fsync),
        mock.patch.object(os, "replace", traced_replace),
        mock.patch.object(os, "unlink", traced_unlink),
        mock.patch.object(fcntl, "F_FULLFSYNC", None, create=True),
    ):
        yield


def trace(action: Callable[[], object]) -> list[Call]:
    """The calls of `action`; consecutive writes to one file are listed once."""
    calls: list[Call] = []
    with intercepted(calls.append):
        action()
    return [
        call for i, call in enumerate(calls) if call[0] != "write" or calls[i - 1 : i] != [call]
    ]
