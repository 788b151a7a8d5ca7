"""A text flows in; a folder with the documents that are kept flows out, and a report of the others.

The documents keep their order. They are written as .jsonl files of about `PART_BYTES`, and the folder gets its name
when it is complete. FOLDER.report.json beside it is the report. The number of processes makes no difference.
"""

import bisect
import contextlib
import functools
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from homespun import durable
from homespun.data.cleaning.duplicates import Duplicates, NearDuplicates, check_installed
from homespun.data.cleaning.examination import Examined, ExaminingProcesses, Wanted, examine
from homespun.data.documents import block_of, read
from homespun.data.files import bytes_to_read, files_to_read, opened
from homespun.data.manifest import Snapshot
from homespun.errors import UserError, cannot_write
from homespun.terminal import bar

PART_BYTES = 64_000_000
TOGETHER = 1 << 20
"""Bytes of documents that are examined at a time."""
N_EXAMPLES = 3
"""Of each reason, in the report."""
EXCERPT, SHOWN = 200, 40
"""Characters of an example, in the report and in the table."""
DUPLICATE, NEAR_DUPLICATE = "duplicate", "near duplicate"


@dataclass(frozen=True)
class Filters:
    """Which documents are left out."""

    poor: bool
    """See `rules`."""
    duplicates: bool
    near_duplicates: bool
    similarity: float
    """Of near duplicates, see `duplicates.NearDuplicates`."""


class Example(NamedTuple):
    """A document that was left out."""

    place: str
    text: str
    """Its beginning."""
    original: str | None
    """The place of the document that it is a copy of."""

    def __str__(self) -> str:
        if self.original:
            return f"{self.place}, like {self.original}"
        return f"{self.place}: {self.text[:SHOWN]!r}"


@dataclass
class Share:
    """Some of the documents."""

    documents: int = 0
    n_bytes: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, n_bytes: int) -> None:
        """Count a document."""
        self.documents += 1
        self.n_bytes += n_bytes

    def as_json(self) -> dict[str, Any]:
        """The same for a record."""
        examples = [example._asdict() for example in self.examples]
        return {"documents": self.documents, "bytes": self.n_bytes, "examples": examples}


@dataclass(frozen=True)
class Report:
    """The documents of a text that are kept, and the others by reason."""

    kept: Share = field(default_factory=Share)
    dropped: dict[str, Share] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The same for a record."""
        dropped = {reason: share.as_json() for reason, share in self.dropped.items()}
        return {"kept": self.kept.as_json(), "dropped": dropped}

    def losses(self) -> str:
        """The numbers of documents that were left out, in words."""
        return ", ".join(f"{reason}: {share.documents:,}" for reason, share in self.dropped.items())

    def table(self) -> list[str]:
        """Lines with the counts of each reason, and an example."""
        rows = [("kept", self.kept), *self.dropped.items()]
        width = max(len(name) for name, _ in rows)
        lines = [f"{'':<{width}}{'documents':>12}{'MB':>9}  example"]
        for name, share in rows:
            example = str(share.examples[0]) if share.examples else ""
            line = f"{name:<{width}}{share.documents:>12,}{share.n_bytes / 1e6:>9,.1f}  {example}"
            lines.append(line.rstrip())
        return lines


def clean(source: Path, output: Path, filters: Filters, n_workers: int = 1) -> Report | None:
    """Write the documents that pass the filters into a new folder.

    Args:
        source: a file, a folder, or a pattern; see `documents`.
        output: the folder.
        filters: which documents are left out.
        n_workers: number of processes that examine documents.

    Returns:
        The report, or None if the folder is there already, made from the same files with the same filters.

    Raises:
        UserError: the text cannot be read, nothing of it is left, the folder holds something else, or it cannot be
            written. Nothing is left behind.
    """
    if filters.near_duplicates:
        check_installed()
    if not output.name:
        raise UserError(f"--output {output}: name a new folder")
    files = files_to_read(source)
    if any(file.resolve().is_relative_to(output.resolve()) for file in files):
        raise UserError(f"{output} holds a part of {source}: choose another --output")
    request = {"source": str(source), "filters": asdict(filters)}
    snapshot = Snapshot(files)
    if output.exists():
        _check_same(output, request | {"files": snapshot.stats})
        return None
    report = Report()
    try:
        with durable.replacing_folder(output) as folder:
            parts = _Parts(folder)
            with parts, bar(f"Cleaning {source}", bytes_to_read(source)) as advance:
                _sort_out(files, filters, parts, report, advance, n_workers)
            if not snapshot.still_holds():
                raise UserError(f"{source}: changed while it was being read; run this again")
            if not report.kept.documents:
                losses = report.losses()
                raise UserError(
                    f"{source}: "
                    + (f"no document is left ({losses})" if losses else "there is no text in it")
                )
            durable.sync_folder(folder)
            durable.write_json(
                record_of(output),
                request | {"files": snapshot.stats, "parts": parts.sizes} | report.as_json(),
            )
            folder.rename(output)
            durable.sync_folder(output.parent)
    except OSError as error:
        raise cannot_write(
            error, f"{output}: the documents cannot be written", "choose another --output"
        ) from None
    return report


def record_of(output: Path) -> Path:
    """The report of a folder of documents."""
    return output.with_name(f"{output.name}.report.json")


def _check_same(output: Path, request: dict[str, Any]) -> None:
    """Make sure that a folder was made from the same text with the same settings, and is as it was made.

    Raises:
        UserError: it was not.
    """
    try:
        record = durable.read_json(record_of(output))
        sizes = {file.name: file.stat().st_size for file in output.iterdir()}
    except (OSError, durable.DamagedRecord):
        record, sizes = {}, {}
    if {name: record.get(name) for name in request} != request or record.get("parts") != sizes:
        raise UserError(
            f"{output} is there already, and was not made from this text with these settings: move it, or choose "
            "another --output"
        )


class _Parts:
    """The files of the documents that are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self.sizes: dict[str, int] = {}
        """Bytes of each file."""

    def __enter__(self) -> "_Parts":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def write(self, document: str) -> None:
        """Append a document."""
        if self._file is None:
            self._name = f"part-{len(self.sizes):05}.jsonl"
            self._file = (self._folder / self._name).open("xb")
            self.sizes[self._name] = 0
        line = json.dumps({"text": document}, ensure_ascii=False).encode() + b"\n"
        self._file.write(line)
        self.sizes[self._name] += len(line)
        if self.sizes[self._name] >= PART_BYTES:
            self._close()

    def _close(self) -> None:
        if self._file:
            with self._file as file:
                durable.sync(file)
            self._file = None


