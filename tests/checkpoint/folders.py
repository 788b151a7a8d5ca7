"""Shared by the tests of the folder of a run: checkpoints to save, names to expect, and a flipped bit."""

from pathlib import Path
from typing import Any

import numpy as np

from homespun.checkpoint.folder import CheckpointFolder

ROOT = Path(__file__).parents[2]
"""The folder of the project, in which other processes are started."""


def tensors(version: float) -> list[tuple[str, Any]]:
    return [
        ("wte.weight", np.full((4, 8), version, np.float32)),
        ("exp_avg/b", np.full(3, version)),
    ]


def save(folder: CheckpointFolder, *steps: int, version: float | None = None) -> None:
    for step in steps:
        v = step if version is None else version
        folder.save(step, tensors(v), tensors(v), {"v": v}, {"v": v})


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.name != ".lock")


def set_aside(folder: CheckpointFolder) -> Path | None:
    with folder.lock() as lock:
        return lock.set_aside()


def pairs(*steps: int) -> list[str]:
    return sorted(f"checkpoint_step_{n}{s}.npz" for n in steps for s in ("", ".state"))


def flip(path: Path, place: float = 0.3) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


def made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path
