"""Events of a run flow in, a few lines at the bottom of a terminal come out: figures, last sample, warning, progress.

The lines have no memory of the terminal: each drawing takes its present width and height, and shows what there is room
for.
"""

import math
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from homespun.records.events import Activity, Advice, Evaluation, Event, Sample, Step
from homespun.terminal import duration, encodable, fixed_columns, is_terminal, printable, size

if TYPE_CHECKING:
    from rich.console import Group

RESERVED_COLUMNS = 3
"""Columns behind the bar that stay free, because a terminal prints `^C` there."""
MIN_BAR_WIDTH = 10
"""Columns. Where the bar would be shorter, less text is shown beside it."""
MIN_ROWS = 12
"""A lower terminal shows the bar alone."""
TICKING_SECONDS = 2.0
"""A step or an activity that takes longer shows its time."""

SPARKS = "▁▂▃▄▅▆▇█"
SPARK_COLUMNS = 24


class Course:
    """The losses of a run so far, as at most `2 * SPARK_COLUMNS` means over equally many steps."""

    def __init__(self) -> None:
        self._means: list[float] = []
        self._steps_per_mean = 1
        self._sum, self._steps = 0.0, 0

    def add(self, loss: float) -> None:
        if not math.isfinite(loss):
            return
        self._sum, self._steps = self._sum + loss, self._steps + 1
        if self._steps < self._steps_per_mean:
            return
        self._means.append(self._sum / self._steps)
        self._sum, self._steps = 0.0, 0
        if len(self._means) == 2 * SPARK_COLUMNS:
            pairs = zip(self._means[::2], self._means[1::2], strict=True)
            self._means = [sum(pair) / 2 for pair in pairs]
            self._steps_per_mean *= 2

    def sparkline(self) -> str:
        """A bar for each mean, or for each two. The steep fall of the first quarter does not set the scale."""
        means = self._means
        if len(means) > SPARK_COLUMNS:
            means = [sum(pair) / len(pair) for pair in _pairs(means)]
        if len(means) < 2:
            return ""
        low, high = min(means), max(means[len(means) // 4 :])
        scale = (len(SPARKS) - 1) / max(high - low, 1e-9)
        return "".join(SPARKS[round(min(mean - low, high - low) * scale)] for mean in means)


def _pairs(values: Sequence[float]) -> list[Sequence[float]]:
    return [values[i : i + 2] for i in range(0, len(values), 2)]


class Panel:
    """The lines below the log."""

    def __init__(self, file: TextIO) -> None:
        from rich.console import Console as Terminal
        from rich.live import Live

        self._file = file
        self.terminal = Terminal(file=file, highlight=False, width=fixed_columns())
        self._live = Live(
            console=self.terminal,
            auto_refresh=False,
            transient=True,
            redirect_stderr=is_terminal(sys.stderr),  # a file or a pipe gets its lines itself
        )
        self.total_steps: int | None = None
        self._progress = 0.0
        self._seconds_left: float | None = None
        self._step: int | None = None
        self._activity: str | None = None
        self._since = time.monotonic()
        """The beginning of the activity, or the end of the last step."""
        self._loss = math.nan
        self._course = Course()
        self._val_loss: float | None = None
        self._status: list[str] = []
        self._sample = self._warning = ""
        self._prompt: str | None = None
        """Of the sample: always the first one, so that the texts compare."""
        self._drawn: tuple[object, ...] = ()

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def take(self, event: Event) -> None:
        """Note an event, for the next drawing."""
        self._progress, self._seconds_left = event.progress, event.seconds_left
        match event:
            case Activity():
                self._activity, self._since = event.name, time.monotonic()
            case Step():
                self._step, self._loss = event.step, event.loss
                self._activity, self._since = None, time.monotonic()
                if event.applied:
                    self._course.add(event.loss)
                if log := event.log:
                    self._status = [
                        f"{log.tokens_per_second:,.0f} tok/s",
                        size(log.memory_bytes),
                        f"clipped {log.clipped:.0%}",
                    ]
            case Evaluation():
                self._val_loss = event.loss
                self._activity, self._since = None, time.monotonic()
            case Sample():
                self._activity, self._since = None, time.monotonic()
                if self._prompt in (None, event.prompt):
                    self._prompt = event.prompt
                    self._sample = " ".join(printable(event.prompt + event.text).split())
            case Advice():
                self._warning = printable(f"{event.cause} (step {event.step:,}): {event.text}")

    def draw(self) -> None:
        """Show the state, if it looks different from the last drawing."""
        width = self.terminal.width
        rows = self._rows(width - RESERVED_COLUMNS)
        state = (width, *rows)
        if state != self._drawn:
            self._drawn = state
            self._live.update(self._drawing(rows, width - RESERVED_COLUMNS), refresh=True)

    def _rows(self, width: int) -> tuple[float, str, tuple[tuple[str, str], ...]]:
        """The progress, the text beside the bar, and the lines above it with their styles."""
        beside = _fitting(self._beside(), width - len("100%") - 2 - MIN_BAR_WIDTH)
        above: list[tuple[str, str]] = []
        if self._step is not None and shutil.get_terminal_size().lines >= MIN_ROWS:
            above.append((_fitting(self._figures(), width), ""))
            above += [(self._sample, "dim")] if self._sample else []
            above += [(self._warning, "yellow")] if self._warning else []
        lines = tuple((encodable(line, self._file), style) for line, style in above)
        return self._progress, encodable(beside, self._file), lines

    def _beside(self) -> list[str]:
        waiting = time.monotonic() - self._since
        clock = [duration(waiting)] if waiting >= TICKING_SECONDS else []
        if self._activity:
            return [" ".join([self._activity, *clock])]
        if self._step is None:
            return []
        total = f"/{self.total_steps:,}" if self.total_steps else ""
        left = [] if self._seconds_left is None else [f"{duration(self._seconds_left)} left"]
        running = [f"step {self._step + 1:,} takes {clock[0]}"] if clock else []
        return [*left, f"step {self._step:,}{total}", *running]

    def _figures(self) -> list[str]:
        loss = f"loss {self._loss:.2f}"
        if (spark := self._course.sparkline()) and encodable(spark, self._file) == spark:
            loss += f" {spark}"
        val_loss = [] if self._val_loss is None else [f"val loss {self._val_loss:.4f}"]
        return [loss, *val_loss, *self._status]

    def _drawing(self, rows: tuple[float, str, tuple[tuple[str, str], ...]], width: int) -> "Group":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        progress, beside, above = rows
        line = Table.grid(padding=(0, 1, 0, 0), expand=False)
        bar_width = max(MIN_BAR_WIDTH, width - len("100%") - 2 - len(beside))
        line.add_row(
            f"{progress:>4.0%}",
            ProgressBar(total=1.0, completed=progress, width=bar_width),
            Text(beside, no_wrap=True, overflow="crop"),
        )
        lines = []
        for text, style in above:
            shown = Text(text, style, no_wrap=True, overflow="crop", end="\n")
            shown.truncate(width, overflow="crop")
            lines.append(shown)
        return Group(*lines, line)


def _fitting(texts: list[str], width: int) -> str:
    """As many of the texts as there is room for, the first ones first."""
    while texts and len("  ".join(texts)) > width:
        texts = texts[:-1]
    return "  ".join(texts)
