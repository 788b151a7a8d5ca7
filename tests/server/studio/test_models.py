"""The models below a folder, and nothing outside of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from homespun.config import SamplingConfig
from homespun.errors import UserError
from homespun.server.limits import Limits
from homespun.server.studio.models import Models
from tests.server.studio.made import STEPS

BEST = "checkpoints/best.npz"


def test_models_of_every_kind_are_found(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "config.json").write_text("{}")
    (tmp_path / "export" / "model.safetensors").write_bytes(b"")
    (tmp_path / "run\udce9").mkdir()  # a name that JSON in UTF-8 cannot hold
    for name in (
        "model.gguf",
        "own.npz",
        "notes.txt",
        ".hidden.npz",
        "run\udce9/best.npz",
        "\udce9.npz",
    ):
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
    with Models(work / "checkpoints").lent("best.npz") as loaded:
        assert loaded.model.config.n_layers == 2


def test_search_ends_in_a_large_folder(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c" / "d" / "e" / "f"
    deep.mkdir(parents=True)
    for folder in (deep, deep.parent):
        (folder / "best.npz").write_bytes(b"")
    assert [model.run for model in Models(tmp_path).found()] == ["a/b/c/d/e"]
    assert Models(tmp_path, Limits(depth=6)).found()[1].run == "a/b/c/d/e/f"
    assert Models(tmp_path, Limits(searched=6)).found()
    assert Models(tmp_path, Limits(searched=5)).found() == []


@pytest.mark.parametrize(
    "name", ["", "..", "../best.npz", "/etc/passwd", "link/best.npz", "a\0", "x" * 5000]
)
def test_nothing_outside_the_folder_is_read(work: Path, tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    shutil.copy(work / BEST, tmp_path / "best.npz")
    (inner / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="no such model below this folder"):
        Models(inner).lent(name)
    assert Models(inner).found() == []


def test_a_model_stays_loaded_until_its_file_changes(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work, tmp_path / "work")
    own = Models(tmp_path / "work")
    with own.lent(BEST) as first, own.lent(BEST) as again:
        assert again is first
        file = tmp_path / "work" / "checkpoints" / f"checkpoint_step_{STEPS[0]}.npz"
        shutil.copy(file, tmp_path / "work" / BEST)
        with own.lent(BEST) as changed:
            assert changed is not first
            assert not np.array_equal(changed.model([0]), first.model([0]))


def test_only_some_models_stay_in_memory(work: Path) -> None:
    own = Models(work)
    first, *others = [model.path for model in own.found()[: Limits().models + 1]]
    with own.lent(first) as loaded:
        pass
    for path in others:
        assert loaded.batcher.is_alive
        with own.lent(path):
            pass
    assert len(own._loaded) == Limits().models
    assert not loaded.batcher.is_alive
    with own.lent(first) as again:
        assert again is not loaded


def test_a_model_that_is_lent_stays_in_memory(work: Path) -> None:
    """Also one that nobody writes with yet."""
    own = Models(work)
    first, *others = [model.path for model in own.found()[: Limits().models + 2]]
    with own.lent(first) as loaded:
        for path in others:
            with own.lent(path):
                pass
        assert loaded.batcher.call(lambda: "alive").result() == "alive"
        with own.lent(first) as again:
            assert again is loaded
        assert loaded.is_lent
    assert not loaded.is_lent


def test_the_caches_of_a_model_have_a_limit(work: Path) -> None:
    with (
        Models(work, Limits(cache_bytes=1)).lent(BEST) as loaded,
        pytest.raises(UserError, match="there is memory for 0"),
    ):
        next(loaded.batcher.write([0], SamplingConfig(max_tokens=1)))


def test_one_model_of_a_run_tells_whether_it_answers(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work, tmp_path / "work")
    own = Models(tmp_path / "work")
    (tmp_path / "work" / "broken.npz").write_bytes(b"nothing")
    answers = {model.path for model, answers in own.with_template() if answers}
    assert answers == {"answers/best.npz", "evil-answers/best.npz"}
    shutil.copy(work / BEST, tmp_path / "work" / "answers" / "best.npz")  # it is trained anew
    answers = {model.path for model, answers in own.with_template() if answers}
    assert answers == {"evil-answers/best.npz"}


def test_only_a_run_has_checkpoints(work: Path) -> None:
    run = Models(work).run_of("checkpoints/checkpoint_step_20.npz")
    assert [model.step for model in run] == [*STEPS, None]
    with pytest.raises(UserError, match="no checkpoint of a run"):
        Models(work).run_of("checkpoints/nothing.npz")
