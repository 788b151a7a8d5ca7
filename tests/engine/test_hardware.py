"""The memory and processors that control groups leave to a process, read from folders made like those of Linux."""

import os
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


GROUP_OF = {"proc/self/cgroup": "0::/user/job"}
GROUP_1_OF = {"proc/self/cgroup": "4:cpu,cpuacct:/job\n1:memory:/"}
V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu"


@pytest.mark.parametrize(
    ("files", "openmp", "expected"),
    [
        ({}, None, 8),
        (GROUP_OF | {f"{V2}/user/job/cpu.max": "max 100000"}, None, 8),
        (GROUP_OF | {f"{V2}/user/job/cpu.max": "200000 100000"}, None, 2),
        (GROUP_OF | {f"{V2}/cpu.max": "150000 100000"}, None, 2),
        (GROUP_OF | {f"{V2}/user/cpu.max": "10000 100000", f"{V2}/cpu.max": "max 1"}, None, 1),
        (
            GROUP_1_OF | {f"{V1}/cpu.cfs_quota_us": "300000", f"{V1}/cpu.cfs_period_us": "100000"},
            None,
            3,
        ),
        (
            GROUP_1_OF | {f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"},
            None,
            8,
        ),
        ({}, "3", 3),
        ({}, "5,2", 5),
        ({}, "100", 8),
        ({}, "0", 1),
        ({}, "many", 8),
        (GROUP_OF | {f"{V2}/cpu.max": "200000 100000"}, "4", 2),
    ],
)
def test_the_usable_processors_are_the_fewest_of_all_limits(
    files: dict[str, object],
    openmp: str | None,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8), raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if openmp is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", openmp)
    assert hardware.usable_cpus(written(tmp_path, files)) == expected


@pytest.mark.parametrize(("own", "threads", "expected"), [(None, 2, "2"), ("7", 2, "7")])
def test_the_threads_of_the_tokenizer_are_those_of_the_run(
    own: str | None, threads: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")  # to be restored
    monkeypatch.delenv("RAYON_NUM_THREADS")
    if own is not None:
        monkeypatch.setenv("RAYON_NUM_THREADS", own)
    hardware.limit_workers(threads)
    assert os.environ["RAYON_NUM_THREADS"] == expected
