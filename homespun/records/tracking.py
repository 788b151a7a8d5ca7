"""Events of a run flow in, and go to the trackers that the user has named, as numbers and texts of a step.

Trackers get the values of `metrics.jsonl`. A tracker that fails is dropped with a line; the run goes on.
"""

import importlib
import pkgutil
import secrets
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from homespun.errors import UserError, did_you_mean
from homespun.records import trackers
from homespun.records.events import Ended, Event
from homespun.records.reading import Line, is_number, read_lines
from homespun.records.record import Record, as_record
from homespun.terminal import bar

OFF = "off"
"""In place of a name: a resumed run is not tracked any more."""
SECTIONS = {"loss": "train", "val_loss": "validation", "eval_tokens": "validation"}
"""The section of the numbers of a record that has such a field."""
ID_LENGTH = 8
"""Hexadecimal digits."""
LONGEST_NAME = 40
"""Characters of a prompt in the name of its samples."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker sees it when it opens."""

    folder: Path
    id: str
    """The same after a resume, until the run goes back to an earlier step."""
    settings: Mapping[str, Any]
    """Everything that was chosen, by name, some of it in groups."""
    last_step: int | None = None
    """None for a new run. A resumed one, which the tracker has already, repeats the steps after this one."""
    sent_to: int | None = None
    """Of a resumed run, the last step that was sent before it was interrupted."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name


class Tracker(Protocol):
    """Writes the values of one run. Any exception ends the tracking."""

    takes_back: bool
    """Whether it can forget steps that are repeated with other values."""
    complete_to: int
    """The tracker has all records up to this step; later ones are sent, again if need be. -1: it has none."""
    place: str
    """Where the values can be seen, for a line."""

    def __init__(self, run: TrackedRun) -> None:
        """Open the run."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers of a step. Names have the form `section/field`."""

    def text(self, step: int, name: str, text: str) -> None:
        """A text of a step, such as a sample."""

    def summary(self, step: int, values: Mapping[str, Any]) -> None:
        """The result of the run, at its last step."""

    def close(self, *, failed: bool) -> None:
        """The process ends; a stopped run may be resumed later. `failed`: by an error."""


def available() -> list[str]:
    """The names of all trackers, whether their packages are installed or not."""
    return sorted(module.name for module in pkgutil.iter_modules(trackers.__path__))


def named(names: Iterable[str]) -> dict[str, type[Tracker]]:
    """The trackers of these names. A name may be a list with commas.

    Raises:
        UserError: there is no such tracker, or its package is not installed.
    """
    listed = [one.strip() for name in names for one in name.split(",")]
    return {name: _tracker(name) for name in dict.fromkeys(listed) if name not in ("", OFF)}


def _tracker(name: str) -> type[Tracker]:
    if name not in available():
        meant = did_you_mean(name, available(), f"choose from {', '.join(available())}")
        raise UserError(f"--track {name} is unknown: {meant}")
    try:
        module = importlib.import_module(f"{trackers.__name__}.{name}")
    except Exception as error:
        missing = isinstance(error, ImportError)
        problem = "needs a package that is not installed here" if missing else "cannot be loaded"
        raise UserError(f"--track {name} {problem} ({error}): pip install {name}") from error
    return cast(type[Tracker], module.Tracker)


