"""The panel below the log, on a pseudo-terminal whose screen the tests read."""

import os
import re
import threading
import time
from pathlib import Path

import pytest

from homespun.records import console as console_module
from homespun.records.console import Console
from homespun.records.events import Activity, Advice, Evaluation, LoggedSteps, Message, Sample, Step
from homespun.records.live import SPARK_COLUMNS, SPARKS, Course

STATE = {"step": 40, "tokens": 1, "progress": 0.4, "seconds_left": 723.0}
LOG = LoggedSteps(
    loss=3.0,
    clipped=0.25,
    refused=0,
    tokens_per_second=12345.4,
    memory_bytes=527_000_000,
    active_memory_bytes=None,
    training_seconds=9.0,
)


def step(loss=3.0, log=None, **state):
    made = {"grad_norm": 1.0, "applied": True, "rates": {"adamw": 1e-3}, "batch": "abcd"}
    return Step(**STATE | state, loss=loss, log=log, **made)


class Screen:
    """A pseudo-terminal. A thread reads all that is written, as a terminal would."""

    def __init__(self, encoding="utf-8"):
        self._ours, theirs = os.openpty()
        self.file = os.fdopen(theirs, "w", encoding=encoding)
        self.written = ""
        self._reader = threading.Thread(target=self._read, args=[encoding], daemon=True)
        self._reader.start()

    def _read(self, encoding):
        while True:
            try:
                read = os.read(self._ours, 65536)
            except OSError:  # closed
                return
            self.written += read.decode(encoding, "replace")

    def wait_for(self, text):
        """Wait until the text has been written; a test that fails waits a minute."""
        end = time.monotonic() + 60
        while text not in self.written and time.monotonic() < end:
            self._reader.join(0.01)
        assert text in self.written

    def close(self):
        self.file.close()
        self._reader.join()
        os.close(self._ours)

    @property
    def rows(self):
        """The text on the screen: the few control sequences that are used move the cursor and erase."""
        rows, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.written):
            if part == "\r":
                column = 0
            elif part == "\n":
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            elif part.startswith("\x1b"):
                number = int(re.sub(r"\D", "", part) or 1)
                row -= number if part[-1] == "A" else 0
                if part == "\x1b[2K":
                    rows[row] = ""
            else:
                rows[row] = (
                    rows[row][:column].ljust(column) + part + rows[row][column + len(part) :]
                )
                column += len(part)
        return [shown.rstrip() for shown in rows]


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = Screen()
    yield shown
    if not shown.file.closed:
        shown.close()


def flushed(screen):
    screen.file.write("\x1b[0m<end>\r\x1b[0m")
    screen.file.flush()
    screen.wait_for("<end>")
    screen.written = screen.written.replace("<end>\r", "\r")
    return screen.rows


def test_the_panel_is_complete_and_goes_away(screen):
    with Console(file=screen.file) as console:
        for loss in (9.0, 5.0, 4.0, 3.0):
            console(step(loss))
        console(Evaluation(**STATE, loss=3.25, bits_per_byte=1.2, best=True))
        console(Sample(**STATE, prompt="Once upon", text=" a time\nthere was\x1b[2J a king" * 9))
        console(Advice(**STATE, cause="plateau", text="the loss has stayed"))
        console(step(2.5, LOG))
        console(Activity(**STATE, name="saving"))
        *log, figures, sample, warning, bar = flushed(screen)
    assert re.fullmatch(
        rf"loss 2.50 [{SPARKS}]+  val loss 3.2500  12,345 tok/s  527 MB  clipped 25%", figures
    )
    assert sample.startswith("Once upon a time there was[2J a king")
    assert warning == "plateau (step 40): the loss has stayed"
    assert re.fullmatch(r" 40% [━╸╺]+ saving", bar)
    assert max(map(len, (figures, sample, warning, bar))) <= 77  # a terminal prints ^C behind them
    assert log[0] == "step      40  val loss 3.2500  1.200 bits/byte  ppl 25.8  best so far"
    screen.close()
    assert not any("%" in row and "━" in row for row in screen.rows)
    assert screen.rows[-1] == ""
    assert screen.written.count("\x1b[?25h") == 1  # the cursor is back


def test_time_passes_on_the_panel_while_nothing_happens(screen, monkeypatch):
    monkeypatch.setattr(console_module, "TICK_SECONDS", 0.01)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: now[0] + 0 * clock())
    with Console(file=screen.file) as console:
        console(Activity(**STATE, name="first step"))
        now[0] += 14.0
        wait(screen, "first step 14 s")
        console(step())
        now[0] += 33.0
        wait(screen, "12 min left  step 40  step 41 takes 33 s")


def wait(screen, text):
    for _ in range(6000):
        if text in screen.written:
            return
        screen._reader.join(0.01)
    raise AssertionError(f"{text} was not shown")


def test_a_message_from_a_signal_handler_comes_above_the_panel(screen):
    with Console(file=screen.file) as console:
        console(step())
        assert console.announce("Finishing this step.")
        screen.wait_for("Finishing this step.")
        console(Message(**STATE, text="and so on"))
        rows = flushed(screen)
        assert rows[:2] == ["Finishing this step.", "and so on"]
        assert len(rows) == 4
    assert not console.announce("late")
    with Path(os.devnull).open("w") as file, Console(file=file) as console:
        assert not console.announce("nobody has a panel there")


def test_a_low_terminal_shows_the_bar_alone_and_a_narrow_one_what_matters(screen, monkeypatch):
    monkeypatch.setenv("LINES", "8")
    monkeypatch.setenv("COLUMNS", "40")
    with Console(file=screen.file) as console:
        console(step(log=LOG))
        [bar] = flushed(screen)[1:]
        assert re.fullmatch(r" 40% [━╸╺]{10,} 12 min left  step 40", bar)
        monkeypatch.setenv("LINES", "24")
        console(Activity(**STATE, name="evaluating"))
        *_, figures, bar = flushed(screen)
        assert figures == "loss 3.00  12,345 tok/s  527 MB"


def test_a_terminal_without_block_characters_gets_others(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen("ascii")
    with Console(file=screen.file) as console:
        console(step(5.0))
        console(Sample(**STATE, prompt="", text="é"))
        console(step(4.0))
        console(Activity(**STATE, name="saving"))
        *_, figures, sample, bar = flushed(screen)
    screen.close()
    assert (figures, sample) == ("loss 4.00", "\\xe9")
    assert re.fullmatch(r" 40% [- ]+ saving", bar)


def test_without_colours_the_panel_has_none(screen, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    with Console(file=screen.file) as console:
        console(Advice(**STATE, cause="plateau", text="the loss has stayed"))
        console(step())
        flushed(screen)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", screen.written)


def test_the_sparkline_shows_the_whole_course_and_the_end_in_detail():
    course = Course()
    assert course.sparkline() == ""
    for number in range(1000):
        course.add(float("nan") if number == 500 else 9.0 if number < 100 else 4.0 - number / 1000)
    line = course.sparkline()
    assert SPARK_COLUMNS / 2 <= len(line) <= SPARK_COLUMNS
    assert (line[0], line[-1]) == (SPARKS[-1], SPARKS[0])
    later = line[len(line) // 4 :]
    assert list(later) == sorted(later, reverse=True)
    assert len(set(later)) > 5  # the fall at the beginning has not flattened the rest
