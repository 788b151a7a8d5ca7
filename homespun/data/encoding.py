"""Documents flow in, their ids flow out, encoded by several processes at a time.

The first message to a process is the tokenizer. Each further one holds documents; the answer is their ids.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from homespun.data.processes import Workers, receive, send, send_error, work
from homespun.errors import UserError
from homespun.tokenizer import Tokenizer

IDS = b"ids "
_NUMBER = struct.Struct("<Q")


class EncodingProcesses(Workers):
    """Processes that encode as one tokenizer does.

    `join` may be called from as many threads as there are processes. Its result does not depend on their number.
    """

    def __init__(self, tokenizer: Tokenizer, n: int) -> None:
        super().__init__(__name__, n, tokenizer.to_json().encode())
        self.sha256 = tokenizer.sha256
        self.vocab_size = tokenizer.vocab_size

    def join(self, documents: Iterable[str]) -> npt.NDArray[np.int32]:
        """See `Tokenizer.join`.

        Raises:
            UserError: a process has ended, or see `Tokenizer.join`.
        """
        with self.one() as worker:
            worker.ask(*pack(list(documents)))
            return np.frombuffer(worker.answer(), np.int32, offset=len(IDS))


def pack(texts: Sequence[str]) -> tuple[bytes, bytes, bytes]:
    """Texts as the parts of a message: their number, their lengths in bytes, their UTF-8."""
    encoded = [text.encode() for text in texts]
    lengths = np.array([len(text) for text in encoded], "<u4")
    return _NUMBER.pack(len(encoded)), lengths.tobytes(), b"".join(encoded)


def unpack(message: bytes) -> Iterator[str]:
    """The texts of such a message."""
    [n] = _NUMBER.unpack_from(message)
    begin = _NUMBER.size + 4 * n
    for length in np.frombuffer(message, "<u4", n, _NUMBER.size).tolist():
        yield message[begin : begin + length].decode()
        begin += length


def serve(messages: BinaryIO, answers: BinaryIO) -> None:
    """Encode for another process."""
    definition = receive(messages)
    if definition is None:
        return
    tokenizer = Tokenizer.from_json(definition.decode())
    while (message := receive(messages)) is not None:
        try:
            ids = tokenizer.join(unpack(message))
        except UserError as error:
            send_error(answers, error)
        else:
            send(answers, IDS, ids.tobytes())


if __name__ == "__main__":
    work(serve)
