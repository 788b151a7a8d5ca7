"""Prompts from a person in, continuations printed as they are written, until the person leaves."""

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from homespun.config import SamplingConfig
from homespun.config.checked import parse_value
from homespun.errors import UserError
from homespun.terminal import columns, printable, wrapped_stream

Reply = Callable[[str | None, SamplingConfig], Iterator[str]]
"""(prompt, settings) -> the continuation, piece by piece; without a prompt the model begins."""

HISTORY_LINES = 1000

SETTINGS = {
    "/" + field.name.replace("_", "-"): field.name
    for field in dataclasses.fields(SamplingConfig)
    if field.name != "stop"
}
LEAVE = ("/quit", "/exit", "/q")
LIKE_A_COMMAND = ("quit", "exit", "help")
"""What a person types who wants a command, and hardly ever the beginning of a text."""
HELP = f"""Type the beginning of a text and press Enter (Enter alone: the model begins); Ctrl-C stops a text.
  /help            this list
  /quit            leave, like Ctrl-D
  /SETTING         show a setting
  /SETTING VALUE   change it; "off" stands for none
The settings are {", ".join(SETTINGS)}.
A text that begins with a slash, or is one of {", ".join(LIKE_A_COMMAND)}, needs a blank before it."""


def interact(reply: Reply, config: SamplingConfig, first_prompt: str | None = None) -> None:
    """Print what `reply` makes of each line of the standard input, until its end or /quit.

    On a terminal there is line editing, a history that outlives the session, and Ctrl-C, which
    stops a text or clears the line, and leaves when pressed twice. A mistake costs one line of
    explanation, not the session.
    """
    terminal = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        # Bytes that are not UTF-8 reach the prompt's own check instead of ending the session.
        sys.stdin.reconfigure(errors="surrogateescape")
    with _line_editing() if terminal else contextlib.nullcontext():
        if terminal:
            print("/help shows what you can do, Ctrl-D leaves.")
        line = _next_line(terminal) if first_prompt is None else first_prompt
        while line is not None and line.strip() not in LEAVE:
            try:
                if line.startswith("/"):
                    config = _obey(line, config)
                elif terminal and line in LIKE_A_COMMAND:
                    print("(to leave: /quit or Ctrl-D; /help shows what you can do)")
                elif line.strip():
                    write(line, reply(line, config))
                elif terminal:
                    write("", reply(None, config))
            except UserError as error:
                print("error:", str(error).removeprefix("--"))
            except KeyboardInterrupt:
                if not terminal:
                    raise
                print(" [stopped]")
            line = _next_line(terminal)


def _next_line(terminal: bool) -> str | None:
    """A line of input, or None at the end or after two Ctrl-C."""
    interrupted = False
    while True:
        try:
            return input("> " if terminal else "")
        except EOFError:
            if terminal:
                print()
            return None
        except KeyboardInterrupt:
            if not terminal:
                raise
            print()
            if interrupted:
                return None
            print("Ctrl-C once more leaves.")
            interrupted = True


def write(prompt: str, pieces: Iterator[str]) -> None:
    """Print a text as it comes; nothing appears before the prompt has been accepted."""
    text = _together(prompt, pieces)
    for words in wrapped_stream(map(printable, text), columns(sys.stdout)):
        print(words, end="", flush=True)
    print()


def _together(prompt: str, pieces: Iterator[str]) -> Iterator[str]:
    """The prompt with the first piece, then the others."""
    yield prompt + next(pieces, "")
    yield from pieces


def _obey(line: str, config: SamplingConfig) -> SamplingConfig:
    """Carry out a command; returns the settings as they are after it.

    Raises:
        UserError: there is no such command, or the value is not one for that setting.
    """
    command, _, value = line.strip().partition(" ")
    if command == "/help":
        print(HELP)
        return config
    if command not in SETTINGS:
        raise UserError(f"there is no {command!r}: /help lists what there is")
    name = SETTINGS[command]
    if value.strip():
        text = value.strip()
        off = text == "off" and getattr(SamplingConfig, name) is None
        change: dict[str, Any] = {name: None if off else parse_value(SamplingConfig, name, text)}
        config = dataclasses.replace(config, **change)
    current = getattr(config, name)
    print(command[1:], "off" if current is None else current)
    return config


@contextlib.contextmanager
def _line_editing() -> Iterator[None]:
    """Edit lines with the arrow keys, and keep the history from one session to the next."""
    try:
        import readline
    except ImportError:  # some Pythons are built without it
        yield
        return
    readline.set_history_length(HISTORY_LINES)
    # The history is a comfort: a home that cannot be read or written must not cost the session.
    with contextlib.suppress(OSError, RuntimeError):
        readline.read_history_file(_history_file())
    try:
        yield
    finally:
        with contextlib.suppress(OSError, RuntimeError):
            file = _history_file()
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.touch(mode=0o600)
            readline.write_history_file(file)


def _history_file() -> Path:
    """Where the XDG base directory specification wants what a program remembers."""
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return folder / "homespun" / "history"
