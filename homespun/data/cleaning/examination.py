"""Documents flow in; the facts by which they are kept or left out flow out. Several processes can examine them.

The first message to a process says which facts are wanted. Each further one holds documents; the answer holds an array
for each kind of fact.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from homespun.data.cleaning.duplicates import SAMPLES, Signatures, signatures
from homespun.data.cleaning.rules import REASONS, fault_of
from homespun.data.encoding import pack, unpack
from homespun.data.processes import Workers, receive, send, work

EXAMINED = b"exam"


@dataclass(frozen=True)
class Examined:
    """The facts about n documents."""

    sha256: list[bytes]
    faults: npt.NDArray[np.int32]
    """[n] The number of the reason to leave each out, see `rules.REASONS`, or -1."""
    signatures: Signatures
    """[n, SAMPLES], or [0, SAMPLES] if they are not wanted."""

    def fault(self, number: int) -> str | None:
        """The reason to leave a document out."""
        return REASONS[self.faults[number]] if self.faults[number] >= 0 else None


@dataclass(frozen=True)
class Wanted:
    """The facts that are wanted besides the hash."""

    faults: bool
    signatures: bool


def examine(documents: Sequence[str], wanted: Wanted) -> Examined:
    """The facts about some documents."""
    faults = [fault_of(document) if wanted.faults else None for document in documents]
    return Examined(
        [hashlib.sha256(document.encode()).digest() for document in documents],
        np.array([-1 if fault is None else REASONS.index(fault) for fault in faults], np.int32),
        signatures(documents if wanted.signatures else []),
    )


class ExaminingProcesses(Workers):
    """Processes that examine. `examine` may be called from as many threads as there are processes."""

    def __init__(self, wanted: Wanted, n: int) -> None:
        super().__init__(__name__, n, json.dumps([wanted.faults, wanted.signatures]).encode())
        self._has_signatures = wanted.signatures

    def examine(self, documents: Sequence[str]) -> Examined:
        """See the function of this name.

        Raises:
            UserError: a process has ended.
        """
        with self.one() as worker:
            worker.ask(*pack(documents))
            answer = worker.answer()
        n, at = len(documents), len(EXAMINED)
        faults = np.frombuffer(answer, np.int32, n, at)
        at += faults.nbytes
        n_signatures = n if self._has_signatures else 0
        numbers = np.frombuffer(answer, np.uint32, n_signatures * SAMPLES, at)
        at += numbers.nbytes
        sha256 = [answer[at + 32 * i : at + 32 * (i + 1)] for i in range(n)]
        return Examined(sha256, faults, numbers.reshape(n_signatures, SAMPLES))


def serve(messages: BinaryIO, answers: BinaryIO) -> None:
    """Examine for another process."""
    greeting: Any = receive(messages)
    wanted = Wanted(*json.loads(greeting))
    while (message := receive(messages)) is not None:
        found = examine(list(unpack(message)), wanted)
        arrays = (found.faults.tobytes(), found.signatures.tobytes())
        send(answers, EXAMINED, *arrays, *found.sha256)


if __name__ == "__main__":
    work(serve)
