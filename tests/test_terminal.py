"""Terminal output: text has no control characters, lines break between words, and bars show only on a terminal."""

import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.terminal import (
    bar,
    counted,
    fixed_columns,
    printable,
    say,
    terminal_columns,
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
@given(WORDS, st.integers(5, 20), st.integers(1, 7))
def test_lines_break_between_words_also_in_streamed_text(text: str, width: int, cut: int) -> None:
    pieces = [text[i : i + cut] for i in range(0, len(text), cut)]
    for result in (wrapped(text, width), "".join(wrapped_stream(pieces, width))):
        assert result.split() == text.split()
        assert all(len(line) <= width or " " not in line.strip() for line in result.split("\n"))
    assert "".join(wrapped_stream(pieces, None)) == wrapped(text, None) == text


def test_streamed_text_keeps_its_spaces_and_is_not_delayed() -> None:
    assert list(wrapped_stream(["On", "ce  ", "upon\n\na t", "ime"], 20)) == [
        "Once ", " ", "upon\n", "\n", "a ", "time",
    ]  # fmt: skip


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
