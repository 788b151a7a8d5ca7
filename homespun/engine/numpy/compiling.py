"""C sources flow in, a library for this machine flows out.

It is compiled when it is first needed, which takes about three seconds on an idle machine, and kept in the user's
folder for caches. A kept library is taken only if sources, compiler and processor are the same, and nobody else can
have written it.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from homespun import durable
from homespun.terminal import named

COMPILERS = "cc", "gcc", "clang"
FLAGS = (
    *("-O3", "-march=native", "-shared", "-fPIC"),
    # Sums may be taken in any order. -ffast-math would do more: it makes the whole process round tiny numbers to zero.
    *("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno"),
)
WITH_THREADS: tuple[tuple[str, ...], ...] = (("-fopenmp",), ())
"""Flags for several threads, and those of a compiler that lacks them."""
COMPILE_SECONDS = 120.0
CPUINFO = Path("/proc/cpuinfo")
PROCESSOR = ("model name", "flags", "CPU implementer", "CPU part", "Features", "isa")
"""The lines of `CPUINFO` that tell for which processor a library is."""

T = TypeVar("T")


def library(sources: Sequence[Path], opened: Callable[[Path], T | None]) -> T | None:
    """The library of these sources, as `opened` gives it; None where there is no C compiler that works.

    On a Mac the command of a compiler that is missing opens a window, so none is tried there.

    Args:
        opened: loads a library and tries it; None if it does not work.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if sys.platform != "linux" or compiler is None:
        return None
    kept = _kept(compiler, sources)
    if kept and _is_ours(kept) and (found := opened(kept)) is not None:
        return found
    try:
        # Nobody else can write into this folder. Once the file is loaded, it is not needed any more.
        with (
            tempfile.TemporaryDirectory(prefix="homespun-", ignore_cleanup_errors=True) as folder,
            named("Compiling the kernels of the NumPy engine, once"),
        ):
            for number, more in enumerate(WITH_THREADS):
                # The system loads a file of one name only once.
                file = Path(folder) / f"library{number}.so"
                if _compiles([compiler, *FLAGS, *more, *map(str, sources), "-lm", "-o", str(file)]):
                    found = opened(file)
                    if found is not None:
                        if kept:
                            _keep(file, kept)
                        return found
    except (OSError, subprocess.TimeoutExpired):  # no room for files, or a compiler that hangs
        pass
    return None


def _compiles(command: list[str]) -> bool:
    """
    Raises:
        TimeoutExpired: it takes too long.
    """
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMPILE_SECONDS
    )
    return done.returncode == 0


def _kept(compiler: str, sources: Sequence[Path]) -> Path | None:
    """Where the library is kept, whose name follows from all that it depends on; None if that is unknown."""
    facts = hashlib.sha256(repr((FLAGS, WITH_THREADS, compiler)).encode())
    try:
        binary = Path(compiler).resolve()
        facts.update(
            repr((str(binary), binary.stat()[stat.ST_MTIME], binary.stat().st_size)).encode()
        )
        for source in sources:
            facts.update(hashlib.sha256(source.read_bytes()).digest())
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
        processor = sorted({line for line in lines if line.startswith(PROCESSOR)})
        if not processor:
            return None
        facts.update("\n".join(processor).encode())
        caches = os.environ.get("XDG_CACHE_HOME", "")
        folder = Path(caches) if Path(caches).is_absolute() else Path.home() / ".cache"
    except (OSError, UnicodeDecodeError, RuntimeError):  # RuntimeError: no home
        return None
    return folder / "homespun" / f"{facts.hexdigest()[:32]}.so"


def _is_ours(file: Path) -> bool:
    """Whether a kept library is whole, and only this user can have written it."""
    try:
        for path in (file.parent, file):
            status = path.lstat()
            if status.st_uid != os.getuid() or status.st_mode & 0o022 or path.is_symlink():
                return False
        data = file.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(data[:-32]).digest() == data[-32:]


def _keep(library: Path, kept: Path) -> None:
    """Keep a library, with its checksum behind it. Where that is not possible, it is compiled again next time."""
    with contextlib.suppress(OSError):
        data = library.read_bytes()
        durable.make_folder(kept.parent, mode=0o700)
        with durable.replacing(kept) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(data + hashlib.sha256(data).digest())
