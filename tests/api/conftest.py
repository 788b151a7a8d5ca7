"""A folder with a small run, and its model."""

from pathlib import Path

import pytest

import homespun
from tests.api.small_run import SMALL


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, story_file: Path) -> Path:
    """Stories, a tokenizer, and a run in `checkpoints`."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "stories.txt").write_bytes(story_file.read_bytes())
    text = story_file.read_text(encoding="utf-8").split("<|endoftext|>")
    from homespun.tokenizer import train

    train(text, 400).save(folder / "tokenizer_model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = homespun.train(SMALL)
    assert (result.steps, result.ended_by, result.stopped_by) == (3, "max_steps", None)
    assert result.val_loss == result.best_val_loss
    assert result.best == Path("checkpoints/best.npz")
    return folder


@pytest.fixture
def model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> homespun.LanguageModel:
    monkeypatch.chdir(folder)
    return homespun.load("checkpoints/best.npz", precision="float32")
