"""Memory, disk space and open files of a run do not grow over many steps and saves."""

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Command, finished

STEPS, SAVE_INTERVAL, KEEP = 24_000, 100, 2
SMALL = [
    "--model-size", "pico", "--n-layers", 1, "--d-model", 32, "--n-heads", 1, "--d-ff", 32,
    "--seq-len", 8, "--batch-size", 1, "--threads", 1, "--compile", "off",
]  # fmt: skip
PACE = [
    "--max-steps", STEPS, "--save-interval", SAVE_INTERVAL, "--keep", KEEP, "--log-interval", 50,
    "--eval-interval", 500, "--eval-tokens", 100, "--sample-interval", 4_000,
]  # fmt: skip

MEMORY_NOISE = 4e6
"""Tolerated growth in bytes, for the allocator and for files that are being written."""


class Sample(NamedTuple):
    """Resources of a running process."""

    memory: int
    open_files: int
    names: set[str]
    disk: int


def sampled(pid: int, folder: Path) -> Sample:
    [pages] = re.findall(r"^\d+ (\d+)", Path(f"/proc/{pid}/statm").read_text())
    sizes = {}
    for entry in os.scandir(folder):
        try:
            sizes[entry.name] = entry.stat().st_size
        except FileNotFoundError:  # the file has just been pruned or renamed
            continue
    records = sizes.pop("metrics.jsonl", 0)
    assert records < 1000 * STEPS
    open_files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Sample(
        int(pages) * os.sysconf("SC_PAGE_SIZE"), open_files, set(sizes), sum(sizes.values())
    )


def watched(process: "subprocess.Popen[str]", folder: Path) -> list[Sample]:
    """A sample at each step line that the run prints."""
    assert process.stdout
    samples = []
    for line in process.stdout:
        if re.match(r"step +[\d,]+/[\d,]+  loss", line):
            try:
                samples.append(sampled(process.pid, folder))
            except FileNotFoundError:  # the process has ended
                break
    return samples


@pytest.mark.slow
def test_what_a_run_holds_does_not_grow(homespun: Command, workplace: Path) -> None:
    finished(homespun("tokenizer", "--vocab-size", 300))
    process = homespun("train", *SMALL, *PACE)
    samples = watched(process, workplace / "checkpoints")
    finished(process)
    assert len(samples) > 0.9 * STEPS / 50

    names = {path.name for path in (workplace / "checkpoints").iterdir()}
    steps = [STEPS - n * SAVE_INTERVAL for n in range(KEEP)]
    pairs = {f"checkpoint_step_{n}{kind}.npz" for n in steps for kind in ("", ".state")}
    others = {"best.npz", "metrics.jsonl", "training.png", ".lock"}
    assert names == pairs | others
    assert not (workplace / "checkpoints.1").exists()

    # Skip the first eighth, in which caches fill and the first evaluations and samples are made.
    eighth = len(samples) // 8
    windows = [samples[n * eighth :][:eighth] for n in range(1, 8)]
    memory = [max(sample.memory for sample in window) for window in windows]
    open_files = [max(sample.open_files for sample in window) for window in windows]
    assert max(memory) <= memory[0] + MEMORY_NOISE, memory
    assert max(open_files) <= open_files[0] + 2, open_files  # a file being saved and its folder

    pair = sum((workplace / "checkpoints" / name).stat().st_size for name in pairs) / KEEP
    best = (workplace / "checkpoints" / "best.npz").stat().st_size
    assert max(sample.disk for sample in samples) <= (KEEP + 1) * pair + 2 * best + 1000
    # The kept checkpoints, one checkpoint being written, and one file being renamed.
    assert max(len(sample.names) for sample in samples) <= 2 * (KEEP + 1) + len(others) + 1
