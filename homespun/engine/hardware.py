"""Processors and memory of this process: total and free, honouring affinity and cgroup limits."""

import os
from collections.abc import Iterator
from pathlib import Path

SYSTEM = Path("/")

# Where a control group keeps its limit, what it uses, and how much of that are files that need not stay in memory:
# of the second version of control groups, and of the first.
_VERSION_2 = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
_VERSION_1 = (
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
)


def n_cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def capacity(system: Path = SYSTEM) -> int:
    """Bytes of memory in this machine, or that its limits leave to this process."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _ in _limits(system))])


def available(system: Path = SYSTEM) -> int:
    """Bytes of it that nobody uses now; where the system does not tell (macOS), all of it."""
    free = [limit - used for limit, used in _limits(system)]
    meminfo = _numbers(system / "proc/meminfo")
    if "MemAvailable:" in meminfo:
        free.append(1024 * meminfo["MemAvailable:"])
    return max(0, min([capacity(system), *free]))


def _limits(system: Path) -> Iterator[tuple[int, int]]:
    """Bytes that each control group around this process may have, and that it uses."""
    for line in _read(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        place, limit, usage, files = _VERSION_1 if controllers else _VERSION_2
        root = system / place
        inside = root / path.lstrip("/")
        # From within a container its own path may not be visible; its limit then stands at the root.
        for group in (inside, *inside.parents):
            if not group.is_relative_to(root):
                break
            if (bytes_allowed := _read(group / limit).strip()).isdigit():  # else it is "max"
                used = int(_read(group / usage) or 0)
                yield int(bytes_allowed), used - _numbers(group / "memory.stat").get(files, 0)


def _numbers(table: Path) -> dict[str, int]:
    """The lines `name number ...` of a file."""
    rows = (line.split() for line in _read(table).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
