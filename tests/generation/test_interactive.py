"""The interactive session on a real terminal, with real keys and signals."""

import os
import pty
import select
import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent(
    """
    import fcntl, sys, termios, threading
    if sys.stdin.isatty():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C becomes a signal

    from homespun.config import SamplingConfig
    from homespun.errors import UserError
    from homespun.generation.interactive import interact

    def reply(prompt, config):
        if prompt == "bad" or not (prompt or "").isprintable():
            raise UserError("the prompt is bad")
        yield f", t={config.temperature}"
        if prompt == "endless":
            threading.Event().wait()
        yield f", k={config.top_k}, n={config.max_tokens}, s={config.seed}\\x1b[31m."

    interact(reply, SamplingConfig(), *sys.argv[1:])
    print("left")
    """
)


class Terminal:
    """Controls a session from the other end of its terminal: reads the screen and types keys."""

    def __init__(self, home, *arguments, program=PROGRAM):
        self.screen = ""
        self._master, slave = pty.openpty()
        environment = {**os.environ, "HOME": str(home), "TERM": "xterm", "INPUTRC": os.devnull}
        environment.pop("XDG_STATE_HOME", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=environment,
        )
        os.close(slave)

    def wait_for(self, text):
        """Read until `text` appears; returns the output before it."""
        while text not in self.screen:
            assert self._read(within=30), f"no {text!r} in {self.screen!r}"
        before, self.screen = self.screen.split(text, 1)
        return before

    def type(self, keys):
        os.write(self._master, keys.encode())

    def interrupt(self, effect):
        """Press Ctrl-C until `effect` appears.

        Python's input() does not notice a signal that arrives just before it starts to wait. The next signal is then
        noticed, and the two count as one.
        """
        for _ in range(6):
            if effect in self.screen:
                break
            self.type("\x03")
            while effect not in self.screen and self._read(within=5):
                pass
        self.wait_for(effect)

    def _read(self, within):
        ready, _, _ = select.select([self._master], [], [], within)
        if ready:
            self.screen += os.read(self._master, 4096).decode()
        return bool(ready)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(tmp_path):
    with Terminal(tmp_path) as terminal:
        terminal.wait_for("Ctrl-D leaves.\r\n")
        terminal.wait_for("> ")
        yield terminal


def answer(terminal, line):
    """Type a line; returns the lines between its echo and the next prompt."""
    terminal.type(line + "\r")
    terminal.wait_for("\n")
    return terminal.wait_for("> ").split("\r\n")[:-1]


def test_a_prompt_is_continued_and_controls_are_stripped(terminal):
    assert answer(terminal, "Once") == ["Once, t=0.9, k=None, n=200, s=None[31m."]


def test_settings_change_for_the_next_text_and_bad_ones_are_explained(terminal):
    assert answer(terminal, "/temperature 0.5") == ["temperature 0.5"]
    assert answer(terminal, "/top-k 40") == ["top-k 40"]
    assert answer(terminal, "/top-k") == ["top-k 40"]
    assert answer(terminal, "/seed 7") == ["seed 7"]
    assert answer(terminal, "/temperature nan")[0].startswith("error: temperature is nan:")
    assert answer(terminal, "/max-tokens 0")[0].startswith("error: max-tokens is 0: it must be")
    assert answer(terminal, "/max-tokens x") == [
        "error: max-tokens is 'x': a whole number is expected"
    ]
    assert answer(terminal, "/max-tokens off") == [
        "error: max-tokens is 'off': a whole number is expected"
    ]
    assert answer(terminal, "/colour red")[0].startswith("error: there is no '/colour'")
    assert answer(terminal, "bad") == ["error: the prompt is bad"]
    assert answer(terminal, "a") == ["a, t=0.5, k=40, n=200, s=7[31m."]
    assert answer(terminal, "/top-k off") == ["top-k off"]
    for name in ("top-p", "min-p", "repetition-penalty", "seed"):
        assert answer(terminal, f"/{name} off") == [f"{name} off"]
    assert answer(terminal, "a") == ["a, t=0.5, k=None, n=200, s=None[31m."]
    assert answer(terminal, "/min-p 0.1") == ["min-p 0.1"]
    assert answer(terminal, "/temperature off") == [
        "error: temperature is 'off': a number is expected"
    ]
    assert "/min-p" in "".join(answer(terminal, "/help"))


