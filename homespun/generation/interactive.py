"""Prompts flow in from a terminal or a pipe; continuations are printed while the model writes them."""

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.config import SamplingConfig
from homespun.config.checked import parse_value
from homespun.errors import UserError
from homespun.terminal import columns, is_terminal, named, printable, put, wrapped_stream

Reply = Callable[[str | None, SamplingConfig], Iterator[str]]
"""(prompt, settings) -> the continuation, piece by piece; without a prompt the model begins."""

HISTORY_LINES = 1000

SETTINGS = {
    "/" + field.name.replace("_", "-"): field.name
    for field in dataclasses.fields(SamplingConfig)
    if field.name != "stop"
}
LEAVE = ("/quit", "/exit", "/q")
COMMAND_WORDS = ("quit", "exit", "help")
"""Lines that mean a command without its slash; texts rarely begin with them."""
HELP = f"""Type the beginning of a text and press Enter (Enter alone: the model begins); Ctrl-C stops a text.
  /help            this list
  /quit            leave, like Ctrl-D
  /SETTING         show a setting
  /SETTING VALUE   change it; /top-k, /top-p, /min-p, /repetition-penalty and /seed take "off"
The settings are {", ".join(SETTINGS)}.
A text that begins with a slash, or is one of {", ".join(COMMAND_WORDS)}, needs a blank before it."""


def interact(
    reply: Reply,
    config: SamplingConfig,
    first_prompt: str | None = None,
    after_text: Callable[[], None] = lambda: None,
) -> None:
    """Continue the first prompt, then each line of the standard input, until its end or /quit.

    `after_text` is called after each text that was not stopped. On a terminal, lines can be edited and the history
    outlives the session. Ctrl-C stops a text or clears the line, and leaves when pressed twice. A mistake prints one
    line and does not end the session.
    """
    terminal = check_input("--interactive reads the prompts from it")
    with line_editing() if terminal else contextlib.nullcontext():
        if terminal:
            put("/help lists the commands, Ctrl-D leaves.")
        if first_prompt is not None:
            with going_on(terminal):
                write(first_prompt, reply(first_prompt, config))
                after_text()
        while (line := next_line(terminal)) is not None and line.strip() not in LEAVE:
            with going_on(terminal):
                if line.startswith("/"):
                    config = run_command(line, config)
                elif terminal and line in COMMAND_WORDS:
                    put("(to leave: /quit or Ctrl-D; /help lists the commands)")
                elif terminal or line.strip():
                    prompt = line if line.strip() else None
                    write(prompt or "", reply(prompt, config))
                    after_text()


def check_input(use: str) -> bool:
    """Make standard input ready to be read line by line; whether it is a terminal.

    Raises:
        UserError: it is closed; `use` ends the message.
    """
    if sys.stdin is None:
        raise UserError(f"standard input is closed: {use}")
    if isinstance(sys.stdin, io.TextIOWrapper):
        # Bytes that are not UTF-8 reach the check of the text instead of ending the session.
        sys.stdin.reconfigure(errors="surrogateescape")
    return is_terminal(sys.stdin)


@contextlib.contextmanager
def going_on(terminal: bool) -> Iterator[None]:
    """A mistake in the body, or Ctrl-C at a terminal, ends the body and not the session."""
    try:
        yield
    except UserError as error:
        put(printable(f"error: {str(error).removeprefix('--')}"))
    except KeyboardInterrupt:
        if not terminal:
            raise
        put(" [stopped]")


def next_line(terminal: bool, begun: str = "") -> str | None:
    """A line of input, or None at the end or after two Ctrl-C. At a terminal, `begun` is on the line already."""
    interrupted = False
    while True:
        try:
            if terminal:
                with _begun(begun):
                    return input("> ")
            line = sys.stdin.readline()
            return line.removesuffix("\n") if line else None
        except EOFError:
            put("")
            return None
        except KeyboardInterrupt:
            if not terminal:
                raise
            put("")
            if interrupted:
                return None
            put("Ctrl-C once more leaves.")
            interrupted = True


@contextlib.contextmanager
def _begun(text: str) -> Iterator[None]:
    """Put a text on the line that is edited next."""
    if not text:
        yield
        return
    try:
        import readline
    except ImportError:
        yield
        return
    readline.set_startup_hook(lambda: readline.insert_text(text))
    try:
        yield
    finally:
        readline.set_startup_hook()


def write(prompt: str, pieces: Iterator[str]) -> None:
    """Print a text while it is written. Nothing appears before the prompt has been accepted."""
    text = _joined_with_prompt(prompt, pieces)
    can_erase = os.environ.get("TERM") != "dumb"
    width = columns(sys.stdout) if can_erase else None
    for piece in wrapped_stream(map(printable, text), width):
        put(piece, end="")
    put("")


def _joined_with_prompt(prompt: str, pieces: Iterator[str]) -> Iterator[str]:
    """The prompt joined with the first piece, then the other pieces."""
    with named("Reading the prompt"):
        first = next(pieces, "")
    yield prompt + first
    yield from pieces


def run_command(line: str, config: SamplingConfig) -> SamplingConfig:
    """Run a command; returns the settings after it.

    Raises:
        UserError: the command does not exist, or the setting refuses the value.
    """
    command, _, value = line.strip().partition(" ")
    if command == "/help":
        put(HELP)
        return config
    if command not in SETTINGS:
        raise UserError(f"there is no {command!r}: /help lists the commands")
    name = SETTINGS[command]
    if value.strip():
        change: dict[str, Any] = {name: parse_value(SamplingConfig, name, value.strip())}
        config = dataclasses.replace(config, **change)
    current = getattr(config, name)
    off = current == parse_value(SamplingConfig, name, "off")
    put(f"{command[1:]} {'off' if off else current}")
    return config


@contextlib.contextmanager
def line_editing() -> Iterator[None]:
    """Enable the arrow keys, and a history that is kept between sessions."""
    try:
        import readline
    except ImportError:  # some Pythons are built without it
        yield
        return
    readline.set_history_length(HISTORY_LINES)
    # The history is optional: a home folder that cannot be read or written must not end the session.
    with contextlib.suppress(OSError, RuntimeError):
        readline.read_history_file(_history_file())
    try:
        yield
    finally:
        with contextlib.suppress(OSError, RuntimeError):
            file = _history_file()
            durable.make_folder(file.parent, mode=0o700)
            file.touch(mode=0o600)
            readline.write_history_file(file)


def _history_file() -> Path:
    """The path for state files by the XDG base directory specification."""
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return folder / "homespun" / "history"
