"""Settings flow in; a table of speeds is printed while they are measured, and a report for others is written.

The report is written anew after each measurement, so that one that is interrupted has all that was measured.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.bench.measure import (
    PRECISIONS,
    TOKENS_PER_WEIGHT,
    Generation,
    LeftOut,
    MachineFacts,
    Training,
    generation,
    machine_facts,
    training,
)
from homespun.bench.subjects import Subject, chosen
from homespun.config import BenchConfig
from homespun.engine import select
from homespun.errors import UserError, cannot_write
from homespun.terminal import Say, bar, counted, duration, size

REPORT_VERSION = 1
"""Of the form of the report."""
Measured = Training | Generation | LeftOut


class Report:
    """Keeps the figures measured so far, in a file if one is named."""

    def __init__(self, config: BenchConfig) -> None:
        """
        Raises:
            UserError: the file exists, or its folder does not.
        """
        self._path = Path(config.report) if config.report else None
        settings = dataclasses.asdict(config)
        del settings["report"]  # a path may tell about its user
        self._content: dict[str, Any] = {
            "homespun_bench": REPORT_VERSION,
            "complete": False,
            "settings": settings,
            "machine": None,
            "training": [],
            "generation": [],
            "left_out": [],
        }
        if self._path is not None and self._path.exists():
            raise UserError(f"--report {self._path} exists: choose another name, or delete it")
        if self._path is not None and not self._path.parent.is_dir():
            raise UserError(f"--report {self._path}: there is no folder {self._path.parent}")

    def add(self, measured: Measured) -> None:
        """Note a measurement."""
        kind = {Training: "training", Generation: "generation", LeftOut: "left_out"}[type(measured)]
        self._content[kind].append(dataclasses.asdict(measured))
        self._write()

    def describe(self, facts: MachineFacts) -> None:
        """Note the machine."""
        self._content["machine"] = dataclasses.asdict(facts)
        self._write()

    def finish(self) -> None:
        """Note that nothing is missing."""
        self._content["complete"] = True
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        try:
            durable.write(self._path, (json.dumps(self._content, indent=2) + "\n").encode())
        except OSError as error:
            raise cannot_write(
                error, f"{self._path} cannot be written", "choose another --report"
            ) from error


def bench(config: BenchConfig, put: Say) -> None:
    """Measure, and print each result as soon as it is there.

    Args:
        put: prints a line.

    Raises:
        UserError: a name is unknown, the engine is not installed, or the report cannot be written.
    """
    subjects = chosen(config)
    report = Report(config)
    machine = select.machine(config.engine)
    works = [*(() if config.generation_only else ("training",)), *PRECISIONS]
    total = 1 + len(subjects) * len(works)
    with bar("Measuring", total) as advance:
        facts = machine_facts(config, machine)
        report.describe(facts)
        advance(1)
        for line in _described(facts):
            put(line)
        if not config.generation_only:
            put("")
            put(f"{TRAINING_TITLES}  {TOKENS_PER_WEIGHT} tokens a weight")
            for subject in subjects:
                measured = training(subject, config, machine, facts)
                report.add(measured)
                for line in _training_lines(subject, measured):
                    put(line)
                advance(1)
        put("")
        put(GENERATION_TITLES)
        for subject in subjects:
            row = []
            for precision in PRECISIONS:
                row.append(generation(subject, precision, config, machine, facts))
                report.add(row[-1])
                advance(1)
            put(_generation_line(subject, row))
            for one in row:
                if isinstance(one, LeftOut) and one.reason not in USUAL_REASONS:
                    put(f"  {one.what}: {one.reason}")
    report.finish()


MOST_LOAD = 0.2
"""Share of the processors that others may use before the measurement, without a note."""
NAME = 16
USUAL_REASONS = ("does not fit into memory", "too slow to measure")
TRAINING_TITLES = f"{'training':<{NAME}}{'weights':>10}{'tokens/s':>11}{'of peak':>9}{'memory':>9}"
GENERATION_TITLES = f"{'generation':<{NAME}}" + "".join(f"{name:>18}" for name in PRECISIONS)


def _described(facts: MachineFacts) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    peaks = ", ".join(
        f"{name} {peak / 1e9:,.0f} GFLOP/s" for name, peak in facts.peak_flops.items()
    )
    yield f"machine     {facts.processor}, {counted(facts.processors, 'processor')}, {size(facts.memory)}"
    yield f"system      {facts.system}"
    yield f"versions    {versions}"
    yield f"products    {peaks}, {counted(facts.threads, 'thread')}"
    yield f"memory      {facts.bandwidth / 1e9:,.0f} GB/s"
    if facts.load > MOST_LOAD * facts.processors:
        yield f"busy        other programs are running (load {facts.load:.1f}): all figures are too small"


def _training_lines(subject: Subject, measured: Training | LeftOut) -> Iterator[str]:
    if isinstance(measured, LeftOut):
        yield f"{subject.name:<{NAME}}{measured.reason}"
        return
    share = "" if measured.share_of_peak is None else f"{measured.share_of_peak:.0%}"
    weights = f"{measured.weights / 1e6:,.1f} M"
    yield (
        f"{subject.name:<{NAME}}{weights:>10}{measured.tokens_per_second:>11,.0f}{share:>9}"
        f"{size(measured.memory):>9}  {duration(measured.seconds)}"
    )
    if subject.published:
        one = subject.published
        yield f"  published: about {one.tokens_per_second:,.0f} tokens/s on an {one.machine} ({one.source})"


def _generation_line(subject: Subject, row: list[Generation | LeftOut]) -> str:
    cells = [
        f"{one.tokens_per_second:,.0f} ({one.share_of_bandwidth:.0%})"
        if isinstance(one, Generation)
        else "-"
        for one in row
    ]
    return f"{subject.name:<{NAME}}" + "".join(f"{cell:>18}" for cell in cells)
