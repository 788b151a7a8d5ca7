"""Signals in, wishes out: the loop reads them between two steps, so that nothing is ever cut in half.

SIGINT (Ctrl-C) and SIGTERM: finish the step, save, end; a second one ends at once. SIGUSR1: save and go on.
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


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
            self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._save)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by is not None:
            if os.isatty(1):
                os.write(1, b"\x1b[?25h")  # the progress bar has hidden the cursor
            os._exit(128 + number)
        self.stopped_by = signal.Signals(number)
        # Not print, which is not safe inside a handler.
        os.write(
            2, b"\nStopping after this step, which is saved first; once more to end at once.\n"
        )

    def _save(self, number: int, frame: FrameType | None) -> None:
        self.save_wanted = True
