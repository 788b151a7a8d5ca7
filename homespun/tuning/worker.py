"""The process of a trial. Its settings flow in as a line of JSON; lines of JSON with its progress flow out.

    python -m homespun.tuning.worker

It trains up to a rung and stops there after the evaluation, or to the end. If the process that started it is gone, it
saves and ends. Its messages go to standard error.
"""

import json
import os
import signal
import sys
import threading
import time
from typing import Any

from homespun.errors import DiskFullError, ResourceError, UserError
from homespun.records.events import Evaluation, Event, Step, StopRun
from homespun.terminal import say, warn
from homespun.training.interrupts import Interrupts, StoppedInSetUp
from homespun.training.train import train

SECONDS_BETWEEN_REPORTS = 0.5


class Reporter:
    """Turns the events of the run into lines for the tune, and ends the run at its rung."""

    def __init__(self, descriptor: int, stop_at: int | None) -> None:
        self._descriptor, self._stop_at = descriptor, stop_at
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case Step() if time.monotonic() >= self._next:
                self._next = time.monotonic() + SECONDS_BETWEEN_REPORTS
                self.tell(step=event.step)
            case Evaluation():
                self.tell(step=event.step)
                if self._stop_at is not None and event.step >= self._stop_at:
                    raise StopRun("rung")

    def tell(self, **facts: Any) -> None:
        """Write a line. A reader that is gone is no fault of the run."""
        try:
            os.write(self._descriptor, json.dumps(facts).encode() + b"\n")
        except OSError:
            self._next = float("inf")


def main() -> int:
    """Run a trial, and return its exit status, as that of `homespun train`."""
    # The tune tells when to stop. What a terminal sends reaches this process as well, and must not count twice.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    reports = os.dup(1)
    os.set_inheritable(reports, False)
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_tune, daemon=True).start()
    reporter = Reporter(reports, order["stop_at"])
    try:
        with Interrupts(quits=True) as interrupts:
            result = train(order["settings"], say, interrupts, reporter)
    except StoppedInSetUp as stop:
        return 128 + stop.number
    except UserError as error:
        passes = isinstance(error, DiskFullError | ResourceError)
        reporter.tell(error=str(error), passes=passes)
        warn(f"error: {error}")
        return 2
    return 128 + result.stopped_by if result.stopped_by else 0


def _end_with_the_tune() -> None:
    """Wait for the end of the tune, which holds the other end of standard input."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
