"""No picture is worth a run: whatever is wrong with it is a line."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from homespun.training import train
from homespun.training.output.ending import PLOT


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (ModuleNotFoundError("No module named 'matplotlib'"), "No module named 'matplotlib'"),
        (KeyError("step"), "'step'"),
        (ValueError(), "ValueError()"),
        (MemoryError(), "MemoryError()"),
    ],
)
def test_a_picture_that_fails_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(train, "plot_run", fail)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    said: list[str] = []
    run: Any = SimpleNamespace(config=SimpleNamespace(max_grad_norm=1.0))
    emit: Any = SimpleNamespace(activity=lambda name: None, message=said.append)
    train._draw_curves(run, tmp_path, emit)
    assert said == [
        f"{tmp_path / PLOT} cannot be written ({reason}). Nothing else of the run is missing."
    ]


def test_a_record_that_begins_anew_does_not_cost_the_earlier_picture(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / PLOT).write_bytes(b"the whole run")
    run: Any = SimpleNamespace(config=SimpleNamespace(max_grad_norm=1.0))
    emit: Any = SimpleNamespace(activity=lambda name: None, message=pytest.fail)
    train._draw_curves(run, tmp_path, emit)
    assert (tmp_path / PLOT).read_bytes() == b"the whole run"
