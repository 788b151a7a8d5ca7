"""Terminal output: any stream takes it, text has no control characters, lines break between words, and bars show only
on a terminal."""

import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.terminal import (
    OutputLost,
    Ticker,
    bar,
    columns,
    counted,
    encodable,
    fixed_columns,
    is_terminal,
    named,
    nowhere,
    printable,
    put,
    say,
    silence,
    terminal_columns,
    warn,
    wrapped,
    wrapped_stream,
)


@settings(derandomize=True, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_printable_text_has_no_control_characters_and_keeps_all_others(text: str) -> None:
    result = printable(text)
    assert all(char in "\n\t" or not 0 <= ord(char) < 32 for char in result)
    assert not re.search("[\x7f-\x9f\u202a-\u202e\u2066-\u2069]", result)
    assert [char for char in text if char.isprintable()] == [
        char for char in result if char.isprintable()
    ]


WORDS = st.lists(st.text(alphabet="ab\n", max_size=12)).map(" ".join)


@settings(derandomize=True, deadline=None)
@given(WORDS, st.integers(5, 20))
def test_lines_break_between_words(text: str, width: int) -> None:
    result = wrapped(text, width)
    assert result.split() == text.split()
    assert all(len(line) <= width or " " not in line.strip() for line in result.split("\n"))
    assert wrapped(text, None) == text


def screen(text: str, width: int) -> list[str]:
    """The lines of a terminal after this text; a line that the terminal broke itself ends with a backslash."""
    lines: list[list[str]] = [[]]  # of cells; the second cell of a wide character is empty
    column = 0
    for char in text:
        cells = [char, ""] if char in WIDE else [char]
        if char == "\n":
            lines.append([])
            column = 0
        elif char == "\b":
            assert 0 < column < width, "terminals differ in where this leads"
            column -= 1
        else:
            if column + len(cells) > width:
                lines[-1].append("\\")
                lines.append([])
                column = 0
            lines[-1][column : column + len(cells)] = cells
            column += len(cells)
    return ["".join(line).rstrip(" ") for line in lines]


WIDE = "猫日"


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.text(alphabet="ab\n" + WIDE, max_size=12)).map(" ".join),
    st.integers(5, 20),
    st.integers(1, 7),
)
def test_a_streamed_text_is_shown_at_once_and_its_words_stay_whole(
    text: str, width: int, cut: int
) -> None:
    pieces = [text[i : i + cut] for i in range(0, len(text), cut)]
    assert "".join(wrapped_stream(pieces, None)) == text
    written = ""
    for n, piece in enumerate(wrapped_stream(pieces, width), start=1):
        written += piece
        lines = screen(written, width)
        seen = "".join(lines).replace("\\", "").replace(" ", "")
        assert seen == "".join(pieces[:n]).replace(" ", "").replace("\n", "")
    words = [
        word for word in re.split(rf"[ \n]|(?<=[{WIDE}])|(?=[{WIDE}])", text) if len(word) < width
    ]
    lines = screen(written, width)
    assert all(any(word in line for line in lines) for word in words)


def test_marks_that_join_a_character_take_no_column() -> None:
    text = "é" * 3 + "e\u0301" * 3
    assert "".join(wrapped_stream(text, 7)) == text
    assert "\n" in "".join(wrapped_stream("ab " + text, 7))


def test_a_word_moves_to_the_next_line_when_it_is_too_long() -> None:
    assert list(wrapped_stream(["On", "ce  ", "upon\n\na t", "ime"], 20)) == [
        "On", "ce  ", "upon\n\na t", "ime",
    ]  # fmt: skip
    assert list(wrapped_stream(["a ti", "me"], 6)) == ["a ti", "m\b\b\b   \ntime"]


def test_a_message_fits_a_terminal_and_is_one_line_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    say("the checkpoints need room in /a/very/long/path/to/somewhere")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    say("the checkpoints need room in /a/very/long/path/to/somewhere")
    assert capsys.readouterr().out.splitlines() == [
        "the checkpoints need room in /a/very/long/path/to/somewhere",
        "the checkpoints need",
        "room in",
        "/a/very/long/path/to/somewhere",
    ]


