"""Documents flow in; the hash, the size and the marks of each flow out, in the same order.

Where there are several files, several processes can read a file each. A message to them names a file; the answers hold
the facts of its documents, and an empty one ends them.
"""

import contextlib
import hashlib
import itertools
import json
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

import numpy as np

from homespun.data.documents import read
from homespun.data.files import opened
from homespun.data.processes import Workers, receive, send, send_error, work
from homespun.data.text_formats.cutting import Located
from homespun.errors import UserError
from homespun.tokenizer import END_OF_TEXT

FACTS = b"some"
TOGETHER = 4096
"""Documents whose facts are sent in one answer."""
IN_MEMORY = 1 << 24
"""Bytes of the facts of a file that is read ahead. More are kept on the disk."""
PACKED = np.dtype([("sha256", "V32"), ("n_bytes", "<u4"), ("n_marks", "<u4"), ("end", "<i8")])
"""A `Fact` as a message or a file holds it."""
NO_POSITION = -1


class Fact(NamedTuple):
    """All that a survey needs to know of a document."""

    sha256: bytes
    n_bytes: int
    n_marks: int
    """End-of-text marks inside the document, where they are ordinary text."""
    end: int
    """The position in the file after the document, see `documents.read`, or `NO_POSITION`."""


def facts_of(documents: Iterable[Located], advance: Callable[[float], None]) -> Iterator[Fact]:
    """The facts of documents. `advance` gets the bytes of each."""
    for document, position in documents:
        encoded = document.encode()
        advance(len(encoded))
        end = NO_POSITION if position is None else position
        sha256, n_marks = hashlib.sha256(encoded).digest(), document.count(END_OF_TEXT)
        yield Fact(sha256, len(encoded), n_marks, end)


def facts_in(
    files: Sequence[Path], block: int, n_workers: int, advance: Callable[[float], None]
) -> Iterator[Fact]:
    """The facts of the documents in several files, in their order, read by several processes.

    Args:
        files: text, .jsonl or .parquet.
        block: see `documents.read`.
        n_workers: number of processes.
        advance: gets the bytes of documents that have been read, in any order.

    Raises:
        UserError: a file breaks the policy of `documents`, or a process has ended.
    """
    lock = threading.Lock()

    def count(n_bytes: int) -> None:
        with lock:
            advance(n_bytes)

    with (
        ThreadPoolExecutor(n_workers) as pool,
        Workers(__name__, n_workers) as workers,  # ends first, and so all threads
        contextlib.ExitStack() as kept,
    ):
        pending: deque[tuple[Future[None], IO[bytes]]] = deque()
        waiting = deque(files)
        while waiting or pending:
            while waiting and len(pending) <= n_workers:
                facts: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
                kept.enter_context(facts)
                task = (waiting.popleft(), block, workers, facts, count)
                pending.append((pool.submit(_collect, *task), facts))
            future, facts = pending.popleft()
            future.result()
            yield from unpacked(iter(partial(facts.read, TOGETHER * PACKED.itemsize), b""))
            facts.close()


def _collect(
    path: Path, block: int, workers: Workers, facts: IO[bytes], advance: Callable[[int], None]
) -> None:
    """Keep the facts of the documents in a file."""
    facts.writelines(packed_facts(path, block, workers, advance))
    facts.seek(0)


def packed_facts(
    path: Path, block: int, workers: Workers, advance: Callable[[int], None]
) -> Iterator[bytes]:
    """Let a worker read a file. The facts of its documents come back in blocks, see `unpacked`.

    Raises:
        UserError: as for `facts_in`.
    """
    with workers.one() as worker:
        worker.ask(json.dumps([str(path), block]).encode())
        while packed := worker.answer().removeprefix(FACTS):
            yield packed
            advance(int(np.frombuffer(packed, PACKED)["n_bytes"].sum(dtype=np.int64)))


def unpacked(packed: Iterable[bytes]) -> Iterator[Fact]:
    """The facts in blocks of them."""
    for some in packed:
        yield from itertools.starmap(Fact, np.frombuffer(some, PACKED).tolist())


def serve(messages: BinaryIO, answers: BinaryIO) -> None:
    """Read files for another process."""
    while (message := receive(messages)) is not None:
        name, block = json.loads(message)
        try:
            with opened(Path(name)) as file:
                _send(facts_of(read(file, name, block=block), lambda n_bytes: None), answers)
        except UserError as error:
            send_error(answers, error)


def _send(facts: Iterator[Fact], answers: BinaryIO) -> None:
    """Send facts, and the end of them."""
    some: list[Fact] = []
    for fact in facts:
        some.append(fact)
        if len(some) == TOGETHER:
            send(answers, FACTS, np.array(some, PACKED).tobytes())
            some = []
    if some:
        send(answers, FACTS, np.array(some, PACKED).tobytes())
    send(answers, FACTS)


if __name__ == "__main__":
    work(serve)