def test_enter_alone_lets_the_model_begin(terminal):
    assert answer(terminal, "") == [", t=0.9, k=None, n=200, s=None[31m."]
    assert answer(terminal, "   ") == answer(terminal, "")


@pytest.mark.parametrize("word", ["quit", "exit", "help"])
def test_words_that_look_like_a_command_are_answered_not_continued(terminal, word):
    assert answer(terminal, word) == ["(to leave: /quit or Ctrl-D; /help lists the commands)"]
    assert answer(terminal, f" {word}")[0].startswith(f" {word}, t=")


def test_ctrl_c_stops_a_text_and_the_session_goes_on(terminal):
    terminal.type("endless\r")
    terminal.wait_for("endless,")  # an incomplete word is not shown
    terminal.interrupt("[stopped]\r\n")
    terminal.wait_for("> ")
    assert answer(terminal, "next")[0].startswith("next, t=")


def test_ctrl_c_clears_the_line_and_twice_leaves(terminal):
    terminal.type("never sent")
    terminal.wait_for("never sent")
    terminal.interrupt("once more leaves")
    terminal.wait_for("> ")
    assert answer(terminal, "sent")[0].startswith("sent, t=")
    terminal.interrupt("once more leaves")
    terminal.wait_for("> ")
    terminal.interrupt("left")
    assert terminal.process.wait(30) == 0


@pytest.mark.parametrize("keys", ["\x04", "/quit\r", "/exit\r", "/q\r"])
def test_other_ways_to_leave(terminal, keys):
    terminal.type(keys)
    terminal.wait_for("left")
    assert terminal.process.wait(30) == 0


def test_lines_are_edited_and_remembered_by_the_next_session(tmp_path):
    history = tmp_path / ".local" / "state" / "homespun" / "history"
    with Terminal(tmp_path) as terminal:
        terminal.wait_for("leaves.")
        terminal.wait_for("> ")
        terminal.type("ce\x1b[D\x1b[Don\x1b[C\r")  # left, left, "on", right
        terminal.wait_for("once, t=")
        terminal.wait_for("> ")
        terminal.type("\x04")
        terminal.wait_for("left")
    assert "once" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
    with Terminal(tmp_path) as terminal:
        terminal.wait_for("leaves.")
        terminal.wait_for("> ")
        terminal.type("\x1b[A!\r")  # up
        terminal.wait_for("once!, t=")


def test_a_history_that_cannot_be_kept_does_not_matter(tmp_path):
    (tmp_path / ".local").write_text("not a folder")
    with Terminal(tmp_path) as terminal:
        terminal.wait_for("> ")
        terminal.type("a\r")
        terminal.wait_for("a, t=0.9")
        terminal.wait_for("> ")
        terminal.type("\x04")
        terminal.wait_for("left")
        assert terminal.process.wait(30) == 0


def test_a_prompt_of_the_command_line_comes_first(tmp_path):
    with Terminal(tmp_path, "Once") as terminal:
        terminal.wait_for("Once, t=0.9")
        terminal.wait_for("> ")


def test_a_prompt_of_the_command_line_is_no_command(tmp_path):
    with Terminal(tmp_path, "/quit") as terminal:
        terminal.wait_for("/quit, t=0.9")
        terminal.wait_for("> ")


def run_piped(stdin):
    return subprocess.run([sys.executable, "-c", PROGRAM], input=stdin, capture_output=True)


def test_piped_lines_are_answered_without_questions_or_controls():
    result = run_piped("é\n/temperature 2\n\nb\nexit\n/quit\nc\n".encode())
    assert result.stderr == b""
    assert result.stdout.decode().splitlines() == [
        "é, t=0.9, k=None, n=200, s=None[31m.",
        "temperature 2.0",
        "b, t=2.0, k=None, n=200, s=None[31m.",
        "exit, t=2.0, k=None, n=200, s=None[31m.",
        "left",
    ]


def test_bytes_that_are_not_text_cost_one_line():
    result = run_piped(b"\xff\n/\xff 1\nok\n")
    assert result.stderr == b""
    assert [line.split(",")[0] for line in result.stdout.decode().splitlines()] == [
        "error: the prompt is bad",
        "error: there is no '/\\udcff': /help lists the commands",
        "ok",
        "left",
    ]
