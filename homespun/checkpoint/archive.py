"""Arrays and a JSON header flow in, one `.npz` file flows out that plain `np.load` can read; reading checks every byte.

The numbers of an array may be stored in bfloat16, as their 16 bits, and are read in float32.

The last member of the file, `manifest.json`, states the name, shape, dtype and SHA-256 of each array. The zip format is
written here in its simplest form (stored, always ZIP64, no dates) and not by `zipfile`, so that all bytes outside the
arrays follow from the manifest. Reading is then a comparison: any difference is refused, whether its cause is damage or
malice, and no length, type or path that a file claims is trusted.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import struct
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from homespun import durable
from homespun.bfloat16 import bits_of, from_bfloat16
from homespun.errors import UserError, cannot_write
from homespun.named_array import NamedArray

Kind = Literal["weights", "state"]

SCHEMA = 1
MANIFEST = "manifest.json"
MANIFEST_LIMIT = 1 << 28
"""Bytes. The largest part is the tokenizer, which takes about 100 MB for a million tokens."""
STRUCTURE_LIMIT = 1 << 16
"""Bytes of a header outside its strings, see `check_structure`. The position of a long run takes some 15,000."""

DTYPES = frozenset(
    ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
)
BFLOAT16 = "bfloat16"
NAME = re.compile(r"(?!\.{1,2}(/|$))[\w.-]+(/(?!\.{1,2}(/|$))[\w.-]+)*", re.ASCII)
"""One or more parts, separated by '/'; no part is '.' or '..'."""


_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


class CheckpointError(UserError):
    """A checkpoint cannot be read: it is missing, damaged, incomplete, or not a checkpoint of this project."""


@dataclass(frozen=True)
class ArrayInfo:
    """The manifest's entry for one array.

    Raises:
        ValueError: the name, shape or dtype is not allowed in a checkpoint.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    """NumPy's name of the type, such as `<f4`."""
    holds: str = ""
    """`bfloat16` where the integers `<u2` are the bits of such numbers; NumPy has no name for these."""
    crc32: int = 0
    """CRC-32 of the whole member, as the zip format requires."""
    sha256: str = ""
    """SHA-256 of the bytes of the array, without the header."""

    def __post_init__(self) -> None:
        if len(self.name) > 1000 or not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is not a name for an array")
        if self.dtype not in DTYPES:
            raise ValueError(f"{self.name}: arrays of {self.dtype!r} are not stored")
        if self.holds not in ("", BFLOAT16) or (self.holds and self.dtype != "<u2"):
            raise ValueError(f"{self.name}: {self.dtype!r} cannot hold {self.holds!r}")
        if len(self.shape) > 32 or any(type(size) is not int or size < 0 for size in self.shape):
            raise ValueError(f"{self.name}: {self.shape} is not a shape")
        if math.prod(max(size, 1) for size in self.shape) > sys.maxsize // 8:
            raise ValueError(f"{self.name}: {self.shape} is beyond any memory")
        if type(self.crc32) is not int or self.crc32 >> 32:
            raise ValueError(f"{self.name}: {self.crc32!r} is not a CRC-32")

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(self.dtype[2:])

    def entry(self) -> dict[str, Any]:
        """The entry as JSON holds it."""
        values = dataclasses.asdict(self)
        return values if self.holds else {k: v for k, v in values.items() if k != "holds"}

    @property
    def npy_header(self) -> bytes:
        """The header of a `.npy` file, format 1.0; its length is a multiple of 64 bytes."""
        text = f"{{'descr': '{self.dtype}', 'fortran_order': False, 'shape': {self.shape}, }}"
        text += " " * (-(len(text) + 11) % 64) + "\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("ascii")


@dataclass(frozen=True)
class Archive:
    """An open file. Everything except the arrays has been checked; each array is checked when it is read."""

    path: Path
    kind: Kind
    step: int
    header: dict[str, Any]
    arrays: dict[str, ArrayInfo]
    sha256: str
    """SHA-256 of the manifest, which identifies the content of the whole file."""

    def tensors(self) -> Iterator[NamedArray]:
        """Stream the arrays in the order of the file, with one at a time in memory; numbers in bfloat16 as float32.

        Raises:
            CheckpointError: an array differs from the manifest, or the file was replaced after `read_archive`.
        """
        for info, tensor in self._stored():
            yield info.name, from_bfloat16(tensor) if info.holds else tensor

    def _stored(self) -> Iterator[tuple[ArrayInfo, npt.NDArray[Any]]]:
        """The arrays as they are stored; raises as `tensors`."""
        with _readable(self.path) as file:
            file.seek(-len(self.sha256), os.SEEK_END)
            if file.read() != self.sha256.encode():
                raise CheckpointError(
                    f"{self.path} was replaced while it was being read: try again"
                )
            file.seek(0)
            for info in self.arrays.values():
                expected = _Member.of(info).header + info.npy_header
                tensor = np.empty(info.shape, info.dtype)
                data = _bytes_of(tensor)
                whole = file.read(len(expected)) == expected and file.readinto(data) == info.nbytes
                if not whole or hashlib.sha256(data).hexdigest() != info.sha256:
                    raise _damaged(self.path, f"the array {info.name}")
                yield info, tensor

    def verify(self) -> None:
        """Read and check all arrays.

        Raises:
            CheckpointError: the file is damaged.
        """
        for _ in self._stored():
            pass


