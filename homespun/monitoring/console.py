"""The records of a run in, what its owner sees while it runs out.

On a terminal a progress bar with the time left stays below the lines; anywhere else (a log file, a
notebook) the same lines come without control codes. It shows nothing that is not in the records.
"""

import math
import os
import sys
import textwrap
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from homespun.monitoring.metrics import Record

if TYPE_CHECKING:
    from rich.progress import Progress

TEXT_WIDTH = 88
"""Columns of a sample text, where the terminal is not narrower."""

# Control characters begin every escape sequence; the others turn the direction of writing around.
# Line breaks and tabs stay.
_UNPRINTABLE = dict.fromkeys(
    {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {9, 10}
)


def printable(text: str) -> str:
    """`text` without what could control a terminal: for all text that a model wrote."""
    return text.translate(_UNPRINTABLE)


def duration(seconds: float) -> str:
    """'42 s', '12 min', '3 h 05 min' or '2 d 4 h'."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"


def size(n_bytes: float) -> str:
    """'640 MB' or '1.2 GB', in powers of ten."""
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes < 0.9995e9 else f"{n_bytes / 1e9:.1f} GB"


def perplexity(value: float) -> str:
    """Three digits, as much as one looks at."""
    return f"{value:.1f}" if value < 999.5 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


# What is shown of a record, in the order of importance: a narrow terminal leaves out the last ones.
_Fields = Mapping[str, Callable[[float], str]]
_TRAINING: _Fields = {
    "loss": lambda value: f"loss {value:.4f}",
    "perplexity": lambda value: f"ppl {perplexity(value):>6}",
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
    "val_perplexity": lambda value: f"ppl {perplexity(value)}",
    "val_bits_per_byte": lambda value: f"{value:.3f} bits/byte",
}


def _fields(record: Record, shown: _Fields) -> list[str]:
    """The fields that the record has; a null stands for a number that is not finite."""
    values = {key: record[key] for key in shown if key in record}
    return [shown[key](math.nan if value is None else value) for key, value in values.items()]


class Console:
    """Shows a run: what it is, its records as they come, and how far it is.

    `total_steps` is None where time ends the run, not steps; `best_val_loss` is what a resumed run
    brings along.
    """

    def __init__(
        self,
        title: str,
        facts: Mapping[str, str],
        *,
        total_steps: int | None = None,
        best_val_loss: float = math.inf,
        file: TextIO | None = None,
    ) -> None:
        self._title = title
        self._facts = facts
        self._total_steps = total_steps
        self._best_val_loss = best_val_loss
        self._file = file or sys.stdout
        self._status: list[str] = []
        self._bar: Progress | None = None
        if self._file.isatty() and os.environ.get("TERM") != "dumb":
            self._bar = _progress_bar(self._file)

    def __enter__(self) -> "Console":
        self._print(self._title, style="bold")
        widest = max(map(len, self._facts), default=0)
        for name, fact in self._facts.items():
            self._print(f"  {name:<{widest}}  {fact}")
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Show a message."""
        self._print(text)

    def record(self, record: Record, progress: float, seconds_left: float | None) -> None:
        """Show a record; `progress` is the share of the run that is done, from 0 to 1."""
        step = self._step(record["step"])
        left = [] if seconds_left is None else [f"{duration(seconds_left)} left"]
        if "loss" in record:
            self._status = _fields(record, _STATUS)
            more = [] if self._bar else self._status + left
            self._print_line([step, *_fields(record, _TRAINING), *more])
        if "val_loss" in record:
            self._show_evaluation(step, record)
        if "text" in record:
            self._show_sample(step, record)
        if self._bar:
            note = "  ".join(left + self._status)
            self._bar.update(self._bar.task_ids[0], completed=progress, note=note, refresh=True)

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
        width = min(TEXT_WIDTH, self._bar.console.width) if self._bar else TEXT_WIDTH
        for line in printable(prompt + record["text"]).splitlines():
            indent = " " * 4
            self._print(textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent))

    def _print_line(self, fields: list[str], style: str = "") -> None:
        while self._bar and len("  ".join(fields)) > self._bar.console.width and len(fields) > 2:
            fields = fields[:-1]
        self._print("  ".join(fields), style)

    def _print(self, text: str, style: str = "") -> None:
        if self._bar:
            from rich.text import Text

            self._bar.console.print(Text(printable(text), style), soft_wrap=True)
        else:
            print(printable(text), file=self._file, flush=True)


def _progress_bar(file: TextIO) -> "Progress":
    """A bar below all other lines that goes away at the end; drawn when a record comes."""
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.percentage:>3.0f}%"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[note]}", markup=False),
        console=Terminal(file=file, highlight=False),
        auto_refresh=False,
        transient=True,
        expand=True,
    )
    bar.add_task("", total=1.0, note="")
    return bar
