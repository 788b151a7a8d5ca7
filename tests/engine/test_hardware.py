"""The memory that control groups leave to a process, read from folders made like those of Linux."""

from pathlib import Path

import pytest

from homespun.engine import hardware

GIGABYTE = 10**9


def written(system: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text(f"{content}\n")
    return system


def test_the_narrowest_group_around_a_process_counts(tmp_path: Path) -> None:
    groups = "sys/fs/cgroup"
    system = written(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user/job",
            f"{groups}/user/job/memory.max": "max",
            f"{groups}/user/memory.max": GIGABYTE,
            f"{groups}/user/memory.current": 600_000_000,
            f"{groups}/user/memory.stat": "anon 1\ninactive_file 100000000\nactive_file 7",
            f"{groups}/memory.max": 3 * GIGABYTE,
        },
    )
    assert hardware.capacity(system) == GIGABYTE
    assert hardware.available(system) == 500_000_000


def test_groups_of_the_first_version_and_from_within_a_container(tmp_path: Path) -> None:
    groups = "sys/fs/cgroup/memory"
    system = written(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu,memory:/docker/not_visible_here\n1:cpuset:/\n0::/",
            f"{groups}/memory.limit_in_bytes": GIGABYTE,
            f"{groups}/memory.usage_in_bytes": 2 * GIGABYTE,
            f"{groups}/memory.stat": "total_inactive_file 100000000",
        },
    )
    assert hardware.capacity(system) == GIGABYTE
    assert hardware.available(system) == 0


def test_what_others_use_is_not_available(tmp_path: Path) -> None:
    system = written(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    2000 kB"})
    assert hardware.available(system) == 2_048_000


@pytest.mark.parametrize("system", [hardware.SYSTEM, Path("/nothing/here")])
def test_a_machine_without_limits_has_what_it_has(system: Path) -> None:
    assert 0 < hardware.available(system) <= hardware.capacity(system)
