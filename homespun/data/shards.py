"""Token ids flow in, files flow out; back they come as one long sequence that stays on disk.

A shard is a header of 176 bytes followed by the ids: little-endian uint16 if the vocabulary fits, else uint32. The
header states the tokenizer and the text, and ends with a SHA-256 over the rest of the file, so any damage is found.

Ids are read from the file when they are needed. They are not mapped into memory, because the system ends a process that
touches a part of a mapping whose file has become shorter. Few files are open at a time, however many shards there are.
"""

import bisect
import hashlib
import os
import resource
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from homespun import durable
from homespun.errors import ResourceError, UserError, cannot_read

MAGIC = b"HSTOKENS"
VERSION = 1
_FIELDS = struct.Struct("<8sIIQQQQ32s32s32s")  # the SHA-256 follows
HEADER_BYTES = _FIELDS.size + hashlib.sha256().digest_size
_BLOCK = 1 << 20
MAX_OPEN_FILES = 64
"""The most shards that are open at a time."""


@dataclass(frozen=True)
class Header:
    """The facts that a shard states about its ids."""

    vocab_size: int
    n_tokens: int
    n_documents: int
    n_bytes: int
    """Bytes of text."""
    tokenizer_sha256: str
    data_sha256: str
    """Identity of the whole text that the shard is a part of."""
    text_sha256: str
    """Identity of the documents in this shard."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    def pack(self) -> bytes:
        return _FIELDS.pack(
            MAGIC,
            VERSION,
            self.dtype.itemsize,
            self.vocab_size,
            self.n_tokens,
            self.n_documents,
            self.n_bytes,
            bytes.fromhex(self.tokenizer_sha256),
            bytes.fromhex(self.data_sha256),
            bytes.fromhex(self.text_sha256),
        )


def write_shard(path: Path, ids: npt.NDArray[np.integer[Any]], header: Header) -> None:
    """Write a shard. Its name appears only when all of it is on the disk.

    Args:
        path: the file.
        ids: [n_tokens]
        header: the facts about the ids.

    Raises:
        OSError: the disk is full, ...; nothing is left behind.
        ValueError: an id is outside the vocabulary, or the header states another number of ids.
    """
    if len(ids) != header.n_tokens or not len(ids):
        raise ValueError(f"{len(ids)} ids, but the header says {header.n_tokens}")
    if ids.min() < 0 or ids.max() >= header.vocab_size:
        raise ValueError(f"ids from {ids.min()} to {ids.max()}, vocabulary of {header.vocab_size}")
    packed, payload = header.pack(), ids.astype(header.dtype).tobytes()
    digest = hashlib.sha256(packed + payload).digest()
    durable.write(path, packed, digest, payload)


FileState = tuple[int, int, int]
"""Size, modification time and inode of a file. An equal state means that the bytes are those verified before."""


def _state(descriptor: int) -> FileState:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns, found.st_ino


class _OpenFile:
    """An open file, which is closed when nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):  # it is missing if `os.open` has failed
            os.close(self.descriptor)


