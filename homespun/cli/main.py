"""Runs the command that the arguments name, and prints errors as one line.

Exit status: 0 done; 2 an error that the user can fix; 128 + the number of the signal that stopped the command.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from homespun.cli.arguments import HELP, help_text, parse
from homespun.cli.commands import COMMANDS
from homespun.errors import UserError, did_you_mean
from homespun.terminal import (
    OutputLost,
    occupy_standard_descriptors,
    put,
    terminal_columns,
    warn,
    wrapped,
)

ABOUT = "Train your own language model, from data to generation, on the machine you own."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. `--debug` lets errors through with their traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    occupy_standard_descriptors()
    if sys.stderr is None:  # input() needs it
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    try:
        return _run(given)
    except KeyboardInterrupt as stop:
        return 128 + getattr(stop, "number", signal.SIGINT)
    except OutputLost as lost:
        if lost.reader_is_gone:
            return 141
        message = f"the output cannot be written ({lost})"
    except UserError as error:
        if debug:
            raise
        message = str(error)
    except OSError as error:
        if debug:
            raise
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    warn(f"error: {message}")
    return 2


def _run(given: list[str]) -> int:
    if given == ["--version"]:
        import homespun

        put(f"homespun {homespun.__version__}")
        return 0
    if not given or given[0] in ("help", *HELP):
        if len(given) < 2:
            put(_overview(terminal_columns()))
            return 0
        given = [*given[1:2], "--help"]  # `homespun help train`
    name, *words = given
    if name not in COMMANDS:
        meant = did_you_mean(name, COMMANDS, "homespun --help lists all commands")
        raise UserError(f"unknown command '{name}': {meant}")
    command = COMMANDS[name]
    if not set(HELP).isdisjoint(words):
        put(help_text(command, terminal_columns()))
        return 0
    return command.run(parse(command, words))


def _overview(width: int) -> str:
    """The help of `homespun` without a command."""
    summaries = {name: command.description.partition(".")[0] for name, command in COMMANDS.items()}
    options = {
        "--version": "Print the version",
        "--debug": "With any command: show the traceback of an error",
    }
    lines = ["usage: homespun COMMAND [SETTINGS]", "", ABOUT]
    for title, rows in (("commands:", summaries), ("options:", options)):
        lines += ["", title, *(f"  {name:<10} {text}." for name, text in rows.items())]
    lines += ["", "homespun help COMMAND lists the settings of a command. Start with:"]
    indents = (" " * 13 if line.startswith(" ") else "" for line in lines)
    text = [wrapped(line, width, indent) for line, indent in zip(lines, indents, strict=True)]
    return "\n".join([*text, f"  {COMMANDS['train'].examples[0]}"])
