"""Documents flow in, the file of a download flows out, with a record beside it.

An unfinished file is called OUTPUT.partial, and OUTPUT.partial.json beside it records the progress, so that another
process can continue after a kill. OUTPUT.json beside the finished file describes it.

A line of a document that is exactly `<|endoftext|>` gets a space in front, so that it stays text.
"""

import contextlib
import fcntl
import hashlib
import re
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.errors import UserError
from homespun.terminal import Say
from homespun.tokenizer import END_OF_TEXT

CHAT_SUFFIX = ".jsonl"
"""Of files of conversations."""
COMMIT = 1 << 20
"""Bytes of text between two records of the progress."""
Position = dict[str, Any]
"""A place in a dataset on the hub: commit, file, etag of the file, offset in the file."""


def is_as_downloaded(path: Path) -> bool | None:
    """Whether a text has the SHA-256 that was recorded at its download; None if there is no record of one.

    Raises:
        OSError: the text or its record cannot be read.
        DamagedRecord: the record is damaged.
    """
    sha256 = durable.read_json(record_of(path)).get("sha256")
    return None if sha256 is None else _sha256(path) == sha256


def record_of(output: Path) -> Path:
    """The file that describes a finished download."""
    return beside(output, ".json")


def finished_record(output: Path) -> dict[str, Any] | None:
    """The record of an earlier download, if its file is unchanged; None if there is no file.

    Raises:
        UserError: another file is in the way. It is not overwritten.
    """
    if not output.exists():
        return None
    try:
        record = durable.read_json(record_of(output))
    except durable.DamagedRecord as error:
        raise UserError(
            f"{output}: this file is in the way, and its record {error}; "
            "move both, or choose another --output"
        ) from None
    if output.is_file():
        sha256 = _sha256(output)
        if record.get("sha256") == sha256:
            return record
        if record.get("replaces") == sha256:
            return None  # a later download wrote its record and was killed before renaming its file
    if output.is_dir():
        raise UserError(f"{output}: this is a folder: name a file with --output")
    raise UserError(
        f"{output}: this file is in the way and is not an unchanged earlier download; "
        "move it, or choose another --output"
    )


class Partial:
    """The unfinished file, and the record of its progress.

    The record is written after the text that it covers is on the disk, and holds the SHA-256 of this text. Text beyond
    the record is cut off when another process continues. If record or text are damaged, the download starts over.
    """

    def __init__(self, output: Path, request: dict[str, Any], say: Say) -> None:
        self._output = output
        self._path = beside(output, ".partial")
        self._record_path = beside(output, ".partial.json")
        self._finished_path = record_of(output)
        self._request = request
        self._file = self._path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._path.exists():  # renamed by another download, which has just finished
                raise BlockingIOError
        except BlockingIOError:
            self._file.close()
            raise UserError(f"{output}: is being written by another download") from None
        ours = (self._record_path.name, self._finished_path.name)
        durable.remove_leftovers(output.parent, lambda name: name in ours)
        try:
            record = self._resumable()
        except durable.DamagedRecord as error:
            say(f"{output}: starting over, because {error}")
            record = None
        if record:
            self._file.truncate(record["bytes"])
            self._record = record
        else:
            self.start_over()
        self.was_resumed = self.position is not None
        self.n_documents: int = self._record["documents"]
        self._n_bytes = self._n_bytes_recorded = self._record["bytes"]

    def _resumable(self) -> dict[str, Any] | None:
        """The record of an earlier start of this download, and its text hashed; None if there is none.

        Raises:
            DamagedRecord: the record or its text is damaged.
        """
        record = durable.read_json(self._record_path)
        if record.get("request") != self._request:
            return None
        self._digest = _digest(self._path, record["bytes"])
        if self._digest.hexdigest() != record.get("sha256"):
            raise durable.DamagedRecord(f"{self._path} is damaged (its SHA-256 differs)")
        return record

    @property
    def position(self) -> Position | None:
        """The position after the documents in the file."""
        position: Position | None = self._record["position"]
        return position

    def start_over(self) -> None:
        """Empty the file."""
        self._record_path.unlink(missing_ok=True)
        self._file.truncate(0)
        self._digest = hashlib.sha256()
        self._record = {"request": self._request, "position": None, "documents": 0, "bytes": 0}
        self.n_documents = self._n_bytes = self._n_bytes_recorded = 0
        self.was_resumed = False

    def add(self, document: str, position: Position | None) -> None:
        """Append a document and its separator, or a conversation as a line."""
        mark = END_OF_TEXT
        if self._output.suffix == CHAT_SUFFIX:
            encoded = f"{document}\n".encode()
        else:
            if mark in document:
                document = re.sub(rf"^(?={re.escape(mark)}$)", " ", document, flags=re.MULTILINE)
            encoded = f"{document}\n{mark}\n".encode()
        self._n_bytes += self._file.write(encoded)
        self._digest.update(encoded)
        self.n_documents += 1
        if position is not None:
            self._record["position"] = position
            self._record["documents"] = self.n_documents
            self._record["bytes"] = self._n_bytes
            self._record["sha256"] = self._digest.hexdigest()
            if self._n_bytes - self._n_bytes_recorded >= COMMIT:
                self._commit()

    def _commit(self) -> None:
        durable.sync(self._file)
        durable.write_json(self._record_path, self._record)
        self._n_bytes_recorded = self._n_bytes

    def finish(self) -> dict[str, Any]:
        """Give the file its final name, and return the record beside it.

        Raises:
            UserError: the file is not as it was written.
        """
        durable.sync(self._file)
        sha256 = self._digest.hexdigest()
        if _sha256(self._path) != sha256:
            self.start_over()
            raise UserError(f"{self._path}: damaged while it was being written; run this again")
        finished = {
            "request": self._request,
            "source": self.position,
            "documents": self.n_documents,
            "bytes": self._n_bytes,
            "sha256": sha256,
            "replaces": _sha256(self._output) if self._output.exists() else None,
        }
        durable.write_json(self._finished_path, finished)
        self._path.replace(self._output)
        self._record_path.unlink(missing_ok=True)
        durable.sync_folder(self._output.parent)
        return finished

    def __enter__(self) -> "Partial":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with contextlib.suppress(OSError):  # such as a full disk, which `error` reports already
            if error and self.position:
                self._commit()
            elif error:
                self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._file.close()


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path, n_bytes: int) -> "hashlib._Hash":
    """The SHA-256 of the first bytes of a file, ready to be updated with the bytes that follow."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while n_bytes > 0 and (block := file.read(min(n_bytes, COMMIT))):
            digest.update(block)
            n_bytes -= len(block)
    return digest
