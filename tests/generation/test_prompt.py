"""A prompt in a file or on standard input: which text it is, and what is refused."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from homespun.errors import UserError
from homespun.generation import prompt


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"Once", "Once"),
        (b"Once\n", "Once"),
        (b"Once\n\n", "Once\n"),
        (b" Once \n", " Once "),
        (b"a\r\nb\rc\r\n", "a\nb\nc"),
        (b"\xef\xbb\xbfOnce", "Once"),
        ("né 🧵".encode(), "né 🧵"),
        (b"-", "-"),
    ],
)
def test_one_line_end_is_dropped_and_the_rest_kept(content, text, tmp_path, monkeypatch):
    file = tmp_path / "prompt"
    file.write_bytes(content)
    assert prompt.from_file(file) == text
    with file.open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert prompt.from_standard_input() == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is no text in it: leave --prompt"),
        (b"\r\n", "there is no text in it"),
        (b"\xef\xbb\xbf", "there is no text in it"),
        (b"a\nb\0", "NUL at byte 3"),
        (b"a\nb\xff", "not UTF-8 in line 2"),
        (b"caf\xc3", "not UTF-8 in line 1"),
        (b"x" * (prompt.MAX_BYTES + 1), "more than 8 MiB"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_line(content, message, tmp_path, monkeypatch):
    file = tmp_path / "prompt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"prompt: {message}") as refused:
        prompt.from_file(file)
    assert "\n" not in str(refused.value)
    with file.open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        with pytest.raises(UserError, match=f"standard input: {message}"):
            prompt.from_standard_input()


def test_an_endless_input_is_not_read_to_its_end(monkeypatch):
    with Path("/dev/zero").open() as endless:
        monkeypatch.setattr("sys.stdin", endless)
        with pytest.raises(UserError, match="more than 8 MiB"):
            prompt.from_standard_input()


def test_a_program_may_replace_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Once\n"))
    assert prompt.from_standard_input() == "Once"


def test_at_a_terminal_a_message_says_how_to_end():
    code = "from homespun.generation import prompt; print(repr(prompt.from_standard_input()))"
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(slave)
    assert "Ctrl-D on a line of its own ends it." in process.stderr.readline()
    os.write(master, b"Once\nupon\n\x04")
    output, error = process.communicate(timeout=60)
    os.close(master)
    assert (output, error) == ("'Once\\nupon'\n", "")
