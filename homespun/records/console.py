"""The events of a run flow in, lines for its owner come out.

On a terminal a panel with the state of the run stays below the lines; anywhere else (a log file, a notebook) the same
lines come without control codes. All numbers in the lines are those of the records.
"""

import math
import os
import queue
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from homespun.records.events import Activity, Advice, Ended, Event, Message, Started, Step
from homespun.records.live import Panel
from homespun.records.record import Record, as_record
from homespun.terminal import (
    Ticker,
    columns,
    duration,
    encodable,
    is_silent,
    is_terminal,
    nowhere,
    printable,
    reader_is_gone,
    size,
    why,
    wrapped,
    write,
)

NO_CONTROL_CODES = ("dumb", "unknown")
"""Values of TERM for a terminal that cannot draw a panel."""
SAMPLE_WIDTH = 88
"""Columns of a sample text, unless the terminal is narrower."""
REFRESH_SECONDS = 0.5
"""Time between two drawings of the panel while steps go by."""
TICK_SECONDS = 1.0
"""Time between two drawings while nothing happens."""
SILENT_SECONDS = 5.0
"""Without a terminal, an activity that takes longer is named in a line of its own."""
REPEAT_SECONDS = 10.0
"""Time after which it is named again, and again. Steps without a line of the log are named as often."""


def three_digits(value: float) -> str:
    """A perplexity with one decimal, or none where it is large."""
    return f"{value:.1f}" if value < 999.5 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


# The fields of a record that are shown, the most important first: a narrow terminal leaves out the last ones.
_Fields = Mapping[str, Callable[[float], str]]
_TRAINING: _Fields = {
    "reward": lambda value: f"reward {value:.3f}",
    "kl": lambda value: f"kl {value:.3f}",
    "entropy": lambda value: f"entropy {value:.2f}",
    "distinct": lambda value: f"distinct {value:.0%}",
    "answer_tokens": lambda value: f"{value:.1f} tokens",
    "groups_skipped": lambda value: f"skipped {value:.0%}",
    "loss": lambda value: f"loss {value:.4f}",
    "accuracy": lambda value: f"accuracy {value:.0%}",
    "margin": lambda value: f"margin {value:.3f}",
    "chosen_reward": lambda value: f"chosen {value:+.2f}",
    "rejected_reward": lambda value: f"rejected {value:+.2f}",
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
    "val_reward": lambda value: f"val reward {value:.3f}",
    "val_loss": lambda value: f"val loss {value:.4f}",
    "val_accuracy": lambda value: f"accuracy {value:.1%}",
    "val_margin": lambda value: f"margin {value:.3f}",
    "val_chosen_reward": lambda value: f"chosen {value:+.2f}",
    "val_rejected_reward": lambda value: f"rejected {value:+.2f}",
    "val_bits_per_byte": lambda value: f"{value:.3f} bits/byte",
    "val_perplexity": lambda value: f"ppl {three_digits(value)}",
    "val_replay_bits_per_byte": lambda value: f"replay {value:.3f} bits/byte",
}


def _fields(record: Record, shown: _Fields) -> list[str]:
    """The fields that the record has; null stands for a number that is not finite."""
    values = {key: record[key] for key in shown if key in record}
    return [shown[key](math.nan if value is None else value) for key, value in values.items()]


