"""Files of text flow in; the facts of the documents in each are kept in a file of their own, from which they flow out.

Machines that share a folder can so read a text together, each some of its files. A file of facts is complete or absent.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from homespun import durable
from homespun.data import facts
from homespun.data.facts import PACKED, TOGETHER, Fact, packed_facts, unpacked
from homespun.data.processes import Workers
from homespun.errors import UserError, cannot_read

_DIGEST_BYTES = hashlib.sha256().digest_size


def keep_facts(
    texts: Sequence[tuple[Path, Path]],
    block: int,
    n_workers: int,
    advance: Callable[[float], None],
) -> None:
    """Read files of text in several processes, and keep the facts of their documents.

    Args:
        texts: each file of text, and the file for its facts.
        block: see `documents.read`.
        n_workers: number of processes.
        advance: gets the bytes of documents that have been read, in any order.

    Raises:
        UserError: a file breaks the policy of `documents`, or a process has ended.
        OSError: facts cannot be written.
    """
    with (
        ThreadPoolExecutor(n_workers) as pool,
        Workers(facts.__name__, n_workers) as workers,  # ends first, and so all threads
    ):
        lock = threading.Lock()

        def count(n_bytes: int) -> None:
            with lock:
                advance(n_bytes)

        def keep(text: Path, kept: Path) -> None:
            identity = hashlib.sha256()
            with durable.replacing(kept) as file:
                for packed in packed_facts(text, block, workers, count):
                    file.write(packed)
                    identity.update(packed)
                file.write(identity.digest())

        tasks = [pool.submit(keep, *one) for one in texts]
        try:
            for task in tasks:
                task.result()
        finally:
            for task in tasks:
                task.cancel()


def kept_facts(kept: Path) -> Iterator[Fact]:
    """The facts in such a file.

    Raises:
        UserError: it cannot be read, or is damaged. This may be known only at the end.
    """
    try:
        with kept.open("rb") as file:
            yield from unpacked(_checked(file, kept))
    except OSError as error:
        raise cannot_read(error, f"{kept}: cannot be read") from None


def _checked(file: BinaryIO, kept: Path) -> Iterator[bytes]:
    """The facts in blocks."""
    left = kept.stat().st_size - _DIGEST_BYTES
    identity = hashlib.sha256()
    while left > 0 and left % PACKED.itemsize == 0:
        block = file.read(min(left, TOGETHER * PACKED.itemsize))
        if not block:
            break
        identity.update(block)
        yield block
        left -= len(block)
    if left or file.read() != identity.digest():
        raise UserError(f"{kept}: damaged; delete it, and run this again")