class _OpenFiles:
    """The files that were read last, which stay open for the next read."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: Path) -> _OpenFile:
        """The open file of a path.

        Raises:
            OSError: it cannot be opened.
        """
        with self._lock:
            if file := self._files.get(path):
                self._files.move_to_end(path)
                return file
            soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            while len(self._files) >= min(MAX_OPEN_FILES, max(1, soft_limit // 4)):
                self._files.popitem(last=False)
            file = self._files[path] = _OpenFile(path)
            return file

    def close(self, path: Path) -> None:
        """Open the path anew at the next read."""
        with self._lock:
            self._files.pop(path, None)


_open_files = _OpenFiles()


class Shard:
    """A shard on disk, as a sequence of ids."""

    def __init__(self, path: Path, header: Header, state: FileState) -> None:
        """`state` is that of the file when it was verified."""
        self.path = path
        self.header = header
        self._state = state

    def __len__(self) -> int:
        return self.header.n_tokens

    def __getitem__(self, window: slice) -> npt.NDArray[np.integer[Any]]:
        """The ids of a contiguous window, uint16 or uint32, read from the file.

        A file that has changed since it was verified is verified again.

        Raises:
            UserError: the file was truncated, damaged, replaced by other tokens or deleted, or cannot be read.
        """
        start, stop, _ = window.indices(len(self))
        itemsize = self.header.dtype.itemsize
        n_bytes, offset = max(0, stop - start) * itemsize, HEADER_BYTES + start * itemsize
        try:
            file = self._unchanged()
            read = os.pread(file.descriptor, n_bytes, offset)
            if len(read) < n_bytes:  # it became shorter just now
                raise self._changed(f"{self.path}: truncated token shard")
        except OSError as error:
            raise cannot_read(error, f"{self.path}: the token shard cannot be read") from None
        return np.frombuffer(read, self.header.dtype)

    def _unchanged(self) -> _OpenFile:
        """The open file, whose bytes have been verified."""
        file = _open_files.open(self.path)
        if _state(file.descriptor) == self._state:
            return file
        _open_files.close(self.path)  # another file may have this path by now
        try:
            again = open_shard(self.path)
        except ResourceError:
            raise
        except UserError as error:
            raise self._changed(str(error)) from None
        if again.header != self.header:
            raise self._changed(f"{self.path}: holds other tokens")
        self._state = again._state
        file = _open_files.open(self.path)
        if _state(file.descriptor) != self._state:
            raise self._changed(f"{self.path}: is being written")
        return file

    def _changed(self, problem: str) -> UserError:
        return UserError(
            f"{problem}: it has changed since this process started; the next start with this text makes it "
            "again (a run continues with --resume)"
        )


def open_shard(
    path: Path,
    *,
    tokenizer_sha256: str | None = None,
    data_sha256: str | None = None,
) -> Shard:
    """Verify a shard against its SHA-256 and its vocabulary.

    Args:
        path: the shard.
        tokenizer_sha256: the tokenizer that must have made it; None for any.
        data_sha256: the text that it must have been made from; None for any.

    Raises:
        UserError: the file is missing, not a shard, truncated, damaged, or of another tokenizer or text.
        ResourceError: there are too many open files.
    """
    try:
        with path.open("rb") as file:
            state = _state(file.fileno())
            header, digest = _read_header(file, path)
            if tokenizer_sha256 not in (None, header.tokenizer_sha256):
                made_by = header.tokenizer_sha256[:12]
                raise UserError(f"{path}: made by another tokenizer ({made_by})")
            if data_sha256 not in (None, header.data_sha256):
                raise UserError(f"{path}: made from other data ({header.data_sha256[:12]})")
            verify_ids(file, path, header, digest)
            return Shard(path, header, state)
    except OSError as error:
        raise cannot_read(error, f"{path}: the token shard cannot be read") from None


def _read_header(file: BinaryIO, path: Path) -> tuple[Header, bytes]:
    packed = file.read(HEADER_BYTES)
    if packed[: len(MAGIC)] != MAGIC:
        raise UserError(f"{path}: not a token shard")
    if len(packed) < HEADER_BYTES:
        raise UserError(f"{path}: truncated token shard")
    _, version, itemsize, vocab_size, n_tokens, n_documents, n_bytes, *hashes = _FIELDS.unpack_from(
        packed
    )
    if version != VERSION:
        raise UserError(f"{path}: token shard of version {version}, this is version {VERSION}")
    tokenizer, data, text = (sha256.hex() for sha256 in hashes)
    header = Header(vocab_size, n_tokens, n_documents, n_bytes, tokenizer, data, text)
    if itemsize != header.dtype.itemsize:
        raise UserError(
            f"{path}: damaged token shard "
            f"({itemsize} bytes per id for a vocabulary of {header.vocab_size:,})"
        )
    expected = HEADER_BYTES + header.n_tokens * itemsize
    length = os.fstat(file.fileno()).st_size
    if length != expected or not header.n_tokens:
        raise UserError(f"{path}: damaged token shard ({length:,} bytes, not {expected:,})")
    return header, packed[_FIELDS.size :]


def verify_ids(file: BinaryIO, path: Path, header: Header, digest: bytes) -> None:
    """Read the ids block by block, and compare them with the header."""
    hashed = hashlib.sha256(header.pack())
    largest = 0
    while block := file.read(_BLOCK):
        hashed.update(block)
        largest = max(largest, int(np.frombuffer(block, header.dtype).max()))
    if hashed.digest() != digest:
        raise UserError(f"{path}: damaged token shard (its SHA-256 differs)")
    if largest >= header.vocab_size:
        raise UserError(f"{path}: id {largest} in a vocabulary of {header.vocab_size:,}")


class Ids(Protocol):
    """A sequence of ids: a shard or an array."""

    def __len__(self) -> int: ...
    def __getitem__(self, window: slice, /) -> npt.NDArray[np.integer[Any]]: ...


class TokenStream:
    """The ids of several shards as one sequence."""

    def __init__(self, shards: Sequence[Ids]):
        self.shards = shards
        self._ends = list(accumulate(map(len, shards)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, window: slice) -> npt.NDArray[np.int32]:
        """The ids of a contiguous window, with the indices of a Python list."""
        start, stop, step = window.indices(len(self))
        if step != 1:
            raise ValueError(f"a window cannot have a step, but this one has {step}")
        return self.read(start, max(0, stop - start))

    def read(self, start: int, count: int) -> npt.NDArray[np.int32]:
        """`count` ids from `start` on, [count].

        Raises:
            IndexError: the stream does not contain all of them.
        """
        if min(start, count) < 0 or start + count > len(self):
            raise IndexError(f"tokens {start} to {start + count} of {len(self)}")
        ids = np.empty(count, np.int32)
        filled = 0
        shard = bisect.bisect_right(self._ends, start)
        while filled < count:
            at = start + filled - (self._ends[shard] - len(self.shards[shard]))
            part = self.shards[shard][at : at + count - filled]
            ids[filled : filled + len(part)] = part
            filled += len(part)
            shard += 1
        return ids