class Console:
    """Shows a run: its settings, its records, its progress, and its end.

    When the output cannot be written, all later output goes to standard error, and is dropped if that fails too. When
    nobody can read it any more (a closed pipe, a closed terminal), `when_lost` is called with the reason. After every
    other fault, such as a full disk, the run continues.
    """

    def __init__(
        self,
        *,
        when_lost: Callable[[str], object] = lambda reason: None,
        file: TextIO | None = None,
    ) -> None:
        self._when_lost = when_lost
        self._file: TextIO | None = sys.stdout if file is None else file
        if is_silent():
            self._file = None
        self._total_steps: int | None = None
        self._best_val_loss = math.inf
        self._drawn = -math.inf
        self._panel: Panel | None = None
        self._waiting: Ticker | None = None
        """Names the activity that goes on, if it takes long."""
        self._watching: Ticker | None = None
        """Names the steps that go by, or the one that goes on, if no line of the log comes."""
        self._step_done: Step | None = None
        self._step_done_at = self._printed_at = time.monotonic()
        self._lock = threading.RLock()
        """Of all that is shown: a thread lets the panel tick while the run computes."""
        self._messages: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        """From signal handlers; None ends the thread."""
        self._thread = threading.Thread(target=self._tick, name="panel", daemon=True)
        if (
            self._file
            and is_terminal(self._file)
            and os.environ.get("TERM") not in NO_CONTROL_CODES
        ):
            self._panel = Panel(self._file)

    def __enter__(self) -> "Console":
        with self._writing():
            if self._panel:
                self._panel.start()
                self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._wait_for(None)
        if self._watching:
            self._watching.stop()
            self._watching = None
        if self._thread.is_alive():
            self._messages.put(None)
            self._thread.join(timeout=5 * TICK_SECONDS)
        with self._writing():
            if self._panel:
                self._panel.stop()
                self._panel = None

    def announce(self, text: str) -> bool:
        """Show a message from a signal handler above the panel, soon; False if there is no panel."""
        if self._panel is None:
            return False
        self._messages.put(text)  # the only call here that may interrupt itself
        return True

    def _tick(self) -> None:
        """Show messages, and the time that passes while nothing else happens."""
        while True:
            try:
                message = self._messages.get(timeout=TICK_SECONDS)
            except queue.Empty:
                self._draw()
                continue
            if message is None:
                return
            self.say(message)

    def __call__(self, event: Event) -> None:
        """Show an event."""
        with self._lock:
            self._show_event(event)

    def _show_event(self, event: Event) -> None:
        self._wait_for(event if isinstance(event, Activity) else None)
        if self._panel:
            self._panel.take(event)
        match event:
            case Started():
                self._total_steps = event.total_steps
                if self._panel:
                    self._panel.total_steps = event.total_steps
                if event.best_val_loss is not None:
                    self._best_val_loss = event.best_val_loss
                self.show(event.title, event.facts)
            case Activity():
                self._draw()
                self._drawn = -math.inf  # the next step replaces the activity at once
            case Message():
                self.say(event.text)
            case Ended():
                self.show(event.title, event.facts)
            case Advice(ends_run=True):
                pass  # the error that ends the run has the same text
            case _:
                if record := as_record(event):
                    self.record(record, event.seconds_left)
        if isinstance(event, Step):
            self._watch(event)
        # Steps may be many: the panel moves no more often than a person can read it.
        if isinstance(event, Step) and time.monotonic() - self._drawn >= REFRESH_SECONDS:
            self._draw()

    def _wait_for(self, activity: Activity | None) -> None:
        """Name this activity after a while, and no longer the one before it."""
        if self._waiting:
            self._waiting.stop()
            self._waiting = None
        if activity and self._file and not self._panel:
            line = f"{self._step(activity.step)}  {activity.name} ..."

            def name(seconds: float) -> None:
                with self._lock:
                    if self._waiting is ticker:
                        again = seconds >= SILENT_SECONDS + REPEAT_SECONDS
                        self.say(f"{line} {duration(seconds)}" if again else line)

            ticker = self._waiting = Ticker(name, SILENT_SECONDS, REPEAT_SECONDS)

    def _watch(self, step: Step) -> None:
        """Note the last step. From the first one on, a thread looks for silence: steps may be too many to wait for each
        of them."""
        self._step_done, self._step_done_at = step, time.monotonic()
        if not self._watching and self._file and not self._panel:
            self._watching = Ticker(self._break_silence, TICK_SECONDS, TICK_SECONDS)

    def _break_silence(self, seconds: float) -> None:
        """Name the step if nothing was printed for a while, and no activity is named in its place."""
        with self._lock:
            step, now = self._step_done, time.monotonic()
            is_silent_for_long = now - self._printed_at >= REPEAT_SECONDS - TICK_SECONDS
            if not step or not self._watching or self._waiting or not is_silent_for_long:
                return
            waiting = now - self._step_done_at
            if waiting >= REPEAT_SECONDS - TICK_SECONDS:
                line = [self._step(step.step + 1), f"takes {duration(waiting)}"]
            else:
                line = [self._step(step.step), "done"]
            self._print_line([*line, *_time_left(step.seconds_left)])

    def say(self, text: str) -> None:
        """Show a message."""
        self._print(text)

    def show(self, title: str, facts: Mapping[str, str]) -> None:
        """Show a title and named facts below it."""
        self._print(title, style="bold")
        widest = max(map(len, facts), default=0)
        for name, fact in facts.items():
            self._print(f"  {name:<{widest}}  {fact}", indent=" " * (widest + 4))

    def record(self, record: Record, seconds_left: float | None) -> None:
        """Show a record."""
        step = self._step(record["step"])
        if "loss" in record:
            status = _fields(record, _STATUS)
            more = [] if self._panel else status + _time_left(seconds_left)
            self._print_line([step, *_fields(record, _TRAINING), *more])
        if "val_loss" in record:
            self._show_evaluation(step, record)
        if "advice" in record:
            advice = f"{step}  {record['cause']}: {record['advice']}"
            self._print(advice, style="bold yellow", indent=" " * (len(step) + 2))
        if "eval_tokens" in record:
            self._show_new_measure(step, record)
        if "text" in record:
            self._show_sample(step, record)

    def _step(self, step: int) -> str:
        if self._total_steps is None:
            return f"step {step:>7,}"
        total = f"{self._total_steps:,}"
        return f"step {step:>{len(total)},}/{total}"

    def _show_evaluation(self, step: str, record: Record) -> None:
        fields = [step, *_fields(record, _VALIDATION)]
        # A reward is the better the higher it is; everything else that is compared is a loss.
        reward = record.get("val_reward")
        figure = record["val_loss"] if reward is None else -reward
        if figure is not None and figure < self._best_val_loss:
            self._best_val_loss = figure
            self._print_line([*fields, "best so far"], style="bold green")
        else:
            self._print_line(fields, style="bold")

    def _show_new_measure(self, step: str, record: Record) -> None:
        best = record["best_val_loss"]
        self._best_val_loss = math.inf if best is None else best
        found = "there are no best weights to measure again, so the next are the best"
        if best is not None:
            found = f"the best weights (step {record['best_step']:,}) have val loss {best:.4f}"
        line = (
            f"{step}  from here on evaluations differ ({record['eval_tokens']:,} tokens): {found}"
        )
        self._print(line, indent=" " * (len(step) + 2))

    def _show_sample(self, step: str, record: Record) -> None:
        prompt = record.get("prompt") or ""
        after = f' after "{textwrap.shorten(prompt, 40, placeholder="...")}"' if prompt else ""
        self._print(f"{step}  sample{after}", style="bold")
        width = min(SAMPLE_WIDTH, columns(self._file) or SAMPLE_WIDTH)
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
        self._printed_at = time.monotonic()
        with self._writing():
            if self._panel:
                from rich.text import Text

                text = encodable(text, self._file)
                self._panel.terminal.print(Text(text, style), soft_wrap=True)
            elif self._file:
                write(text + "\n", self._file)

    def _draw(self) -> None:
        """Draw the panel, if there is one."""
        with self._writing():
            if self._panel:
                self._drawn = time.monotonic()
                self._panel.draw()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Survive the loss of the output, since the run must continue until it is saved."""
        with self._lock:
            try:
                yield
            except Exception as error:
                lost, panel = self._file, self._panel
                with nowhere(lost):
                    if panel:
                        panel.stop()
                self._file, self._panel = None if lost is sys.stderr else sys.stderr, None
                if reader_is_gone(error):
                    self._when_lost(why(error))
                else:
                    self.say(f"The output cannot be written ({why(error)}); it continues here.")


def _time_left(seconds: float | None) -> list[str]:
    return [] if seconds is None else [f"{duration(seconds)} left"]
