"""Signals flow in, requests come out, which the loop reads between two steps, so that no step or file is cut off.

SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal was closed): finish the step, save, end. A second one does not wait for
that. Before the first step there is nothing to finish, and the first one raises `StoppedInSetUp`. SIGUSR1: save and
continue; before the first step it is remembered. A closed pipe behind the output ends a run too, like SIGPIPE.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TextIO

from homespun.terminal import columns, is_terminal, wrapped

CLEAR_LINE = b"\r\x1b[2K"
"""Erases the progress bar, and the ^C that the terminal has printed behind it."""
SHOW_CURSOR = b"\x1b[?25h"
"""The progress bar has hidden it."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class StoppedInSetUp(KeyboardInterrupt):
    """A signal has ended a run before its first step."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Ignore the signals that stop a run: another process takes care of them."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupts:
    """Handles the signals inside the `with` block; outside the main thread it leaves them alone."""

    def __init__(self, *, quits: bool = False, repeats: bool = False) -> None:
        """Prepare the handlers.

        Args:
            repeats: further signals repeat the first one, and change nothing.
            quits: a second signal ends the process at once, as on the command line. Otherwise it gets the handler that
                the program had for it: Python's own raises KeyboardInterrupt for Ctrl-C.
        """
        self._quits, self._repeats = quits, repeats
        self.stopped_by: signal.Signals | None = None
        self.save_wanted = False
        self.show: Callable[[str], bool] = lambda message: False
        """Shows a message where a panel is in the way of other output; False if there is none."""
        self.steps_begun = False
        """Whether a stop has to wait for the end of a step, which `stopped_by` asks for."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._stop)
            if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
                self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._stop)
            self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._save)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def output_lost(self, reason: str) -> None:
        """Stop: nobody can read the output any more."""
        if self.stopped_by is None:
            self.stopped_by = signal.SIGPIPE
            _tell(f"The output cannot be written ({reason}). Finishing this step and saving.")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by is None:
            self.stopped_by = signal.Signals(number)
            if not self.steps_begun:
                _tell("Stopped before the first step.")
                raise StoppedInSetUp(number)
            message = "Finishing this step and saving."
            if not self._repeats:
                message += " Press Ctrl-C again to quit now."
            if not self.show(message):
                _tell(message)
        elif number == signal.SIGHUP or self._repeats:
            pass  # a terminal that is closed may send it twice
        elif self._quits:
            lost = " Steps after the last checkpoint are lost." if self.steps_begun else ""
            _tell(f"Stopped without saving.{lost}", SHOW_CURSOR)
            os._exit(128 + number)
        else:
            self._as_before(signal.Signals(number), frame)

    def _as_before(self, number: signal.Signals, frame: FrameType | None) -> None:
        """Do what the program would do without the run."""
        handler = self._before[number]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            signal.signal(number, handler)
            signal.raise_signal(number)

    def _save(self, number: int, frame: FrameType | None) -> None:
        self.save_wanted = True


def _tell(message: str, control: bytes = b"") -> None:
    """Show a message to the sender of a signal, if that is possible."""
    if is_terminal(sys.stdout):
        _write(CLEAR_LINE + control, sys.stdout)
    _write(wrapped(message, columns(sys.stderr)).encode() + b"\n", sys.stderr)


def _write(text: bytes, file: TextIO | None) -> None:
    """Write without the buffer of a stream, which may be in use when a signal arrives."""
    with contextlib.suppress(Exception):  # closed or missing
        assert file
        try:
            descriptor = file.fileno()
        except Exception:  # not a file of the system, as in a notebook
            file.write(text.decode())
        else:
            os.write(descriptor, text)
