"""The picture of a run: it shows the recorded numbers, however few records there are."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from homespun.records import plot
from homespun.records.metrics import MetricsLog


def write_run(path, n_records, every=10, evaluations=()):
    with MetricsLog(path) as log:
        for step in range(every, n_records * every + 1, every):
            log.append(
                {
                    "step": step,
                    "tokens": step * 4096,
                    "loss": 2 + 8 / step,
                    "lr": 3e-4,
                    "grad_norm": 0.5,
                    "tokens_per_second": 1e4,
                    "seconds": step / 10,
                }
            )
            log.append({"step": step, "tokens": step * 4096, "prompt": "a", "text": "b"})
        for step, loss in evaluations:
            log.append({"step": step, "tokens": step * 4096, "val_loss": loss})
    return path


@pytest.fixture
def figure(monkeypatch):
    """A function that returns the figure that was saved last."""
    saved = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *args, **options: saved.append(self) or save(self, *args, **options),
    )
    return lambda: saved[-1]


def lines(panel):
    return {line.get_label(): line for line in panel.lines if not line.get_label().startswith("_")}


@pytest.mark.parametrize(
    ("n_records", "evaluations"),
    [(0, []), (0, [(10, 3.0)]), (1, [(10, 3.0)]), (2, []), (60, [(10, 3.0), (20, None)])],
)
def test_any_run_gives_a_picture(tmp_path, n_records, evaluations):
    metrics = write_run(tmp_path / "metrics.jsonl", n_records, evaluations=evaluations)
    plot.plot_run(metrics, tmp_path / "run.png", max_grad_norm=1.0)
    assert np.ptp(imread(tmp_path / "run.png")[..., :3]) > 0.5
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "run.png"}


def test_the_curves_are_the_records_and_the_best_is_the_best(tmp_path, figure):
    evaluations = [(100, 3.0), (200, 2.5), (300, 2.75), (400, None)]
    metrics = write_run(tmp_path / "metrics.jsonl", 40, evaluations=evaluations)
    plot.plot_run(metrics, tmp_path / "run.png", max_grad_norm=1.0)
    losses, rate, norm, speed = figure().axes
    assert losses.get_legend().get_window_extent().y0 > losses.get_window_extent().y1
    curves = lines(losses)
    assert curves["validation"].get_xydata().tolist() == [[100, 3.0], [200, 2.5], [300, 2.75]]
    assert curves["best: 2.5000 at step 200"].get_xydata().tolist() == [[200, 2.5]]
    raw = losses.lines[0].get_xydata()
    assert raw.tolist() == [[step, 2 + 8 / step] for step in range(10, 401, 10)]
    assert lines(norm)["clipped above"].get_ydata() == [1.0, 1.0]
    assert rate.lines[0].get_ydata()[0] == 3e-4
    assert speed.lines[0].get_ydata()[0] == 1e4
    assert figure().get_suptitle() == "400 steps  ·  1.64M tokens  ·  40 s"


RUN = {"model": "qwen3, 1.0 M parameters", "text": "texts/a $5 book.txt", "machine": "Apple M1"}


def described(path, *records, run=RUN):
    with MetricsLog(path) as log:
        log.append({"step": 0, "tokens": 0, "epoch": 0.0, "run": run})
        for record in records:
            log.append({"tokens": 4096 * record["step"], "epoch": record["step"] / 8, **record})
    return path


def test_the_title_says_which_model_text_and_machine(tmp_path, figure):
    metrics = described(tmp_path / "m", {"step": 4, "loss": 3.0, "seconds": 2.0})
    plot.plot_run(metrics, tmp_path / "run.png")
    assert figure().get_suptitle() == (
        "qwen3, 1.0 M parameters  ·  a \\$5 book.txt\n"
        "4 steps  ·  16.4k tokens  ·  0.5 passes  ·  2 s  ·  Apple M1"
    )
    odd = described(tmp_path / "odd", {"step": 1, "loss": 3.0}, run={"model": 3, "later": []})
    plot.plot_run(odd, tmp_path / "run.png")
    assert figure().get_suptitle().startswith("1 step  ·  4.1k tokens")


def test_letters_that_the_font_lacks_give_no_warning(tmp_path, figure):
    described(tmp_path / "metrics.jsonl", run=RUN | {"text": "文.txt"})
    plot.plot_run(tmp_path / "metrics.jsonl", tmp_path / "run.png")
    assert "文.txt" in figure().get_suptitle()


def test_a_run_of_five_steps_shows_its_steps(tmp_path, figure):
    steps = [{"step": step, "loss": 9.0 - step} for step in range(1, 6)]
    metrics = described(tmp_path / "m", *steps, {"step": 5, "val_loss": 4.5})
    plot.plot_run(metrics, tmp_path / "run.png")
    losses = figure().axes[0]
    mean = lines(losses)["training"]
    assert mean.get_marker() == "o"
    assert mean.get_xydata().tolist() == [[step, 9.0 - step] for step in range(1, 6)]
    assert losses.get_xlim() == (0, 5.1)


def test_both_rates_are_drawn_and_bits_per_byte_have_an_axis(tmp_path, figure):
    both = {"loss": 2.0, "lr": 0.04, "muon_lr": 0.01}
    evaluation = {"step": 2, "val_loss": 2.0, "val_bits_per_byte": 1.0}
    metrics = described(tmp_path / "m", {"step": 1, **both}, {"step": 2, **both}, evaluation)
    plot.plot_run(metrics, tmp_path / "run.png")
    losses, rates, *_ = figure().axes
    curves = lines(rates)
    assert [curves[name].get_ydata()[0] for name in ("AdamW", "Muon")] == [0.04, 0.01]
    [bits] = [axis for axis in losses.child_axes if axis.get_ylabel() == "bits per byte"]
    assert bits.get_ylim() == pytest.approx([0.5 * limit for limit in losses.get_ylim()])


def test_rewards_the_variety_of_answers_and_an_earlier_text_are_drawn(tmp_path, figure):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(1, 31):
            values = {"reward": step / 30 - 0.5, "distinct": 1 - step / 60, "entropy": 0.5}
            log.append({"step": step, "tokens": step, "loss": 0.1, "lr": 1e-3, "kl": 0.1, **values})
        for step in (10, 20):
            values = {"val_loss": 1.0, "val_reward": 0.1, "val_replay_loss": 2.0}
            log.append({"step": step, "tokens": step, **values})
    plot.plot_run(path, tmp_path / "run.png")
    panels = {panel.get_title(loc="left"): panel for panel in figure().axes}
    assert set(lines(panels["reward"])) == {"sampled", "held out"}
    assert set(lines(panels["variety of the answers"])) == {"distinct", "entropy"}
    assert panels["reward"].get_ylim()[0] < -0.4
    [loss] = [panel for title, panel in panels.items() if title.startswith("loss")]
    assert list(lines(loss)["earlier text"].get_ydata()) == [2.0, 2.0]


def test_a_resumed_run_that_differs_is_marked_where_it_begins(tmp_path, figure):
    again = {"step": 3, "run": RUN | {"machine": "another"}}
    metrics = described(tmp_path / "m", {"step": 2, "loss": 3.0}, again, {"step": 4, "loss": 2.0})
    plot.plot_run(metrics, tmp_path / "run.png")
    assert lines(figure().axes[0])["resumed, with a change"].get_xdata() == [3, 3]
    assert figure().get_suptitle().endswith("another")


def test_a_long_run_is_not_pressed_to_the_floor_by_its_first_steps(tmp_path, figure):
    metrics = write_run(tmp_path / "metrics.jsonl", 1000, every=1, evaluations=[(500, 2.1)])
    plot.plot_run(metrics, tmp_path / "run.png")
    low, high = figure().axes[0].get_ylim()
    assert low < 2.0
    assert 2.1 < high < 3


def test_smoothing_keeps_the_level_the_slope_and_the_length():
    line = np.arange(1000) * 0.5
    smooth = plot.smoothed(line)
    np.testing.assert_allclose(smooth[:-20], line[:-20])
    assert np.abs(smooth - line).max() < 4
    noise = np.random.default_rng(0).normal(size=1000)
    assert plot.smoothed(noise)[50:-50].std() < 0.3
    assert len(plot.smoothed(np.empty(0))) == 0


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    metrics = write_run(tmp_path / "metrics.jsonl", 3)
    (tmp_path / "run.png").write_bytes(b"old")

    def fail(*_args, **_options):
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot.plot_run(metrics, tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes() == b"old"


def test_a_damaged_record_is_left_out_of_the_picture_and_named(tmp_path, figure):
    metrics = write_run(tmp_path / "metrics.jsonl", 40)
    lines = metrics.read_bytes().splitlines(keepends=True)
    lines[0] = lines[0].replace(b"step", b"stdp")
    lines[4] = b"{\n"
    metrics.write_bytes(b"".join(lines))
    said = []
    plot.plot_run(metrics, tmp_path / "run.png", report=said.append)
    assert len(figure().axes[0].lines[0].get_xydata()) == 38
    [line] = said
    assert "metrics.jsonl, line 1: its step is missing" in line
    assert "(and 1 more)" in line


def test_the_best_is_the_best_of_those_that_compare(tmp_path, figure):
    metrics = write_run(tmp_path / "metrics.jsonl", 40, evaluations=[(100, 1.0), (200, 0.5)])
    with MetricsLog(metrics) as log:
        log.append(
            {"step": 400, "tokens": 1, "eval_tokens": 9, "best_val_loss": 2.5, "best_step": 200}
        )
        log.append({"step": 410, "tokens": 1, "val_loss": 2.75})
    plot.plot_run(metrics, tmp_path / "run.png")
    curves = lines(figure().axes[0])
    assert curves["validation"].get_xydata().tolist() == [[410, 2.75]]
    assert curves["best: 2.5000 at step 200"].get_xydata().tolist() == [[200, 2.5]]
    earlier = curves["validation, measured otherwise"].get_xydata().tolist()
    assert earlier == [[100, 1.0], [200, 0.5]]
