"""The place where the command of a run was given, found from the folder of the run."""

from pathlib import Path
from typing import Any

import pytest

from homespun.checkpoint.origin import started_in


def header(checkpoint_dir: str) -> dict[str, Any]:
    return {"requested": {"checkpoint_dir": checkpoint_dir}}


@pytest.mark.parametrize(
    ("folder", "named", "place"),
    [
        ("checkpoints", "checkpoints", "."),
        ("checkpoints.1", "checkpoints", "."),  # moved aside
        ("work/checkpoints", "checkpoints", "work"),
        ("work/runs/a", "runs/a", "work"),
        ("work/runs/a", "./runs/a", "work"),
        ("../book/runs/a", "runs/a", "../book"),
        ("/home/me/run", "run", "/home/me"),
        ("work", ".", "work"),
        ("work/run", "/elsewhere/run", "work"),  # the folder around it is the best guess
        ("work/run", "../run", "work"),
        ("/", "deep/er", "/"),
    ],
)
def test_a_run_was_started_above_its_folder(folder: str, named: str, place: str) -> None:
    assert started_in(Path(folder), header(named)) == Path(place)


def test_a_folder_that_is_named_from_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path.resolve() / "work" / "runs" / "a"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    for folder in (".", "../a", "../../runs/a"):
        place = started_in(Path(folder), header("runs/a"))
        assert place.resolve() == inside.parents[1]


@pytest.mark.parametrize("told", [{}, {"requested": None}, {"requested": {"checkpoint_dir": 3}}])
def test_without_a_record_it_is_the_folder_around_the_run(told: dict[str, Any]) -> None:
    assert started_in(Path("work/run"), told) == Path("work")