class _Places:
    """Where documents are, for people."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._files: list[Path] = []

    def begin(self, file: Path, number: int) -> None:
        """The document of this number is the first one of a file."""
        self._firsts.append(number)
        self._files.append(file)

    def place(self, number: int) -> str:
        """The place of a document."""
        at = bisect.bisect_right(self._firsts, number) - 1
        return f"{self._files[at]}, document {number - self._firsts[at] + 1:,}"


def _sort_out(
    files: Sequence[Path],
    filters: Filters,
    parts: _Parts,
    report: Report,
    advance: Callable[[float], None],
    n_workers: int,
) -> None:
    """Write the documents that are kept, and report the others."""
    places = _Places()
    duplicates = Duplicates() if filters.duplicates else None
    near_duplicates = NearDuplicates(filters.similarity) if filters.near_duplicates else None

    def judge(first: int, documents: Sequence[str], examined: Examined) -> None:
        for at, document in enumerate(documents):
            number, original = first + at, None
            reason = examined.fault(at)
            if reason is None and duplicates:
                original = duplicates.original(number, examined.sha256[at])
                reason = None if original is None else DUPLICATE
            if reason is None and near_duplicates:
                original = near_duplicates.original(number, examined.signatures[at])
                reason = None if original is None else NEAR_DUPLICATE
            n_bytes = len(document.encode())
            advance(n_bytes)
            if reason is None:
                report.kept.add(n_bytes)
                parts.write(document)
                continue
            share = report.dropped.setdefault(reason, Share())
            share.add(n_bytes)
            if len(share.examples) < N_EXAMPLES:
                like = None if original is None else places.place(original)
                share.examples.append(Example(places.place(number), _excerpt(document), like))

    with (
        _examiner(Wanted(filters.poor, filters.near_duplicates), n_workers) as examine_some,
        ThreadPoolExecutor(n_workers) as pool,
    ):
        pending: deque[tuple[int, list[str], Future[Examined]]] = deque()
        for first, documents in _groups(files, places):
            pending.append((first, documents, pool.submit(examine_some, documents)))
            if len(pending) > n_workers:
                first, documents, examined = pending.popleft()
                judge(first, documents, examined.result())
        for first, documents, examined in pending:
            judge(first, documents, examined.result())


@contextlib.contextmanager
def _examiner(wanted: Wanted, n_workers: int) -> Iterator[Callable[[Sequence[str]], Examined]]:
    """Examines in this process, or in several others."""
    if n_workers == 1:
        yield functools.partial(examine, wanted=wanted)
        return
    with ExaminingProcesses(wanted, n_workers) as processes:
        yield processes.examine


def _groups(files: Sequence[Path], places: _Places) -> Iterator[tuple[int, list[str]]]:
    """Some documents at a time, with the number of the first one."""
    block = block_of(files)
    number, n_bytes = 0, 0
    group: list[str] = []
    for path in files:
        places.begin(path, number + len(group))
        with opened(path) as file:
            for document, _ in read(file, str(path), block=block):
                group.append(document)
                n_bytes += len(document)
                if n_bytes >= TOGETHER:
                    yield number, group
                    number, n_bytes, group = number + len(group), 0, []
    if group:
        yield number, group


def _excerpt(document: str) -> str:
    return " ".join(document[: 4 * EXCERPT].split())[:EXCERPT]
