"""Variants that take turns, round after round, so that a machine whose speed drifts treats all alike.

Ratios are taken within a round; medians over the rounds are what counts.
"""

import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from benchmarks.report import Row

Turn = Callable[[], float]
"""Does a share of the work; returns a figure."""
NextTurn = Callable[[float], None]
"""Hands over the figure of the turn before, and returns when it is this process's turn again."""
Work = Callable[[NextTurn], None]
"""Warms up, and then takes turns until it is told to exit."""


REST = 0.2
"""Seconds between the turns of processes: until the threads of the one before fall asleep, they need a processor."""


def interleaved(variants: Mapping[str, Turn], rounds: int) -> dict[str, list[float]]:
    """The figures of each variant, one a round; a first round, which warms up, does not count."""
    measured = [{name: turn() for name, turn in variants.items()} for _ in range(rounds + 1)]
    return {name: [one[name] for one in measured[1:]] for name in variants}


def compared(
    measured: Mapping[str, list[float]], unit: str, digits: int | None = None
) -> list[Row]:
    """For each variant its median, and how it stands to the first: median, least and most of the rounds."""
    first = next(iter(measured.values()))
    rows: list[Row] = []
    for name, figures in measured.items():
        ratios = [one / other for one, other in zip(figures, first, strict=True)]
        rows.append(
            {
                "variant": name,
                unit: round(statistics.median(figures), digits),
                "ratio": round(statistics.median(ratios), 2),
                "least": round(min(ratios), 2),
                "most": round(max(ratios), 2),
            }
        )
    return rows


class Process:
    """A variant in a process of its own, which sleeps between its turns."""

    def __init__(self, work: Work, environment: Mapping[str, str] | None = None) -> None:
        """Start `work`, and wait until it has warmed up.

        Args:
            work: a function of a module, which loads a framework only when it runs, or a `partial` of one.
            environment: variables that differ from those of this process; an empty one is not set.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, work, dict(environment or {})), daemon=True
        )
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the connection
        self._connection.recv()

    def __call__(self) -> float:
        """Take a turn."""
        time.sleep(REST)
        self._connection.send(True)
        return float(self._connection.recv())

    def peak_megabytes(self) -> int:
        """The most memory that the process has held."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        kilobytes = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert kilobytes
        return round(int(kilobytes[1]) * 1024 / 1e6)

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()
        self._process.join()


def _serve(connection: Connection, work: Work, environment: dict[str, str]) -> None:
    """What the process does."""
    os.environ.update(environment)  # which frameworks read when they are loaded
    for name in [name for name, value in environment.items() if not value]:
        del os.environ[name]

    def next_turn(figure: float) -> None:
        try:
            connection.send(figure)
            connection.recv()
        except (EOFError, BrokenPipeError):
            raise SystemExit from None

    work(next_turn)