def check_structure(text: str, limit: int) -> None:
    """Refuse a JSON text that would take far more memory than its size. Call this before it is parsed.

    A parsed value can take 30 times its text, such as an empty list, but a string takes at most four times.

    Args:
        text: the JSON text, which may be damaged.
        limit: the largest number of characters outside of its strings.

    Raises:
        ValueError: the text has more of them.
    """
    end = outside = 0
    for string in _STRING.finditer(text):
        outside += string.start() - end + 2  # with its quotation marks
        end = string.end()
        if outside > limit:
            break
    else:
        outside += len(text) - end
    if outside > limit:
        raise ValueError(f"more than {limit:,} characters outside of strings")


def write_archive(
    path: Path,
    tensors: Iterable[NamedArray],
    header: dict[str, Any],
    *,
    kind: Kind = "weights",
    step: int = 0,
    narrow: Collection[str] = (),
) -> str:
    """Write an archive atomically: even after a power cut, `path` is either the earlier file or the complete new one.

    One array at a time is in memory. Equal contents give equal bytes.

    Args:
        path: the file.
        tensors: the arrays.
        header: facts to store beside them, as JSON.
        kind: weights or training state.
        step: the training step.
        narrow: the names of arrays in float32 that are stored in bfloat16, in half the space.

    Returns:
        The SHA-256 of the manifest, by which another file can refer to this one.

    Raises:
        DiskFullError: the disk is full; an earlier file is still there.
        UserError: the file cannot be written for another reason, such as a read-only folder; an earlier file is still
            there.
        ValueError: the header is not JSON, a name is not allowed or occurs twice, a dtype is not a number, or a number
            that is to be stored in bfloat16 is not exact there.
    """
    facts = {"schema": SCHEMA, "kind": kind, "step": step, "header": header}
    try:
        with durable.replacing(path) as file:
            sha256 = _write(file, tensors, facts, narrow)
    except OSError as error:
        raise cannot_write(
            error,
            f"{path} could not be saved",
            "choose another folder",
        ) from error
    return sha256


def read_archive(path: Path) -> Archive:
    """Open an archive and check everything except the arrays. No memory is allocated for them yet.

    Raises:
        CheckpointError: there is no such file, it is not a checkpoint, or it is damaged.
    """
    with _readable(path) as file:
        length = file.seek(0, os.SEEK_END)
        manifest = _find_manifest(path, file, length)
        archive = _parse(path, manifest, length)
        if sum(info.nbytes for info in archive.arrays.values()) > length:
            raise CheckpointError(
                f"{path} is not a checkpoint: its arrays would be larger than the file"
            )
        start, ending = ending_of(archive.arrays.values(), manifest)
        if start + len(ending) != length or _read_at(file, start, len(ending)) != ending:
            raise _damaged(path, "the directory of the zip")
    return archive


def read_as(path: Path, kind: Kind, step: int | None = None) -> Archive:
    """Open an archive of this kind and, if one is given, of this step. Raises as `read_archive`."""
    archive = read_archive(path)
    if archive.kind != kind:
        raise CheckpointError(f"{path} holds {archive.kind}, not {kind}: name another file")
    if step is not None and archive.step != step:
        raise CheckpointError(f"{path} was saved at step {archive.step}: rename it accordingly")
    return archive


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[BufferedReader]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error


