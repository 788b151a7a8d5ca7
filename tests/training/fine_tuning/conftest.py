"""Shared fixtures: trained models to go on from, and a working folder with a copy of one."""

import json
import shutil
from pathlib import Path

import pytest

from homespun.stories import stories
from tests.training.fine_tuning.talks import CONTEXT, talks
from tests.training.small_runs import train_base


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a trained model in `base`, with a context of 16 tokens, and a second text."""
    place = tmp_path_factory.mktemp("trained")
    for name, seed in (("first.txt", 3), ("second.txt", 4)):
        text = "\n<|endoftext|>\n".join(stories(40, seed=seed))
        (place / name).write_text(text, encoding="utf-8")
    train_base(place, vocab_size=300, seq_len=16, max_steps=30)
    return place


@pytest.fixture(scope="session")
def trained_for_talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a small model in `base`, and conversations."""
    place = tmp_path_factory.mktemp("trained_for_talks")
    text = "\n<|endoftext|>\n".join(stories(60, seed=3, plain=True))
    (place / "first.txt").write_text(text, encoding="utf-8")
    lines = "".join(json.dumps(talk) + "\n" for talk in talks())
    (place / "chats.jsonl").write_text(lines, encoding="utf-8")
    train_base(place, vocab_size=400, seq_len=CONTEXT, max_steps=10)
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder `trained`, in which the test works."""
    place = shutil.copytree(trained, tmp_path / "place")
    monkeypatch.chdir(place)
    return place
