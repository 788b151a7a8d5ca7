"""A run is read from anywhere, and its text with it."""

from pathlib import Path

import pytest

from homespun.data.corpus import survey
from homespun.reporting.run_record import read_run
from tests.reporting.pages import write_run


def test_the_text_of_a_run_is_found_from_another_folder(
    workplace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = survey(Path("stories.txt")).sha256
    write_run(Path("runs/one"), data_file="stories.txt", data_sha256=sha256)
    assert read_run(Path("runs/one")).text == Path("stories.txt")
    monkeypatch.chdir("runs/one")
    assert read_run(Path()).text == workplace.resolve() / "stories.txt"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert read_run(workplace / "runs/one").text == workplace / "stories.txt"

    (elsewhere / "stories.txt").write_text("Another text of this name. " * 100)
    assert read_run(workplace / "runs/one").text == workplace / "stories.txt"
    (workplace / "stories.txt").rename(
        elsewhere / "stories.txt"
    )  # the working folder is the last place
    assert read_run(workplace / "runs/one").text == Path("stories.txt")
    (elsewhere / "stories.txt").write_text("Another text of this name. " * 100)
    assert read_run(workplace / "runs/one").text is None
