"""The records of a run in, what its owner sees while it runs out.

On a terminal a bar stays below the lines, with the time left and what is being done; anywhere else (a log file, a
notebook) the same lines come without control codes. The lines show nothing that is not in the records.
"""

import errno
import math
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from homespun.records.metrics import Record
from homespun.terminal import columns, duration, printable, size, wrapped

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

TEXT_WIDTH = 88
"""Columns of a sample text, where the terminal is not narrower."""
BETWEEN_MOVES = 0.5
"""Seconds in which the bar stands still while steps go by."""
ECHO = 3
"""Columns that the bar leaves free: a terminal puts `^C` behind it."""
SHORTEST_BAR = 10
"""Columns; less is shown beside it where it would be shorter."""


def three_digits(value: float) -> str:
    """As much of a perplexity as one looks at."""
    return f"{value:.1f}" if value < 999.5 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


# What is shown of a record, in the order of importance: a narrow terminal leaves out the last ones.
_Fields = Mapping[str, Callable[[float], str]]
_TRAINING: _Fields = {
    "loss": lambda value: f"loss {value:.4f}",
    "perplexity": lambda value: f"ppl {three_digits(value):>6}",
    "lr": lambda value: f"lr {value:.1e}",
    "grad_norm": lambda value: f"norm {value:.2f}",
    "tokens_per_second": lambda value: f"{value:,.0f} tok/s",
}
_STATUS: _Fields = {
    "clipped": lambda value: f"clipped {value:.0%}",
    "memory_bytes": size,
}
_VALIDATION: _Fields = {
    "val_loss": lambda value: f"val loss {value:.4f}",
    "val_bits_per_byte": lambda value: f"{value:.3f} bits/byte",
    "val_perplexity": lambda value: f"ppl {three_digits(value)}",
}


def _fields(record: Record, shown: _Fields) -> list[str]:
    """The fields that the record has; a null stands for a number that is not finite."""
    values = {key: record[key] for key in shown if key in record}
    return [shown[key](math.nan if value is None else value) for key, value in values.items()]


