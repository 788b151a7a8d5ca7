"""Weights to generate from are found in the folder of a run, and stand alone in a copied file."""

import shutil
from pathlib import Path

import pytest

from homespun.checkpoint.archive import CheckpointError, write_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.opening import open_weights
from tests.checkpoint.folders import flip, save, tensors


def test_the_best_weights_of_a_folder(folder: CheckpointFolder) -> None:
    best, best_model = folder.path / "best.npz", folder.path / "best_model.npz"
    for path in (folder.path, best):
        with pytest.raises(CheckpointError, match="no model is there"):
            open_weights(path)
    save(folder, 1, 2)
    assert open_weights(folder.path).step == 2
    with pytest.raises(CheckpointError, match="not been evaluated yet"):
        open_weights(best)
    write_archive(best_model, tensors(0), {}, step=7)
    assert open_weights(folder.path).path == open_weights(best).path == best_model
    folder.save_best(8, tensors(0), {"best": True})
    assert open_weights(folder.path).path == open_weights(best).path == best
    assert open_weights(best_model).step == 7


def test_weights_fall_back_in_a_folder_and_not_by_name(folder: CheckpointFolder) -> None:
    save(folder, 1, 2)
    newest = folder.path / "checkpoint_step_2.npz"
    flip(newest, 0.02)
    skipped: list[str] = []
    assert open_weights(folder.path, skipped.append).step == 1
    assert newest.name in skipped[0]
    with pytest.raises(CheckpointError, match="damaged"):
        open_weights(newest).verify()
    with pytest.raises(CheckpointError, match="holds state"):
        open_weights(folder.path / "checkpoint_step_2.state.npz")


def test_a_copied_file_stands_alone(folder: CheckpointFolder, tmp_path: Path) -> None:
    folder.save_best(3, tensors(3), {"tokenizer": {"version": "1.0"}})
    copy = shutil.copy(folder.path / "best.npz", tmp_path / "mine.npz")
    opened = open_weights(copy)
    assert (opened.step, opened.header) == (3, {"tokenizer": {"version": "1.0"}})
    assert [float(tensor.flat[0]) for _, tensor in opened.tensors()] == [3.0, 3.0]
