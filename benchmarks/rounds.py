"""Measures variants in turn, round after round, so that a drift in the machine's speed affects all alike.

Ratios are taken within a round. The reported figures are medians over the rounds.
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
"""Does one part of the work and returns its figure."""
NextTurn = Callable[[float], None]
"""Reports the figure of the turn that just ended, and waits for the next turn of this process."""
Work = Callable[[NextTurn], None]
"""Warms up, then takes turns until the process ends."""


REST = 0.2
"""Seconds between the turns of processes. The threads of the previous process use a core until they sleep."""


def interleaved(variants: Mapping[str, Turn], rounds: int) -> dict[str, list[float]]:
    """Figures of each variant, one per round. A first round warms up and is dropped."""
    measured = [{name: turn() for name, turn in variants.items()} for _ in range(rounds + 1)]
    return {name: [one[name] for one in measured[1:]] for name in variants}


def compared(
    measured: Mapping[str, list[float]], unit: str, digits: int | None = None
) -> list[Row]:
    """For each variant its median figure, and its ratio to the first variant: median, least and most of all rounds."""
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
    """A variant in its own process, which sleeps between its turns."""

    def __init__(self, work: Work, environment: Mapping[str, str] | None = None) -> None:
        """Start `work` and wait until it has warmed up.

        Args:
            work: a module-level function, or a `partial` of one, that imports its framework only when it runs.
            environment: variables to change in the process; an empty value removes the variable.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, work, dict(environment or {})), daemon=True
        )
        self._process.start()
        theirs.close()  # so that the connection closes when the process ends
        self._connection.recv()

    def __call__(self) -> float:
        """Take a turn."""
        time.sleep(REST)
        self._connection.send(True)
        return float(self._connection.recv())

    def peak_megabytes(self) -> int:
        """Peak memory of the process."""
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
    """Main function of the process: set the environment, then run `work`, which waits for its turns."""
    os.environ.update(environment)  # before `work` imports a framework, which reads it
    for name in [name for name, value in environment.items() if not value]:
        del os.environ[name]

    def next_turn(figure: float) -> None:
        try:
            connection.send(figure)
            connection.recv()
        except (EOFError, BrokenPipeError):
            raise SystemExit from None

    work(next_turn)
