"""Settings of runs that take about a second flow out, and a small trained model from which other runs go on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import homespun
from homespun.records.events import Event, Step, StopRun

SHAPE: dict[str, Any] = {"model_size": "pico", "n_layers": 1, "d_model": 32, "n_heads": 1}
PACE: dict[str, Any] = {
    "batch_size": 2, "warmup_steps": 0, "threads": 1, "compile": "off", "precision": "float32", "log_interval": 1,
    "eval_interval": 4, "eval_tokens": 200, "sample_interval": 1000, "save_interval": 4,
}  # fmt: skip


def train_base(place: Path, vocab_size: int, **settings: Any) -> None:
    """Train a tokenizer and the model `base` on `first.txt` in a folder."""
    new: dict[str, Any] = {
        "data_file": "first.txt",
        "checkpoint_dir": "base",
        "learning_rate": 0.01,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        homespun.train_tokenizer(data_file="first.txt", vocab_size=vocab_size)
        homespun.train(**SHAPE, **PACE, **new, **settings)


def stop_at(step: int) -> Callable[[Event], None]:
    """A listener that stops its run after a step."""

    def listener(event: Event) -> None:
        if isinstance(event, Step) and event.step == step:
            raise StopRun("for a test")

    return listener