def _read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _bytes_of(array: npt.NDArray[np.generic]) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def _damaged(path: Path, part: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged ({part}): use another checkpoint")


def _write(
    file: BinaryIO,
    tensors: Iterable[NamedArray],
    manifest: dict[str, Any],
    narrow: Collection[str],
) -> str:
    arrays: dict[str, ArrayInfo] = {}
    for name, tensor in tensors:
        stored = bits_of(np.asarray(tensor, np.float32)) if name in narrow else tensor
        info = ArrayInfo(
            name, stored.shape, stored.dtype.str, holds=BFLOAT16 if name in narrow else ""
        )
        if name in arrays:
            raise ValueError(f"{name} occurs twice")
        data = _bytes_of(np.asarray(stored, order="C"))
        arrays[name] = info = dataclasses.replace(
            info,
            crc32=zlib.crc32(data, zlib.crc32(info.npy_header)),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        file.write(_Member.of(info).header + info.npy_header)
        file.write(data)
    manifest["arrays"] = [info.entry() for info in arrays.values()]
    text = json.dumps(manifest, allow_nan=False).encode("ascii")
    _, ending = ending_of(arrays.values(), text)
    file.write(ending)
    return hashlib.sha256(text).hexdigest()


def _find_manifest(path: Path, file: BinaryIO, length: int) -> bytes:
    """Read the last member. Its entry in the directory of the zip is at a fixed distance from the end of the file."""
    blank = _Member(MANIFEST, 0, 0)
    end = _end_marks(0, 0, 0, hashlib.sha256().hexdigest())
    entry = blank.entry(0)
    last = _read_at(file, max(length - len(end) - len(entry), 0), len(entry))
    if not last.startswith(entry[:4]) or len(last) < len(entry):
        raise CheckpointError(f"{path} is not a checkpoint of homespun, or its end is missing")
    size, _, offset = struct.unpack("<3Q", last[-24:])
    if size > MANIFEST_LIMIT or offset + size > length:
        raise _damaged(path, "the directory of the zip")
    manifest = _read_at(file, offset + len(blank.header), size)
    sha256 = hashlib.sha256(manifest).hexdigest()
    if _read_at(file, length - len(sha256), len(sha256)) != sha256.encode():
        raise _damaged(path, "the manifest")
    return manifest


def _parse(path: Path, text: bytes, length: int) -> Archive:
    """The content of a manifest, in a file of `length` bytes.

    Raises:
        CheckpointError: it is no manifest, or would take far more memory than the file.
    """
    try:
        manifest_text = text.decode("ascii")
        # Each array takes four times as much of the file as of the structure of the manifest.
        check_structure(manifest_text, STRUCTURE_LIMIT + (length - len(text)) // 4)
        manifest = json.loads(manifest_text, parse_constant=_refuse_constant)
        if manifest["schema"] != SCHEMA:
            raise CheckpointError(
                f"{path} was written by another version of homespun: read it with that version"
            )
        listed = [
            ArrayInfo(**{**entry, "shape": tuple(entry["shape"])}) for entry in manifest["arrays"]
        ]
        kind, step, header = manifest["kind"], manifest["step"], manifest["header"]
        if kind not in get_args(Kind) or type(step) is not int or not isinstance(header, dict):
            raise ValueError("a field has the wrong type")
        if not 0 <= step < 2**63:
            raise ValueError(f"step {step}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a checkpoint: its manifest is wrong") from error
    arrays = {info.name: info for info in listed}
    return Archive(path, kind, step, header, arrays, hashlib.sha256(text).hexdigest())


def _refuse_constant(name: str) -> None:
    """NaN and infinity are not JSON, and `write_archive` refuses them."""
    raise ValueError(name)


# The zip format: sections 4.3.7 to 4.3.16 and 4.5.3 of https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT

ZIP64 = 45
"""The first version of the zip format with 64-bit sizes."""
STORED = 0
FIRST_OF_1980 = (0, 0x21)
SEE_ZIP64 = 0xFFFFFFFF
"""Placeholder for a number that is stored elsewhere in 64 bits."""


class _Member(NamedTuple):
    """A file inside the zip."""

    name: str
    crc32: int
    size: int

    @classmethod
    def of(cls, info: ArrayInfo) -> "_Member":
        return cls(f"{info.name}.npy", info.crc32, len(info.npy_header) + info.nbytes)

    @property
    def header(self) -> bytes:
        """The local header, which precedes the bytes of the member."""
        start = struct.pack("<4sH", b"PK\3\4", ZIP64)
        sizes = struct.pack("<2H2Q", 1, 16, self.size, self.size)
        return start + self._common(len(sizes)) + self.name.encode() + sizes

    def entry(self, offset: int) -> bytes:
        """The entry in the directory, for a member whose local header is at `offset`."""
        start = struct.pack("<4s2H", b"PK\1\2", ZIP64, ZIP64)
        rest = struct.pack("<3H2I", 0, 0, 0, 0, SEE_ZIP64)
        sizes = struct.pack("<2H3Q", 1, 24, self.size, self.size, offset)
        return start + self._common(len(sizes)) + rest + self.name.encode() + sizes

    def _common(self, extra_length: int) -> bytes:
        crc_and_sizes = (self.crc32, SEE_ZIP64, SEE_ZIP64)
        lengths = (len(self.name), extra_length)
        return struct.pack("<4H3I2H", 0, STORED, *FIRST_OF_1980, *crc_and_sizes, *lengths)


def _end_marks(count: int, offset: int, length: int, comment: str) -> bytes:
    """The end of the zip, whose directory lists `count` members in `length` bytes at `offset`."""
    zip64 = struct.pack(
        "<4sQ2H2I4Q", b"PK\6\6", 44, ZIP64, ZIP64, 0, 0, count, count, length, offset
    )
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, offset + length, 1)
    end = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, SEE_ZIP64, SEE_ZIP64, len(comment)
    )
    return zip64 + locator + end + comment.encode()


def ending_of(arrays: Collection[ArrayInfo], manifest: bytes) -> tuple[int, bytes]:
    """The end of the arrays as an offset, and the bytes that follow them.

    These are the manifest, the directory, and the end of the zip with the SHA-256 of the manifest as its comment.
    """
    start = 0
    directory = bytearray()
    for member in map(_Member.of, arrays):
        directory += member.entry(start)
        start += len(member.header) + member.size
    last = _Member(MANIFEST, zlib.crc32(manifest), len(manifest))
    directory += last.entry(start)
    head = last.header + manifest
    comment = hashlib.sha256(manifest).hexdigest()
    return start, head + directory + _end_marks(
        len(arrays) + 1, start + len(head), len(directory), comment
    )
