"""The course of a tune flows in; a table that follows it on a terminal, or plain lines in a pipe, come out."""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from homespun.terminal import Say, duration, encodable, fixed_columns, is_silent, is_terminal
from homespun.tuning.objective import LOSS, Objective
from homespun.tuning.space import written

SECONDS_BETWEEN_LINES = 10.0
"""In a pipe, nothing is silent for longer."""
UPDATES_PER_SECOND = 2
LEAST_SHARE = 0.01
"""Of the tune, and at least so many seconds as between two lines, before the time left is estimated."""


class Screen:
    """Shows a tune. On a terminal the table stays below the messages."""

    def __init__(
        self,
        say: Say,
        columns: Sequence[str],
        cost: int,
        done: int,
        rows: Callable[[], Sequence[Mapping[str, Any]]],
        objective: Objective = LOSS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the screen.

        Args:
            columns: the settings that vary.
            cost: tokens of the whole tune.
            done: those that were done before.
            rows: gives the present table.
            objective: the figure in it.
        """
        self._say, self._columns, self._cost, self._rows = say, columns, cost, rows
        self._objective = objective
        self._now = now
        self._begun, self._done_before = now(), done
        self._done = done
        self._spoken = now()
        self._running: dict[str, int] = {}
        """The step of each trial that runs."""
        self._live: Any = None

    def __enter__(self) -> "Screen":
        if is_terminal(sys.stdout) and not is_silent():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                self._table(),
                console=Console(width=fixed_columns()),
                refresh_per_second=UPDATES_PER_SECOND,
                transient=True,
                redirect_stdout=True,
                redirect_stderr=True,
            )
            with contextlib.suppress(OSError):
                self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            with contextlib.suppress(OSError):
                self._live.stop()

    def started(self, trial: str) -> None:
        """The process of a trial begins."""
        self._running[trial] = 0
        if self._live:
            self._live.update(self._table())

    def progress(self, trial: str, step: int, done: int) -> None:
        """A trial is at a step, and `done` tokens of the tune are done."""
        self._running[trial], self._done = step, done
        if self._live:
            self._live.update(self._table())
        self.wait()

    def wait(self) -> None:
        """Nothing may have happened: name the trials if that has been so for long."""
        if not self._live and self._now() - self._spoken >= SECONDS_BETWEEN_LINES:
            self.line(", ".join(f"{name}: {_place(n)}" for name, n in self._running.items()))

    def arrived(self, trial: str, settings: Mapping[str, Any], where: str, done: int) -> None:
        """A trial has come to a rung or to its end."""
        self._running.pop(trial, None)
        self._done = done
        values = "  ".join(
            f"{name} {written(settings[name])}" for name in self._columns if name in settings
        )
        self.line(f"{trial:<9}  {values}  {where}")

    def line(self, text: str) -> None:
        """Print a line with the progress of the tune."""
        self._spoken = self._now()
        if self._live:
            self._live.update(self._table())
        else:
            self._say(f"{text}  ({self._state()})")

    def _state(self) -> str:
        share = min(1.0, self._done / self._cost)
        state = f"{share:.0%} of the tune"
        if left := self.seconds_left():
            state += f", about {duration(left)} left"
        return state

    def seconds_left(self) -> float | None:
        """An estimate from the progress since the start."""
        gained, passed = self._done - self._done_before, self._now() - self._begun
        if gained < LEAST_SHARE * self._cost or passed < SECONDS_BETWEEN_LINES:
            return None
        return passed / gained * max(0, self._cost - self._done)

    def _table(self) -> Any:
        from rich.markup import escape
        from rich.table import Table

        running = ", ".join(f"{name}: {_place(step)}" for name, step in self._running.items())
        table = Table(
            title=self._state(),
            title_justify="left",
            caption=running,
            caption_justify="left",
            box=None,
        )
        table.add_column("trial")
        for name in self._columns:
            table.add_column(name, justify="right", min_width=len(name))
        table.add_column("steps", justify="right")
        table.add_column(self._objective.title, justify="right")
        table.add_column("state", overflow="ellipsis", no_wrap=True)
        for row in self._rows():
            figure = row[self._objective.entry]
            values = ["" if row[name] is None else written(row[name]) for name in self._columns]
            table.add_row(
                row["trial"],
                *values,
                f"{row['steps']:,}",
                "" if figure is None else f"{figure:.4f}",
                escape(encodable(row["state"], sys.stdout)),
            )
        return table


def _place(step: int) -> str:
    return f"step {step:,}" if step else "starting"
