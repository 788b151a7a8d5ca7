"""Number of cores, and total and free memory for this process, honouring affinity and cgroup limits."""

import os
from collections.abc import Iterator
from pathlib import Path

SYSTEM = Path("/")

# For both versions of control groups: the folder, the files with limit and usage, and the entry of memory.stat for
# cached files, which the system can drop.
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
    for line in _read(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder, limit, usage, cached = _VERSION_1 if controllers else _VERSION_2
        root = system / folder
        inside = root / path.lstrip("/")
        # In a container this path may not be visible. Its limit is then in the root folder.
        for group in (inside, *inside.parents):
            if not group.is_relative_to(root):
                break
            if (bytes_allowed := _read(group / limit).strip()).isdigit():  # else it is "max"
                used = int(_read(group / usage) or 0)
                yield int(bytes_allowed), used - _numbers(group / "memory.stat").get(cached, 0)


def _numbers(table: Path) -> dict[str, int]:
    """The lines `name number ...` of a file."""
    rows = (line.split() for line in _read(table).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
