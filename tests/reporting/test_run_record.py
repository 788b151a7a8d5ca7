"""A run is read from anywhere, and its text with it; long work tells how far it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from homespun.data import quality
from homespun.data.corpus import survey
from homespun.reporting import report, run_record
from homespun.reporting.diagnosis import diagnose
from homespun.reporting.doctor import examine_run
from homespun.reporting.report import write_report
from homespun.reporting.run_record import RunRecord, read_run
from homespun.training.diagnostics import trends
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


class Bars:
    """Takes the place of `terminal.bar`, and keeps the total and the amount of each work by its title."""

    def __init__(self) -> None:
        self.totals: dict[str, float | None] = {}
        self.done: dict[str, float] = {}

    @contextmanager
    def __call__(self, title: str, total: float | None) -> Iterator[Callable[[float], None]]:
        self.totals[title], self.done[title] = total, 0.0

        def advance(amount: float) -> None:
            self.done[title] += amount

        yield advance


def test_a_report_and_a_diagnosis_tell_how_far_they_are(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = survey(Path("stories.txt")).sha256
    write_run(Path("run"), data_file="stories.txt", data_sha256=sha256)
    bars = Bars()
    for module in (run_record, quality, report):
        monkeypatch.setattr(module, "bar", bars)
    examine_run(Path("run"), lambda line: None, None)
    assert list(bars.done) == ["Reading run/metrics.jsonl", "Examining stories.txt"]
    for title, file in zip(bars.done, ("run/metrics.jsonl", "stories.txt"), strict=True):
        size = Path(file).stat().st_size
        assert bars.totals[title] == size
        assert 0.95 * size < bars.done[title] <= size
    bars.done.clear()
    write_report([Path("run")])
    assert list(bars.done)[-1] == "Drawing the report"


def test_evaluations_take_the_losses_since_the_one_before(tmp_path: Path) -> None:
    """Whatever the order of the intervals: several lines, one, or none between two evaluations."""
    losses = [9.0, 8.0, 7.0, 6.0]
    steps = [{"step": 10 * n, "loss": loss} for n, loss in enumerate(losses, 1)]
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trends, "overfitting", lambda found, config: seen.extend(found))
        patch.setattr(trends, "unlike_validation", lambda found, passes: seen.extend(found))
        records = [*steps, *({"step": n, "val_loss": 5.0} for n in (5, 20, 25, 40))]
        diagnose(RunRecord(tmp_path, tuple(records)))
    assert {(step, mean) for step, _, mean in seen} == {(20, 8.5), (25, 8.0), (40, 6.5)}