@pytest.mark.parametrize(
    ("width", "found"), [("0", 80), ("1", 20), ("4", 20), ("100000000", 1000), ("50", 50)]
)
def test_the_width_is_within_reason(
    width: str, found: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    assert terminal_columns() == found
    assert fixed_columns() == found
    monkeypatch.delenv("COLUMNS")
    assert fixed_columns() is None
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with bar("Counting", 2) as advance:
        advance(2)
    assert max(map(len, capsys.readouterr().err.splitlines())) < 2 * found + 200


def test_a_number_comes_with_its_noun() -> None:
    assert [counted(n, "step") for n in (0, 1, 2, 1200)] == [
        "0 steps",
        "1 step",
        "2 steps",
        "1,200 steps",
    ]
    assert [counted(n, "story", "stories") for n in (1, 2)] == ["1 story", "2 stories"]


@pytest.mark.parametrize("total", [200, None])
def test_a_bar_shows_on_a_terminal_and_is_erased(
    total: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("homespun.terminal.BAR_UPDATE_SECONDS", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with bar("Counting", total) as advance:
        advance(30)
        advance(70)
    out, shown = capsys.readouterr()
    assert out == ""
    assert "Counting" in shown
    assert ("50%" in shown) == (total is not None)
    assert shown.endswith("\r\x1b[1A\x1b[2K")  # the line of the bar, emptied


@pytest.mark.parametrize(
    "variable", ["FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NOTHING"]
)
def test_a_bar_shows_nowhere_else(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "1")
    with bar("Counting", 2) as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")


def test_messages_beside_a_bar_stay_in_the_file_that_standard_output_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with bar("Counting", 2) as advance:
        say("a result")
        advance(2)
    out, shown = capsys.readouterr()
    assert out == "a result\n"
    assert "a result" not in shown


def without_progress(stderr: bytes) -> bytes:
    """The output of a command, without the lines about work that takes long on a busy machine."""
    return re.sub(rb"(?m)^.+: (\d+%, )?\d+ (s|min)(, .* left)?\n", b"", stderr)


@pytest.mark.parametrize(
    ("total", "said"),
    [
        (200, "Counting: 10 s\nCounting: 25%, 20 s, 1 min left\n"),
        (None, "Counting: 10 s\nCounting: 20 s\n"),
    ],
)
def test_in_a_pipe_work_that_takes_long_is_named_again_and_again(
    total: int | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A ticker whose time the test decides takes the place of the one that waits."""
    tickers: list[Any] = []

    class Ticking:
        def __init__(self, tick: Any, first: float, every: float) -> None:
            self.tick, self.pauses, self.over = tick, (first, every), False
            tickers.append(self)

        def stop(self) -> None:
            self.over = True

    monkeypatch.setattr("homespun.terminal.Ticker", Ticking)
    with bar("Counting", total) as advance:
        [ticker] = tickers
        ticker.tick(10.0)
        advance(50)
        ticker.tick(20.0)
    assert capsys.readouterr() == ("", said)
    assert without_progress(said.encode()) == b""
    assert max(ticker.pauses) <= 10.0
    assert ticker.over
    with silence(), bar("Counting", total) as advance:
        advance(1)
    assert len(tickers) == 1
    # Work that seldom takes long has no bar on a terminal, and such lines there as well.
    monkeypatch.setattr("homespun.terminal.is_terminal", lambda file: True)
    with named("Counting", total) as advance:
        tickers[1].tick(10.0)
    assert capsys.readouterr() == ("", "Counting: 10 s\n")
    assert tickers[1].over


def test_a_ticker_ticks_until_it_is_stopped() -> None:
    ticked = threading.Semaphore(0)
    seconds: list[float] = []

    def tick(since: float) -> None:
        seconds.append(since)
        ticked.release()

    ticker = Ticker(tick, 0.0, 0.001)
    for _ in range(3):
        assert ticked.acquire(timeout=60)
    ticker.stop()
    assert seconds == sorted(seconds)


@settings(derandomize=True, deadline=None)
@given(
    st.text(),
    st.sampled_from(["utf-8", "latin-1", "ascii", "cp1252", "utf-16", "gb18030", None, 5]),
)
def test_every_text_can_be_encoded(text: str, encoding: Any) -> None:
    class Stream:
        pass

    Stream.encoding = encoding  # type: ignore[attr-defined]
    result = encodable(text, Stream())
    known = encoding if isinstance(encoding, str) else "utf-8"
    result.encode(known)
    try:
        text.encode(known)
    except UnicodeEncodeError:
        assert "\\" in result
    else:
        assert result == (text if encoding != 5 else result)


TEXT = "a café, 猫 and \udce9"


class Tee:
    """The least that a program may put in place of a stream."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


class AsciiTee(Tee):
    def write(self, text: str) -> None:
        super().write(text.encode("ascii").decode())


class Broken:
    """A stream that fails in every way."""

    encoding = "ascii"

    def isatty(self) -> bool:
        raise ValueError("I/O operation on closed file")

    def write(self, text: str) -> None:
        raise RuntimeError("no writing")

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def closed_file() -> Any:
    file = io.TextIOWrapper(io.BytesIO())
    file.close()
    return file


def full_disk() -> Any:
    return open("/dev/full", "w")  # noqa: PTH123


STREAMS: dict[str, Callable[[], Any]] = {
    "missing": lambda: None,
    "closed": closed_file,
    "latin-1": lambda: io.TextIOWrapper(io.BytesIO(), "latin-1"),
    "ascii": lambda: io.TextIOWrapper(io.BytesIO(), "ascii"),
    "tee": Tee,
    "ascii tee": AsciiTee,
    "broken": Broken,
}
if sys.platform == "linux":
    STREAMS["full disk"] = full_disk
UNWRITABLE = {"missing", "closed", "broken", "full disk"}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_message_is_given_to_any_stream(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If standard output cannot take a message, standard error gets it; a missing stream wants none."""
    stream, error = STREAMS[kind](), Tee()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", error)
    say(TEXT)
    assert columns(stream) is None
    assert error.text == (encodable(TEXT, error) + "\n" if kind in UNWRITABLE - {"missing"} else "")
    with bar("[/x] \x1b " + TEXT, 3) as advance:
        advance(1)
    if kind in UNWRITABLE:
        with pytest.raises(OutputLost) as lost:
            put(encodable(TEXT, None))
        assert not lost.value.reader_is_gone
    else:
        put(TEXT)
    monkeypatch.setattr(sys, "stderr", stream)
    warn(TEXT)
    with bar("[/x] \x1b " + TEXT, None) as advance:
        advance(1)
    say(TEXT)
    if kind == "full disk":
        stream.flush()  # nothing is left that fails again
        stream.close()


def test_when_the_reader_is_gone_a_message_ends_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for write in (say, put):
        end, ours = os.pipe()
        os.close(end)
        with os.fdopen(ours, "w") as file:
            monkeypatch.setattr(sys, "stdout", file)
            with pytest.raises(OutputLost, match="Broken pipe") as lost:
                write("a message")
            assert lost.value.reader_is_gone


def test_a_stream_that_failed_is_usable_again(tmp_path: Path) -> None:
    """Only the text inside the block is lost, and the text that was in the stream before."""
    path = tmp_path / "file"
    with path.open("w") as file:
        file.write("before\n")
        with nowhere(file):
            print("inside", file=file, flush=True)
            raise OSError
        print("after", file=file)
    assert path.read_text() == "after\n"
    with nowhere(None), nowhere(Broken()):
        raise OSError


def test_whether_a_stream_is_a_terminal_is_no_reason_to_fail() -> None:
    for make in STREAMS.values():
        stream = make()
        assert not is_terminal(stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.close()


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code = (
        "from homespun.terminal import occupy_standard_descriptors as occupy; occupy(); "
        f"file = open({str(tmp_path / 'file')!r}, 'w'); file.write(str(file.fileno())); occupy()"
    )
    for closed in ("<&-", ">&-", "2>&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
        script = f'exec "$0" -c "$1" {closed}'
        assert subprocess.run(["sh", "-c", script, sys.executable, code]).returncode == 0
        assert int((tmp_path / "file").read_text()) > 2
