"""The output of a run in a log file and on a terminal of 80 columns."""

import io
import math
import os
import re
import sys
from types import SimpleNamespace

import pytest

from homespun.records.console import Console, three_digits
from homespun.records.events import Activity, Advice, Ended, Message, Started, Step
from homespun.terminal import duration, size
from tests.test_terminal import STREAMS, UNWRITABLE

STEP = {
    "step": 500,
    "tokens": 2_048_000,
    "loss": 3.21014,
    "perplexity": 24.78,
    "lr": 3e-4,
    "grad_norm": 0.8249,
    "clipped": 0.12,
    "tokens_per_second": 12345.4,
    "memory_bytes": 1.23e9,
    "seconds": 160.0,
}
SAMPLE = {
    "step": 500,
    "tokens": 2_048_000,
    "prompt": "Once upon a time",
    "text": ", there was [bold]Lily[/bold]. " * 5 + "\n\x1b[2JThe end.",
}


def evaluation(loss):
    return {
        "step": 500,
        "tokens": 1,
        "val_loss": loss,
        "val_perplexity": math.exp(loss) if loss else None,
        "val_bits_per_byte": 1.0214,
    }


class Screen(io.StringIO):
    """A terminal that records the output and shows its visible lines."""

    def isatty(self):
        return True

    @property
    def lines(self):
        """The final content of each line, without colours and earlier states of the bar."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())
        return [line.split("\r")[-1].rstrip() for line in text.split("\n")]


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    return Screen()


def started(**fields):
    state = {"step": 0, "tokens": 0, "progress": 0.0, "seconds_left": None}
    facts = {"title": "Training", "facts": {}, "total_steps": None, "best_val_loss": None}
    return Started(**state | facts | fields)


def activity(name, progress):
    return Activity(step=500, tokens=1, progress=progress, seconds_left=723.0, name=name)


def stepped(step, loss, progress, seconds_left):
    return Step(
        step=step,
        tokens=1,
        progress=progress,
        seconds_left=seconds_left,
        loss=loss,
        grad_norm=1.0,
        applied=True,
        rates={"adamw": 1e-3},
        batch="abcd",
        log=None,
    )


def shown(*records, **options):
    file = io.StringIO()
    with Console(file=file) as console:
        console(started(**options))
        for record in records:
            console.record(record, 723.0)
            console(activity("saving", 0.05))
            console(stepped(500, 3.21, 0.05, 723.0))
    title, *lines = file.getvalue().splitlines()
    assert title == "Training"
    return lines


def test_a_log_file_gets_plain_lines_with_everything():
    assert shown(STEP, total_steps=10_000) == [
        "step    500/10,000  loss 3.2101  ppl   24.8  lr 3.0e-04  norm 0.82  12,345 tok/s  "
        "clipped 12%  1.2 GB  12 min left"
    ]


def test_a_run_without_a_last_step_counts_on():
    assert shown(STEP)[0].startswith("step     500  loss 3.2101")


def test_a_record_may_have_less_and_numbers_that_are_not_finite():
    assert shown({"step": 1, "tokens": 1, "loss": None}, total_steps=9)[0].startswith(
        "step 1/9  loss nan"
    )
    line = shown(STEP | {"loss": math.nan, "perplexity": math.inf, "grad_norm": None})[0]
    assert "loss nan  ppl    inf" in line
    assert "norm nan" in line


def test_advice_stands_on_a_line_of_its_own():
    advice = {"step": 500, "tokens": 1, "cause": "plateau", "advice": "a larger model may help"}
    assert shown(advice, total_steps=900) == ["step 500/900  plateau: a larger model may help"]


def test_the_best_evaluation_is_marked_when_it_is_the_best_so_far():
    lines = shown(*map(evaluation, [3.0, None, math.nan, 3.1, 2.9, 2.9]))
    assert [line.endswith("best so far") for line in lines] == [
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    assert lines[0] == "step     500  val loss 3.0000  1.021 bits/byte  ppl 20.1  best so far"


def test_a_resumed_run_knows_its_best():
    assert "best" not in shown(evaluation(3.0), best_val_loss=2.5)[0]
    assert "best" in shown(evaluation(2.4), best_val_loss=2.5)[0]


def test_a_sample_is_indented_below_its_prompt_and_cannot_control_the_terminal(screen):
    with Console(file=screen) as console:
        console.record(SAMPLE, None)
    for lines in (shown(SAMPLE), screen.lines[:-1]):
        lines = [line for line in lines if line and "%" not in line]
        assert lines[0] == 'step     500  sample after "Once upon a time"'
        assert lines[1].startswith("    Once upon a time, there was [bold]Lily[/bold].")
        assert lines[-1] == "    [2JThe end."
        assert all(line.startswith("    ") and len(line) <= 88 for line in lines[1:])
    assert "\x1b[2JThe" not in screen.getvalue()


def test_on_a_terminal_every_line_fits_and_the_bar_stays_below(screen):
    with Console(file=screen) as console:
        console(started(total_steps=10_000))
        console.say("compiling")
        for record in (STEP, STEP | {"tokens_per_second": 1_234_567.0}, evaluation(3.0), SAMPLE):
            console(activity("evaluating", 0.05))
            console.record(record, 723.0)
            assert re.fullmatch(r"  5% [━╸╺]+ evaluating", screen.lines[-1])
            console(stepped(500, 3.2101, 0.06, 723.0))
            bar = screen.lines[-1]
            assert re.fullmatch(r"  6% [━╸╺]{10,} 12 min left  step 500/10,000", bar)
            assert len(bar) <= 77  # leaves room for the ^C that a terminal prints behind it
            assert "loss 3.21" in screen.lines[-2]
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert all(len(line) <= 80 for part in text.split("\n") for line in part.split("\r"))
    assert "compiling" in screen.lines
    full = "step    500/10,000  loss 3.2101  ppl   24.8  lr 3.0e-04  norm 0.82  12,345 tok/s"
    assert full in screen.lines
    assert full.removesuffix("  12,345 tok/s") in screen.lines


def test_events_are_shown_once_and_an_error_that_ends_the_run_is_left_to_its_raiser():
    file = io.StringIO()
    state = {"step": 5, "tokens": 1, "progress": 0.5, "seconds_left": None}
    with Console(file=file) as console:
        console(started(title="Resuming at step 4", facts={"model": "small"}))
        console(Message(**state, text="compiling"))
        console(Advice(**state, cause="spike", text="too high", ends_run=True))
        console(Advice(**state, cause="plateau", text="too small"))
        console(Ended(**state, result=None, title="Done", facts={"try it": "generate"}))
    assert file.getvalue().splitlines() == [
        "Resuming at step 4",
        "  model  small",
        "compiling",
        "step       5  plateau: too small",
        "Done",
        "  try it  generate",
    ]


def test_messages_cannot_control_the_terminal(screen):
    with Console(file=screen) as console:
        console.show("a\x1b[2Jrun", {"a": "b\x1bc"})
        console.say("\x1b]0;title\x07done")
    assert screen.lines[:3] == ["a[2Jrun", "  a  bc", "]0;titledone"]


def test_the_terminal_is_left_as_it_was_also_after_an_error(screen):
    def run():
        with Console(file=screen) as console:
            console.record(STEP, None)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h") == 1
    assert screen.lines[-1] == ""


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_dumb_terminal_gets_plain_lines(screen, monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    with Console(file=screen) as console:
        console.record(STEP, None)
    assert "\x1b" not in screen.getvalue()


def test_steps_move_the_bar_as_often_as_one_can_read_it(screen, monkeypatch):
    now = 0.0
    monkeypatch.setattr("homespun.records.console.time.monotonic", lambda: now)
    with Console(file=screen) as console:
        drawn = []
        for step in range(9):
            console(stepped(step, 5.0, step / 10, None))
            drawn.append(screen.getvalue().count("loss 5.00"))
            now += 0.2
        assert drawn == [1, 1, 1, 2, 2, 2, 3, 3, 3]
        assert screen.lines[-2].startswith("loss 5.00")
        console(activity("saving", 0.9))
        assert screen.lines[-1].endswith(" saving")
        console(stepped(9, 4.0, 0.9, None))
        assert screen.lines[-1].endswith(" step 9")
        assert screen.lines[-2].startswith("loss 4.00")


def test_a_narrow_terminal_shows_what_matters_and_breaks_no_words(screen, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    with Console(file=screen) as console:
        console.show("Training", {"model": "qwen3, 3 layers x 192, 3 heads, 2.9 M parameters"})
        console.record(evaluation(3.0), None)
        console(stepped(500, 3.2101, 0.5, 723.0))
        assert screen.lines[-1].endswith(" 12 min left  step 500")
    lines = screen.lines
    assert "  model  qwen3, 3 layers x 192, 3 heads, 2.9 M" in lines
    assert "         parameters" in lines
    assert "step     500  val loss 3.0000  1.021 bits/byte" in lines


@pytest.mark.parametrize("width", ["0", "1", "100000000"])
def test_a_width_that_makes_no_sense_is_not_believed(screen, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    with Console(file=screen) as console:
        console(started(total_steps=10_000))
        console.show("Training", {"model": "qwen3, 3 layers x 192, 3 heads, 2.9 M parameters"})
        console.record(STEP, None)
        console.record(SAMPLE, None)
        console(stepped(500, 3.2101, 0.5, 723.0))
    assert "loss 3.2101" in screen.getvalue()
    assert max(map(len, screen.lines)) <= 1000


def test_colours_that_are_forced_bring_no_bar_into_a_log(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    log = io.StringIO()
    with Console(file=log) as console:
        console.record(STEP, None)
        console(stepped(500, 3.2101, 0.5, 723.0))
    assert len(log.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    "kind",
    [
        "closed pipe",
        pytest.param(
            "full disk",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/full"),
        ),
    ],
)
def test_when_the_output_is_lost_it_is_said_once_and_the_rest_goes_to_standard_error(kind, capsys):
    reasons = []
    end, writing = os.pipe()
    os.close(end)
    if kind == "full disk":
        os.dup2(os.open("/dev/full", os.O_WRONLY), writing)
    with os.fdopen(writing, "w") as file, Console(file=file, when_lost=reasons.append) as console:
        console.record(STEP, None)
        console.record(STEP, None)
        console.show("Stopped", {"go on": "homespun train --resume"})
    assert reasons == (["Broken pipe"] if kind == "closed pipe" else [])
    said = capsys.readouterr().err.splitlines()
    if kind == "full disk":  # may be temporary, so the console tries again
        line = "The output cannot be written (No space left on device); it continues here."
        assert said.pop(0) == line
    assert said[1:] == ["Stopped", "  go on  homespun train --resume"]


@pytest.mark.parametrize("kind", STREAMS)
def test_a_run_is_shown_on_any_stream_and_a_failure_does_not_end_it(kind, monkeypatch, capsys):
    reasons = []
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", STREAMS[kind]())
        with Console(when_lost=reasons.append) as console:
            console.record(SAMPLE | {"prompt": "Un café \udce9"}, None)
            console.show("Stopped", {"go on": "homespun train --resume"})
        if kind == "full disk":
            sys.stdout.close()
    said = capsys.readouterr().err
    if kind in UNWRITABLE - {"missing"}:
        assert said.startswith("The output cannot be written (")
        assert said.endswith("  go on  homespun train --resume\n")
    else:
        assert said == ""
    assert reasons == []


def test_a_terminal_that_is_closed_is_lost_too(monkeypatch, capfd):
    """The other end of the pseudo-terminal is closed while the bar is shown."""
    monkeypatch.setenv("TERM", "xterm")
    reasons = []
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as file, Console(file=file, when_lost=reasons.append) as console:
        console(activity("saving", 0.5))
        os.close(ours)
        console(stepped(1, 5.0, 0.5, None))
        console.record(STEP, None)
        console.say("Stopped")
    assert reasons == ["Input/output error"]
    assert capfd.readouterr().err == "Stopped\n"


def test_units():
    assert [duration(s) for s in (0, 59.4, 59.6, 723, 3599, 11100, 86399, 187200)] == [
        "0 s", "59 s", "1 min", "12 min", "1 h 00 min", "3 h 05 min", "1 d 0 h", "2 d 4 h",
    ]  # fmt: skip
    assert [size(n) for n in (0, 640e6, 999.6e6, 1.234e9)] == ["0 MB", "640 MB", "1.0 GB", "1.2 GB"]
    assert [three_digits(x) for x in (1.0, 999.4, 999.6, 50257.0, 2e7)] == [
        "1.0", "999.4", "1,000", "50,257", "2.0e+07",
    ]  # fmt: skip


@pytest.fixture
def tickers(monkeypatch):
    """The tickers that a console makes, whose time the test decides."""
    made = []

    class Ticker:
        def __init__(self, tick, first, every):
            self.tick, self.first, self.every, self.over = tick, first, every, False
            made.append(self)

        def stop(self):
            self.over = True

    monkeypatch.setattr("homespun.records.console.Ticker", Ticker)
    return made


def test_without_a_terminal_a_long_activity_is_named_and_a_short_one_is_not(tickers):
    file = io.StringIO()
    with Console(file=file) as console:
        console(started(total_steps=10_000))
        console(activity("saving", 0.05))
        [saving] = tickers
        assert saving.first + saving.every > saving.every == 10.0 > saving.first
        saving.tick(5.0)  # it takes long
        saving.tick(15.0)  # and longer
        console(activity("evaluating", 0.05))
        saving.tick(25.0)  # comes late
        console(stepped(500, 3.21, 0.05, 723.0))
    assert file.getvalue().splitlines() == [
        "Training",
        "step    500/10,000  saving ...",
        "step    500/10,000  saving ... 15 s",
    ]
    assert all(ticker.over for ticker in tickers)


def test_without_a_terminal_steps_are_named_if_no_line_of_the_log_comes(tickers, monkeypatch):
    now = 100.0
    monkeypatch.setattr("homespun.records.console.time", SimpleNamespace(monotonic=lambda: now))
    file = io.StringIO()
    with Console(file=file) as console:
        console(started(total_steps=10_000))
        console(stepped(500, 3.21, 0.05, 723.0))
        [watching] = tickers
        assert watching.first <= 1 >= watching.every
        for second in range(1, 31):  # a step every second, the last one goes on and on
            now = 100.0 + second
            if second < 12:
                console(stepped(500 + second, 3.21, 0.05, 723.0))
            watching.tick(second)
        console(activity("evaluating", 0.05))
        now += 60.0
        watching.tick(60.0)  # the ticker of the activity has its own lines
    watching.tick(70.0)  # comes late
    assert file.getvalue().splitlines() == [
        "Training",
        "step    509/10,000  done  12 min left",
        "step    511/10,000  done  12 min left",
        "step    512/10,000  takes 16 s  12 min left",
    ]
    assert len(tickers) == 2
    assert all(ticker.over for ticker in tickers)


def test_a_resumed_run_that_evaluates_otherwise_says_what_its_best_weights_are_worth():
    def lines(best, step):
        new = {
            "step": 600,
            "tokens": 1,
            "eval_tokens": 2000,
            "best_val_loss": best,
            "best_step": step,
        }
        return shown(new, evaluation(2.9), total_steps=900, best_val_loss=1.5)

    first, second = lines(3.0, 350)
    assert first.endswith(
        "evaluations differ (2,000 tokens): the best weights (step 350) have val loss 3.0000"
    )
    assert second.endswith("best so far")
    assert "best" not in lines(2.8, 350)[1]
    first, second = lines(None, None)
    assert "there are no best weights to measure again" in first
    assert second.endswith("best so far")
