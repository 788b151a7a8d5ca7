"""Number of usable processors, and total and free memory for this process, honouring affinity and cgroup limits."""

import contextlib
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SYSTEM = Path("/")

# For both versions of control groups: the files with limit and usage of memory, and the entry of memory.stat for cached
# files, which the system can drop.
_VERSION_2 = "memory.max", "memory.current", "inactive_file"
_VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"


def usable_cpus(system: Path = SYSTEM) -> int:
    """Processors that this process may use: the smallest of those it is bound to, the time that its control groups give
    it, rounded up, and `OMP_NUM_THREADS`."""
    counts = [_processors(), *(math.ceil(share) for share in _cpu_shares(system))]
    # OpenMP allows a list, of which the first number is for the outer level.
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wanted.isascii() and wanted.isdigit():
        counts.append(int(wanted))
    return max(1, min(counts))


def has_gpu(system: Path = SYSTEM) -> bool:
    """Whether there seems to be a GPU that PyTorch computes on. No framework is asked, since that takes seconds."""
    devices = (
        "dev/nvidia0",
        "dev/kfd",
        "dev/dxg",
    )  # NVIDIA's, AMD's, and that of Windows for Linux
    return any((system / device).exists() for device in devices)


def limit_workers(threads: int | None) -> None:
    """Set the threads of the `tokenizers` library to `threads`, or to the number of usable processors, unless the user
    has set their number. The library reads this once, and it holds for the whole process."""
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads or usable_cpus()))


def _processors() -> int:
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_shares(system: Path) -> Iterator[float]:
    """How many processors' time each control group around this process may use, of those that have a limit."""
    for group, is_first_version in _groups(system, "cpu"):
        if is_first_version:
            limit = [_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
        else:
            limit = _read(group / "cpu.max").split()
        if len(limit) == 2 and all(number.isdigit() for number in limit):  # else "max" or -1
            quota, period = map(int, limit)
            if period:
                yield quota / period


def capacity(system: Path = SYSTEM) -> int:
    """Bytes of memory that this process may use: those of the machine, or the limit of its control group."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _ in _limits(system))])


def available(system: Path = SYSTEM) -> int:
    """Bytes of `capacity` that are free now. macOS does not tell, so there it is all of them."""
    free = [limit - used for limit, used in _limits(system)]
    meminfo = _numbers(system / "proc/meminfo")
    if "MemAvailable:" in meminfo:
        free.append(1024 * meminfo["MemAvailable:"])
    return max(0, min([capacity(system), *free]))


def _limits(system: Path) -> Iterator[tuple[int, int]]:
    """Limit and usage in bytes of each control group around this process that has a limit."""
    for group, is_first_version in _groups(system, "memory"):
        limit, usage, cached = _VERSION_1 if is_first_version else _VERSION_2
        if (bytes_allowed := _read(group / limit).strip()).isdigit():  # else it is "max"
            used = int(_read(group / usage) or 0)
            yield int(bytes_allowed), used - _numbers(group / "memory.stat").get(cached, 0)


def _groups(system: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """The folder of each control group around this process with this controller, and whether it is of version 1."""
    for line in _read(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = system / "sys/fs/cgroup" / (controller if controllers else "")
        inside = root / path.lstrip("/")
        # In a container this path may not be visible. Its limit is then in the root folder.
        for group in (inside, *inside.parents):
            if not group.is_relative_to(root):
                break
            yield group, bool(controllers)


def processor(system: Path = SYSTEM) -> str:
    """The name of the processor, such as "Apple M1 Max", or of its architecture where the system does not tell."""
    for line in _read(system / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return value.strip()
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            told = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
            if name := told.stdout.strip():
                return name
    return platform.machine()


def _numbers(table: Path) -> dict[str, int]:
    """The lines `name number ...` of a file."""
    rows = (line.split() for line in _read(table).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