class Tracking:
    """The trackers of a run; a listener of its events."""

    def __init__(
        self,
        kinds: Mapping[str, type[Tracker]],
        folder: Path,
        settings: Mapping[str, Any],
        *,
        known: Mapping[str, str] | None = None,
        record: Path | None = None,
        kept: int = 0,
        goes_back: bool = False,
    ) -> None:
        """Open the trackers. Each gets the earlier records that it does not have.

        Args:
            kinds: as `named` gives them.
            folder: of the run.
            settings: as in `TrackedRun`.
            known: for a resumed run, the ids that the trackers knew it by.
            record: the file of the records of a resumed run, still with those that it repeats.
            kept: the length of the records that stay, in bytes.
            goes_back: the user has named an earlier step. It begins another run in trackers that cannot forget steps.
        """
        self.report: Callable[[str], object] = lambda text: None
        """Receives a line when a tracker fails."""
        self.lines: list[str] = []
        """About the opening: where the values go, or why they do not."""
        self.ids: dict[str, str] = {}
        """By tracker; a checkpoint stores them for `known`."""
        self._open: dict[str, Tracker] = {}
        self._sent: dict[str, set[object]] = {}
        """For each tracker the records that it has and must not get again."""
        lines = list(_lines(record)) if kinds and record else []
        before = [line.record for line in lines if line.end <= kept]
        repeated = [line.record for line in lines if line.end > kept]
        for name, kind in kinds.items():
            identity = (known or {}).get(name)
            if not _is_id(identity):
                identity = None
            if goes_back and repeated and not kind.takes_back:
                identity = None
            self.ids[name] = identity or secrets.token_hex(ID_LENGTH // 2)
            run = TrackedRun(folder, self.ids[name], settings)
            if identity is not None:
                last_step = before[-1]["step"] if before else 0
                sent_to = repeated[-1]["step"] if repeated else last_step
                run = replace(run, last_step=last_step, sent_to=sent_to)
            try:
                with bar(f"Opening {name}", None):
                    self._open[name] = tracker = kind(run)
                    has = tracker.complete_to
                    self._sent[name] = {_identity(r) for r in repeated if r["step"] <= has}
                    for earlier in before:
                        if earlier["step"] > has:
                            _send(tracker, earlier)
            except Exception as error:
                self._open.pop(name, None)
                self.lines.append(_failure(name, error))
            else:
                self.lines.append(f"Tracked by {name}: {tracker.place}")

    def __call__(self, event: Event) -> None:
        """Pass the record of an event on, and the result at the end."""
        if record := as_record(event):
            for name in tuple(self._open):
                if _identity(record) not in self._sent[name]:
                    self._guard(name, lambda tracker: _send(tracker, record))
        elif isinstance(event, Ended):
            values = {
                "best_val_loss": event.result.best_val_loss,
                "val_loss": event.result.val_loss,
                "steps": event.result.steps,
                "ended_by": event.result.ended_by,
            }
            present = {name: value for name, value in values.items() if value is not None}
            for name in tuple(self._open):
                self._guard(name, lambda tracker: tracker.summary(event.step, present))

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for name in tuple(self._open):
            with bar(f"Closing {name}", None):
                self._guard(name, lambda tracker: tracker.close(failed=kind is not None))

    def _guard(self, name: str, action: Callable[[Tracker], None]) -> None:
        try:
            action(self._open[name])
        except Exception as error:
            del self._open[name]
            self.report(_failure(name, error))


def _is_id(stored: object) -> bool:
    """Whether a header holds an id as it is made here. Trackers make paths of it."""
    return (
        isinstance(stored, str)
        and len(stored) == ID_LENGTH
        and set(stored) <= {*"0123456789abcdef"}
    )


def _failure(name: str, error: Exception) -> str:
    reason = textwrap.shorten(str(error) or repr(error), 200, placeholder="...")
    return f"{name} tracks this run no longer ({reason}); the run and its own records go on."


def _lines(record: Path) -> Iterator[Line]:
    if record.exists():
        yield from read_lines(record, on_damage=lambda error: None)


def _identity(record: Record) -> object:
    """The same for the record of the same event in a repeated part of a run."""
    kind = next((field for field in SECTIONS if field in record), None)
    return record["step"], kind, record.get("prompt"), record.get("cause")


def _send(tracker: Tracker, record: Record) -> None:
    """Give a record to a tracker."""
    step = record["step"]
    if "text" in record:
        prompt = textwrap.shorten(record["prompt"], LONGEST_NAME, placeholder="...")
        tracker.text(step, f"sample/{prompt or 'no prompt'}", record["prompt"] + record["text"])
    elif "advice" in record:
        tracker.text(step, "advice", f"{record['cause']}: {record['advice']}")
    elif section := next((SECTIONS[field] for field in SECTIONS if field in record), None):
        values = {
            f"{section}/{field}": float(value)
            for field, value in record.items()
            if field != "step" and is_number(value)
        }
        tracker.numbers(step, values)
