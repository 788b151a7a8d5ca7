"""Documents flow in; the hash, the size and the marks of each flow out, in the same order.

Where there are several files, several processes can read a file each. A message to them names a file; the answers hold
the facts of its documents, and an empty one ends them.
"""

import contextlib
import hashlib
import json
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

import numpy as np

from homespun.data.documents import read
from homespun.data.files import opened
from homespun.data.processes import Workers, receive, send, send_error, work
from homespun.errors import UserError
from homespun.tokenizer import END_OF_TEXT

FACTS = b"some"
TOGETHER = 4096
"""Documents whose facts are sent in one answer."""
IN_MEMORY = 1 << 24
"""Bytes of the facts of a file that is read ahead. More are kept on the disk."""
_PACKED = np.dtype([("sha256", "V32"), ("n_bytes", "<u4"), ("n_marks", "<u4")])


class Fact(NamedTuple):
    """All that a survey needs to know of a document."""

    sha256: bytes
    n_bytes: int
    n_marks: int
    """End-of-text marks inside the document, where they are ordinary text."""


def facts_of(documents: Iterable[str], advance: Callable[[float], None]) -> Iterator[Fact]:
    """The facts of documents. `advance` gets the bytes of each."""
    for document in documents:
        encoded = document.encode()
        advance(len(encoded))
        yield Fact(hashlib.sha256(encoded).digest(), len(encoded), document.count(END_OF_TEXT))


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
            yield from _unpacked(facts)
            facts.close()


def _collect(
    path: Path, block: int, workers: Workers, facts: IO[bytes], advance: Callable[[int], None]
) -> None:
    """Let a worker read a file, and keep the facts of its documents."""
    with workers.one() as worker:
        worker.ask(json.dumps([str(path), block]).encode())
        while packed := worker.answer().removeprefix(FACTS):
            facts.write(packed)
            advance(int(np.frombuffer(packed, _PACKED)["n_bytes"].sum(dtype=np.int64)))
    facts.seek(0)


def _unpacked(packed: IO[bytes]) -> Iterator[Fact]:
    while some := packed.read(TOGETHER * _PACKED.itemsize):
        for sha256, n_bytes, n_marks in np.frombuffer(some, _PACKED).tolist():
            yield Fact(sha256, n_bytes, n_marks)


def serve(messages: BinaryIO, answers: BinaryIO) -> None:
    """Read files for another process."""
    while (message := receive(messages)) is not None:
        name, block = json.loads(message)
        try:
            with opened(Path(name)) as file:
                documents = (document for document, _ in read(file, name, block=block))
                _send(facts_of(documents, lambda n_bytes: None), answers)
        except UserError as error:
            send_error(answers, error)


def _send(facts: Iterator[Fact], answers: BinaryIO) -> None:
    """Send facts, and the end of them."""
    some: list[Fact] = []
    for fact in facts:
        some.append(fact)
        if len(some) == TOGETHER:
            send(answers, FACTS, np.array(some, _PACKED).tobytes())
            some = []
    if some:
        send(answers, FACTS, np.array(some, _PACKED).tobytes())
    send(answers, FACTS)


if __name__ == "__main__":
    work(serve)
