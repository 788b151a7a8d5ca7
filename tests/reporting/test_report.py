"""The page about runs: one file that is whole, safe and says everything, whatever the record has."""

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest

import homespun
from homespun.checkpoint.names import METRICS
from homespun.cli.arguments import parse
from homespun.cli.commands import COMMANDS
from homespun.cli.main import main
from homespun.config import TrainConfig
from homespun.errors import UserError
from homespun.reporting import charts
from homespun.reporting.charts import Chart, Line, number, thinned, ticks
from homespun.reporting.page import command_to_repeat, command_to_resume
from homespun.reporting.report import write_report
from homespun.reporting.run_record import read_run
from tests.reporting.pages import EVIL, write_run

VOID = {"meta", "link", "br", "img", "hr", "path"}
LOADS = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}


class Page(HTMLParser):
    """A page whose elements nest, with its text and everything that it would load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.loads += [value or "" for name, value in attrs if name in LOADS]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(element == tag for element, _ in self.elements)


def page_of(*runs: Path, output: Path | None = None) -> Page:
    page = Page(write_report(runs, output))
    assert page.loads == ["data:,"]
    assert page.count("script") == 1
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        if tag == "svg" and attributes.get("aria-hidden") != "true":
            assert attributes["aria-label"]
    return page


def test_a_page_has_everything_of_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    page = page_of(run)
    assert (run / "report.html").exists()
    for heading in ("Result", "Diagnosis", "Curves", "Samples over time", "Settings", "Commands"):
        assert heading in page.text
    for title in (
        "Loss",
        "Validation loss",
        "Learning rate",
        "Gradient norm",
        "Throughput",
        "Peak memory",
    ):
        assert title in page.text
    assert "Once upon a time there was a fox." in page.text.replace("time  there", "time there")
    assert "No problem found" in page.text
    assert "no comparable curve" in page.text
    assert page.count("figure") == 6
    assert page.count("h1") == 1


def test_a_mixture_shows_its_experts(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, experts=True))
    assert "Most and least used expert" in page.text
    assert page.count("figure") == 9


def with_figures(run: Path, training: dict[str, float], validation: dict[str, float]) -> Path:
    """A run whose records have these figures, too."""
    file = run / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        record.update(training if "loss" in record else validation if "val_loss" in record else {})
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def test_runs_with_a_reward_show_it(tmp_path: Path) -> None:
    training = {"reward": 0.4, "entropy": 1.2, "kl": 0.1, "answer_tokens": 9.0}
    runs = [
        with_figures(write_run(tmp_path / name), training, {"val_reward": 0.5})
        for name in ("one", "other")
    ]
    alone = page_of(runs[0])
    for title in ("Reward", "Entropy of the answers", "Distance from the initial model"):
        assert title in alone.text
    assert alone.count("figure") == 10
    both = page_of(*runs, output=tmp_path / "both.html")
    assert "mean; dashed: validation" in both.text
    assert both.count("figure") == 10


def test_a_run_with_preferences_shows_its_pairs(tmp_path: Path) -> None:
    run = with_figures(
        write_run(tmp_path),
        {"accuracy": 0.7, "margin": 0.3},
        {"val_accuracy": 0.6, "val_margin": 0.2},
    )
    page = page_of(run)
    assert "Pairs in the right order" in page.text
    assert "Margin of the better answer" in page.text
    assert page.count("figure") == 8


@pytest.mark.parametrize("field", ["sample", "data_file"])
def test_text_of_a_run_stays_text(tmp_path: Path, field: str) -> None:
    run = write_run(tmp_path / "run", **{field: EVIL})  # type: ignore[arg-type]
    page = page_of(run)
    assert "window.broken" in page.text
    assert page.count("img") == 0


def test_the_name_of_a_folder_stays_text(tmp_path: Path) -> None:
    page = page_of(
        write_run(tmp_path / 'a"b <b>&'),
        write_run(tmp_path / "<script>x"),
        output=tmp_path / "p.html",
    )
    assert "<script>x" in page.text


def test_several_runs_share_their_charts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [
        write_run(Path(name), rate=rate)
        for name, rate in (("one", 1e-3), ("two", 2e-3), ("three", 1e-3))
    ]
    page = page_of(*runs)
    assert Path("report.html").exists()
    assert page.count("figure") == 6
    settings = page.text.partition("Settings in which the runs differ")[2].partition("All ")[0]
    assert "--learning-rate 0.001 0.002 0.001" in settings
    assert "--seed" not in settings
    assert "The row in bold has the lowest validation loss" in page.text


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name / "checkpoints") for name in ("a", "b")]
    page = page_of(*runs, output=tmp_path / "page.html")
    assert "a/checkpoints" in page.text
    assert "b/checkpoints" in page.text


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_a_short_run_makes_a_page(tmp_path: Path, steps: int) -> None:
    page = page_of(write_run(tmp_path, steps, every=1, checkpoint=False))
    assert page.count("figure") == 6
    assert "Unknown: there is no checkpoint" in page.text


def test_an_empty_record_makes_a_page(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text("")
    assert "Nothing was logged" in page_of(tmp_path).text


def test_damaged_lines_are_left_out_and_named(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    lines = (run / METRICS).read_text().splitlines(keepends=True)
    (run / METRICS).write_text(
        "".join([*lines[:3], '{"step": -1}\n', *lines[3:], '{"step": 999, "los'])
    )
    page = page_of(run)
    assert "line 4" in page.text
    assert page.count("figure") == 6


def test_numbers_that_are_null_or_absent_are_left_out(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(
        '{"step": 1, "tokens": 10, "loss": null, "grad_norm": null, "lr": 0.1}\n'
        '{"step": 2, "loss": 3.0, "expert_load": "no", "run": 7, "epoch": "x"}\n'
        '{"step": 3, "tokens": 30, "val_loss": 1e300, "val_bits_per_byte": null}\n'
    )
    assert page_of(tmp_path).count("figure") >= 2


def test_a_resumed_run_shows_the_evaluations_that_compare(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with (run / METRICS).open("a") as file:
        file.write(
            '{"step": 200, "tokens": 409600, "eval_tokens": 5, "best_val_loss": 3.0, "best_step": 9}\n'
        )
        file.write('{"step": 210, "tokens": 430080, "val_loss": 2.75, "val_bits_per_byte": 1.05}\n')
    assert "2.7500" in page_of(run).text.partition("bits per byte")[0]


def test_the_command_that_repeats_a_run_gives_its_settings(tmp_path: Path) -> None:
    text = "it's a book.txt"
    run = read_run(write_run(tmp_path / "my run", rate=0.0123, data_file=text))
    command = command_to_repeat(run)
    assert command
    program, name, *words = shlex.split(command)
    assert (program, name) == ("homespun", "train")
    settings = TrainConfig(**parse(COMMANDS["train"], words))
    assert settings.data_file == text
    assert settings.learning_rate == 0.0123
    assert shlex.split(command_to_resume(run))[-1] == str(tmp_path / "my run")


def test_the_command_and_the_function_write_pages(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    assert main(["report", str(run), "--output", str(tmp_path / "new" / "page.html")]) == 0
    assert "page.html" in capfd.readouterr().out
    assert Page(tmp_path / "new" / "page.html").count("h1") == 1
    assert homespun.report(run) == run / "report.html"
    assert homespun.report([run, str(run)], output=tmp_path / "two.html").exists()


def test_mistakes_are_told_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    record = (run / METRICS).read_bytes()
    for words in (
        ["report", str(tmp_path / "none")],
        ["report", str(run), "--output", str(run / METRICS)],
        ["report", str(run), "--output", str(run / METRICS / "page.html")],
        ["doctor", str(tmp_path / "none")],
        ["doctor", str(run), "--engine"],
    ):
        assert main(words) == 2
        told = capfd.readouterr().err
        assert told.startswith("error: ")
        assert told.count("\n") == 1
    assert (run / METRICS).read_bytes() == record
    with pytest.raises(UserError, match="no run"):
        homespun.report([])


def test_the_doctor_tells_by_its_status(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    assert main(["doctor", str(run)]) == 0
    with (run / METRICS).open("a") as file:
        file.write(
            '{"step": 200, "tokens": 1, "cause": "standstill", "advice": "lower the rate"}\n'
        )
    assert main(["doctor", str(run)]) == 1
    assert "Lower the rate" in capfd.readouterr().out


def test_thinned_lines_keep_spikes_and_ends() -> None:
    points = [(float(n), n % 7 / 10) for n in range(10_000)]
    points[4321] = (4321.0, 99.0)
    points[6000] = (6000.0, -99.0)
    kept = thinned(points)
    assert len(kept) <= charts.MOST_POINTS
    assert {points[4321], points[6000], points[-1]} <= set(kept)
    assert list(kept) == sorted(kept)


@pytest.mark.parametrize(
    ("least", "most"), [(0.0, 1.0), (1e-7, 2e-7), (-3.0, 1e9), (5.0, 5.0001), (0.0, 123456.0)]
)
def test_ticks_are_round_and_inside(least: float, most: float) -> None:
    found = ticks(least, most, 5)
    assert 2 <= len(found) <= 11
    assert all(least - 1e-9 * abs(most) <= tick <= most * (1 + 1e-9) for tick in found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.00031, "0.00031"),
        (3.14159, "3.142"),
        (1234.5, "1,234"),
        (204_800, "204.8 k"),
        (41e6, "41 M"),
    ],
)
def test_numbers_have_few_digits(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [-1.0, 2.0], [1e-9, 1e9], [1.0, 1.0, 1.0]])
@pytest.mark.parametrize("from_zero", [True, False])
def test_any_values_make_a_chart(values: list[float], from_zero: bool) -> None:
    points = [(float(x), y) for x, y in enumerate(values)]
    html = Chart("title", "unit", [Line("line", points)], from_zero=from_zero).html()
    heights = re.findall(r"[ML]\S+ (-?[\d.]+)", html)
    assert heights
    assert all(0 <= float(height) <= charts.SIDE for height in heights if height)
