"""Runs the command that the arguments name, and prints errors as one line.

Exit status: 0 done; 2 an error that the user can fix; 128 + the number of the signal that stopped the command.
"""

import errno
import io
import shutil
import signal
import sys
from collections.abc import Sequence

from homespun.cli.arguments import parse
from homespun.cli.commands import COMMANDS
from homespun.errors import UserError, did_you_mean
from homespun.terminal import say, wrapped

ABOUT = "Train your own language model, from data to generation, on the machine you own."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. `--debug` lets errors through with their traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The encoding of a terminal may lack some characters of a generated text.
        sys.stdout.reconfigure(errors="replace")
    try:
        status = _run(given)
        sys.stdout.flush()
        return status
    except UserError as error:
        if debug:
            raise
        say(f"error: {error}", sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        return 128 + getattr(stop, "number", signal.SIGINT)
    except BrokenPipeError:
        # The reader of the output is gone. Without a stream, Python cannot fail again when it closes it at exit.
        sys.stdout = None
        return 141
    except OSError as error:
        if debug or error.errno != errno.ENOSPC:
            raise
        sys.stdout = None
        say(f"error: the output cannot be written ({error.strerror})", sys.stderr)
        return 2


def _run(given: list[str]) -> int:
    if given == ["--version"]:
        import homespun

        print(f"homespun {homespun.__version__}")
        return 0
    if not given or given[0] in ("-h", "--help", "help"):
        print(_overview(shutil.get_terminal_size().columns))
        return 0
    name, *words = given
    if name not in COMMANDS:
        meant = did_you_mean(name, COMMANDS, "homespun --help lists all commands")
        raise UserError(f"unknown command '{name}': {meant}")
    return COMMANDS[name].run(parse(COMMANDS[name], words))


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
    lines += ["", "homespun COMMAND --help lists the settings of a command. Start with:"]
    indents = (" " * 13 if line.startswith(" ") else "" for line in lines)
    text = [wrapped(line, width, indent) for line, indent in zip(lines, indents, strict=True)]
    return "\n".join([*text, f"  {COMMANDS['train'].examples[0]}"])
