"""The models below a folder, and nothing outside of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from homespun.config import SamplingConfig
from homespun.errors import UserError
from homespun.server.limits import Limits
from homespun.server.studio import models
from homespun.server.studio.models import Models
from tests.server.studio.made import STEPS

BEST = "checkpoints/best.npz"


def test_models_of_every_kind_are_found(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "config.json").write_text("{}")
    (tmp_path / "export" / "model.safetensors").write_bytes(b"")
    for name in ("model.gguf", "own.npz", "notes.txt", ".hidden.npz"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "best.npz").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    found = Models(tmp_path).found()
    steps = [f"checkpoints/checkpoint_step_{step}.npz" for step in reversed(STEPS)]
    assert [model.path for model in found] == [BEST, *steps, "model.gguf", "own.npz", "export"]
    assert [model.kind for model in found] == ["best", *["step"] * 3, *["model"] * 3]


def test_a_folder_of_a_run_has_the_models_of_the_run(work: Path) -> None:
    found = Models(work / "checkpoints").found()
    assert [model.label for model in found][:2] == ["this folder: best", "this folder: step 30"]
    assert Models(work / "checkpoints").loaded("best.npz").model.config.n_layers == 2


def test_search_ends_in_a_large_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "a" / "b" / "c" / "d" / "e"
    deep.mkdir(parents=True)
    for folder in (deep, deep.parent):
        (folder / "best.npz").write_bytes(b"")
    assert [model.run for model in Models(tmp_path).found()] == ["a/b/c/d"]
    monkeypatch.setattr(models, "MOST_FOLDERS", 3)
    assert Models(tmp_path).found() == []


@pytest.mark.parametrize(
    "name", ["", "..", "../best.npz", "/etc/passwd", "link/best.npz", "a\0", "x" * 5000]
)
def test_nothing_outside_the_folder_is_read(work: Path, tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    shutil.copy(work / BEST, tmp_path / "best.npz")
    (inner / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="no such model below this folder"):
        Models(inner).loaded(name)
    assert Models(inner).found() == []


def test_a_model_stays_loaded_until_its_file_changes(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work, tmp_path / "work")
    own = Models(tmp_path / "work")
    first = own.loaded(BEST)
    assert own.loaded(BEST) is first
    file = tmp_path / "work" / "checkpoints" / f"checkpoint_step_{STEPS[0]}.npz"
    shutil.copy(file, tmp_path / "work" / BEST)
    changed = own.loaded(BEST)
    assert changed is not first
    assert not np.array_equal(changed.model([0]), first.model([0]))


def test_only_some_models_stay_in_memory(work: Path) -> None:
    own = Models(work)
    paths = [model.path for model in own.found()[: models.MOST_LOADED + 1]]
    first = own.loaded(paths[0])
    for path in paths[1:]:
        own.loaded(path)
    assert own.loaded(paths[0]) is not first
    assert len(own._loaded) == models.MOST_LOADED
    assert not first.batcher.is_alive


def test_the_caches_of_a_model_have_a_limit(work: Path) -> None:
    loaded = Models(work, Limits(cache_bytes=1)).loaded(BEST)
    with pytest.raises(UserError, match="there is memory for 0"):
        next(loaded.batcher.write([0], SamplingConfig(max_tokens=1)))


def test_only_a_run_has_checkpoints(work: Path) -> None:
    run = Models(work).run_of("checkpoints/checkpoint_step_20.npz")
    assert [model.step for model in run] == [*STEPS, None]
    with pytest.raises(UserError, match="no checkpoint of a run"):
        Models(work).run_of("checkpoints/nothing.npz")
