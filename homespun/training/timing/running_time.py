"""The system's clock flows in, the seconds in which this process could run come out.

A process that is suspended (Ctrl-Z, SIGSTOP, a frozen container) cannot look at the clock. A thread looks at it twice a
second, so a long time between two looks is time in which nothing ran.
"""

import threading
import time

LOOK_SECONDS = 0.5
"""Time between two looks at the clock."""
LONGEST_DELAY = 5.0
"""A busy machine may delay a look by so many seconds. A longer delay counts as a suspension."""


class RunningTime:
    """Call it for the seconds, counted from any moment. They are those of the system until the `with` block begins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._suspended = 0.0
        self._last: float | None = None
        """The last look at the clock; None where nobody looks regularly."""
        self._ended = threading.Event()

    def __call__(self) -> float:
        with self._lock:  # whoever looks first after a suspension notices it
            now = time.perf_counter()
            if self._last is not None:
                delay = now - self._last - LOOK_SECONDS
                if delay > LONGEST_DELAY:
                    self._suspended += delay
                self._last = now
            return now - self._suspended

    def __enter__(self) -> "RunningTime":
        self._last = time.perf_counter()
        threading.Thread(target=self._look, name="running time", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self()
