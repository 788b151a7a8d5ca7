"""A path flows in, opened weights flow out: those to generate from, and those that adapters belong to.

Nothing is written, and no lock is needed: the weights of a run can be opened while it continues.
"""

import warnings
from pathlib import Path

from homespun.checkpoint.archive import Archive, CheckpointError, read_as
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.names import BASE, BEST, LORA, names_in
from homespun.terminal import Say


def open_weights(path: Path, report: Say = warnings.warn) -> Archive:
    """Open weights to generate from: a file, or the best weights in the folder of a run, else its newest checkpoint.

    A missing file is an error, with one exception: `best_model.npz` stands in for a missing `best.npz` beside it.

    Args:
        path: a file or a folder.
        report: receives a message about each damaged checkpoint.

    Raises:
        CheckpointError: there are no weights, or they are damaged.
    """
    candidates = [path]
    if path.is_dir():
        names_in(path)  # a folder that cannot be read is no empty folder
        candidates = [path / name for name in BEST]
    elif path.name == BEST[0]:
        candidates = [path.with_name(name) for name in BEST]
    for candidate in candidates:
        if candidate.exists():
            return read_as(candidate, "weights")
    if path.name in BEST and CheckpointFolder(path.parent).latest(report):
        raise CheckpointError(
            f"{path} does not exist, because the run has not been evaluated yet: "
            f"name its folder, {path.parent}, to use its newest checkpoint"
        )
    newest = CheckpointFolder(path).latest(report) if path.is_dir() else None
    if newest is None:
        raise CheckpointError(
            f"{path}: no model is there: train one (homespun train), or name another file or the folder of a run"
        )
    return newest.weights


def open_base(weights: Archive) -> Archive | None:
    """The weights that the adapters in a file belong to, which lie beside it; None if the file holds a whole model.

    Raises:
        CheckpointError: they are missing, damaged, or others.
    """
    if LORA not in weights.header:
        return None
    stated, path = weights.header[LORA], weights.path.with_name(BASE)
    if not path.exists():
        raise CheckpointError(
            f"{weights.path} holds adapters alone, and {path} is missing: put the {BASE} of its run there"
        )
    base = read_as(path, "weights")
    wanted = stated.get("base_sha256") if isinstance(stated, dict) else None
    if LORA in base.header or base.sha256 != wanted:
        raise CheckpointError(
            f"{weights.path} holds adapters of another model than {path}: put the {BASE} of its run there"
        )
    return base
