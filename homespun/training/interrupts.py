"""Signals in, wishes out: the loop reads them between two steps, so that nothing is ever cut in half.

SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal was closed): finish the step, save, end; a second one ends at once.
SIGUSR1: save and go on. A closed pipe behind the output stops a run too, as if SIGPIPE did.
"""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from homespun.terminal import columns, wrapped

WITHOUT_BAR = b"\r\x1b[2K"
"""Empties the line of the progress bar, where the terminal has put a ^C too."""
CURSOR = b"\x1b[?25h"
"""Shows the cursor, which the progress bar has hidden."""


class Interrupts:
    """Takes over the signals while it is entered; outside the main thread it leaves them alone."""

    def __init__(self) -> None:
        self.stopped_by: signal.Signals | None = None
        self.save_wanted = False
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
        """Nobody can read what the run says any more."""
        if self.stopped_by is None:
            self.stopped_by = signal.SIGPIPE
            _tell(
                f"The output cannot be written ({reason}): stopping after this step, which is saved first."
            )

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by is None:
            self.stopped_by = signal.Signals(number)
            _tell("Stopping after this step, which is saved first; once more to end at once.")
        elif number != signal.SIGHUP:  # a terminal that is closed may send it twice
            _tell("Ended at once. What came after the last checkpoint is lost.", CURSOR)
            os._exit(128 + number)

    def _save(self, number: int, frame: FrameType | None) -> None:
        self.save_wanted = True


def _tell(message: str, control: bytes = b"") -> None:
    """Not by print, which is not safe inside a signal handler."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        if os.isatty(1):
            os.write(1, WITHOUT_BAR + control)
        os.write(2, wrapped(message, columns(sys.stderr)).encode() + b"\n")