class Console:
    """Shows a run: what it is, its records as they come, how far it is, and how it ended.

    `total_steps` is None where time ends the run, not steps; `best_val_loss` is what a resumed run
    brings along. When nobody can read what is written any more (a closed pipe, a closed terminal),
    `when_lost` is told why, once, and the rest goes to the standard error; as it does when the disk
    is full, which is no reason to stop.
    """

    def __init__(
        self,
        *,
        total_steps: int | None = None,
        best_val_loss: float = math.inf,
        when_lost: Callable[[str], object] = lambda reason: None,
        file: TextIO | None = None,
    ) -> None:
        self._total_steps = total_steps
        self._best_val_loss = best_val_loss
        self._when_lost = when_lost
        self._file = file or sys.stdout
        self._status: list[str] = []
        self._progress = 0.0
        self._beside_bar: list[str] = []
        self._moved = -math.inf
        self._bar: Live | None = None
        if self._file.isatty() and os.environ.get("TERM") != "dumb":
            self._bar = self._made_bar()

    def __enter__(self) -> "Console":
        with self._writing():
            if self._bar:
                self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._writing():
            if self._bar:
                self._bar.stop()

    def say(self, text: str) -> None:
        """Show a message."""
        self._print(text)

    def show(self, title: str, facts: Mapping[str, str]) -> None:
        """Show what a run is, or how it ended."""
        self._print(title, style="bold")
        widest = max(map(len, facts), default=0)
        for name, fact in facts.items():
            self._print(f"  {name:<{widest}}  {fact}", indent=" " * (widest + 4))

    def doing(self, what: str, progress: float) -> None:
        """Show, where there is a bar, what takes a while; `progress` as in `record`."""
        self._progress, self._beside_bar = progress, [what]
        self._move()
        self._moved = -math.inf  # the next step shows that it is over

    def stepped(self, step: int, loss: float, progress: float, seconds_left: float | None) -> None:
        """Show, where there is a bar, how far the run is; as often as one can read it."""
        self._progress = progress
        self._beside_bar = [*_left(seconds_left), f"step {step:,}", f"loss {loss:.2f}"]
        self._beside_bar += self._status
        if time.monotonic() - self._moved >= BETWEEN_MOVES:
            self._move()

    def record(self, record: Record, seconds_left: float | None) -> None:
        """Show a record."""
        step = self._step(record["step"])
        if "loss" in record:
            self._status = _fields(record, _STATUS)
            more = [] if self._bar else self._status + _left(seconds_left)
            self._print_line([step, *_fields(record, _TRAINING), *more])
        if "val_loss" in record:
            self._show_evaluation(step, record)
        if "advice" in record:
            advice = f"{step}  {record['cause']}: {record['advice']}"
            self._print(advice, style="bold yellow", indent=" " * (len(step) + 2))
        if "text" in record:
            self._show_sample(step, record)

    def _step(self, step: int) -> str:
        if self._total_steps is None:
            return f"step {step:>7,}"
        total = f"{self._total_steps:,}"
        return f"step {step:>{len(total)},}/{total}"

    def _show_evaluation(self, step: str, record: Record) -> None:
        fields = [step, *_fields(record, _VALIDATION)]
        val_loss = record["val_loss"]
        if val_loss is not None and val_loss < self._best_val_loss:
            self._best_val_loss = val_loss
            self._print_line([*fields, "best so far"], style="bold green")
        else:
            self._print_line(fields, style="bold")

    def _show_sample(self, step: str, record: Record) -> None:
        prompt = record.get("prompt") or ""
        after = f' after "{textwrap.shorten(prompt, 40, placeholder="...")}"' if prompt else ""
        self._print(f"{step}  sample{after}", style="bold")
        width = min(TEXT_WIDTH, columns(self._file) or TEXT_WIDTH)
        for line in printable(prompt + record["text"]).splitlines():
            indent = " " * 4
            self._print(textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent))

    def _print_line(self, fields: list[str], style: str = "") -> None:
        width = columns(self._file)
        while width and len("  ".join(fields)) > width and len(fields) > 2:
            fields = fields[:-1]
        self._print("  ".join(fields), style)

    def _print(self, text: str, style: str = "", indent: str = "") -> None:
        text = wrapped(printable(text), columns(self._file), indent)
        with self._writing():
            if self._bar:
                from rich.text import Text

                self._bar.console.print(Text(text, style), soft_wrap=True)
            else:
                print(text, file=self._file, flush=True)

    def _made_bar(self) -> "Live":
        """A line below all others that goes away at the end."""
        from rich.console import Console as Terminal
        from rich.live import Live

        terminal = Terminal(file=self._file, highlight=False)
        return Live(console=terminal, get_renderable=self._line, auto_refresh=False, transient=True)

    def _line(self) -> "Table":
        """The bar, and beside it as much as there is room for."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        percent = f"{self._progress:4.0%}"
        width = max(SHORTEST_BAR, (columns(self._file) or 0) - ECHO)
        beside = self._beside_bar
        while beside and len(f"{percent}   {'  '.join(beside)}") + SHORTEST_BAR > width:
            beside = beside[:-1]
        line = Table.grid(padding=(0, 1))
        line.width = width
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        progress = ProgressBar(total=1.0, completed=self._progress)
        line.add_row(Text(percent), progress, Text("  ".join(beside)))
        return line

    def _move(self) -> None:
        """Draw the bar anew."""
        self._moved = time.monotonic()
        with self._writing():
            if self._bar:
                self._bar.refresh()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Whatever is lost, the run has to go on until it is saved."""
        try:
            yield
        except OSError as error:
            with Path(os.devnull).open(
                "wb"
            ) as nothing:  # where it fails no more, at the exit either
                os.dup2(nothing.fileno(), self._file.fileno())
            if self._bar:
                self._bar.stop()
            self._file, self._bar = sys.stderr, None
            reason = error.strerror or str(error)
            if error.errno == errno.ENOSPC:
                self.say(f"The output cannot be written ({reason}): it goes on here.")
            else:
                self._when_lost(reason)


def _left(seconds: float | None) -> list[str]:
    return [] if seconds is None else [f"{duration(seconds)} left"]
