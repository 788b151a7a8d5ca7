"""Runs each scenario once for every call that changes the disk, in a process that is killed at this call.

    python -m tests.checkpoint.kill_points FOLDER

It is a separate program, so that it may fork. It prints a JSON line for each kill (SIGKILL): the interrupted call, and
the checkpoints that are found afterwards.
"""

import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.opening import open_weights
from tests.checkpoint.faults import Call, intercepted

Action = Callable[[CheckpointFolder], object]


def tensors(version: int) -> list[tuple[str, Any]]:
    return [(name, np.full(6000, version, np.float32)) for name in ("a", "b")]


def save(folder: CheckpointFolder, step: int, version: int) -> None:
    with folder.lock():
        folder.save(step, tensors(version), tensors(version), {"v": version}, {"v": version})


def save_best(folder: CheckpointFolder, version: int) -> None:
    with folder.lock():
        folder.save_best(version, tensors(version), {"v": version})


def found(folder: CheckpointFolder) -> dict[str, Any]:
    """The step of the newest checkpoint, and all versions that its arrays and headers contain."""
    skipped: list[str] = []
    newest = folder.latest(skipped.append)
    if newest is None:
        return {"step": None, "versions": [], "skipped": skipped}
    inside = {float(tensor[i]) for _, tensor in newest.tensors() for i in (0, -1)}
    versions = inside | {newest.weights.header["v"], newest.state.header["v"]}
    return {"step": newest.step, "versions": sorted(versions), "skipped": skipped}


def files(folder: CheckpointFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


def best(folder: CheckpointFolder) -> list[float]:
    return sorted({float(tensor[-1]) for _, tensor in open_weights(folder.path).tensors()})


def killed_at(k: int, action: Callable[[], object]) -> Call | None:
    """Run `action` in a process that is killed at its k-th call; returns the call, or None if there are fewer."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        left = itertools.count(k - 1, -1)

        def before(call: Call) -> None:
            if next(left) == 0:
                os.write(writer, json.dumps(call).encode())
                os.kill(os.getpid(), signal.SIGKILL)

        with intercepted(before):
            action()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    if not text:
        assert status == 0, status
        return None
    assert os.WIFSIGNALED(status), status
    return tuple(json.loads(text))


def enumerate_kills(root: Path, name: str, prepare: Action, action: Action) -> None:
    start = CheckpointFolder(root / name, keep=1)
    prepare(start)
    for k in itertools.count(1):
        folder = CheckpointFolder(root / f"{name}-{k}", keep=1)
        shutil.copytree(start.path, folder.path)
        call = killed_at(k, lambda folder=folder: action(folder))
        if call is None:
            return
        result = {
            "scenario": name,
            "k": k,
            "call": call,
            "after": found(folder),
            "best": best(folder),
        }
        action(folder)
        result |= {"again": found(folder), "files": files(folder)}
        print(json.dumps(result), flush=True)
        shutil.rmtree(folder.path)


def main(root: Path) -> None:
    def first(folder: CheckpointFolder) -> None:
        save(folder, 1, version=1)
        save_best(folder, version=1)

    enumerate_kills(root, "next", first, lambda folder: save(folder, 2, version=2))
    enumerate_kills(root, "same", first, lambda folder: save(folder, 1, version=2))
    enumerate_kills(root, "best", first, lambda folder: save_best(folder, version=2))

    def torn(folder: CheckpointFolder) -> None:
        """Leave new weights without the state that commits them."""
        first(folder)
        for k in itertools.count(1):
            if killed_at(k, lambda: save(folder, 1, version=3)) == (
                "rename",
                "checkpoint_step_1.state.npz",
            ):
                return

    enumerate_kills(root, "torn", torn, lambda folder: save(folder, 1, version=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
