"""A GGUF file flows in, its metadata and the places of its tensors flow out.

The reader of the `gguf` library believes every count in a file, and takes seconds for a large vocabulary. Here nothing
is read or allocated that the file has no bytes for.
"""

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from homespun.config.checked import shown
from homespun.errors import UserError
from homespun.model_formats.numbers import Floats

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""NumPy's types of the numbers in metadata, by their codes."""
ALIGNMENT = 32
MAX_ENTRIES = 10_000
"""Of the metadata, which has some dozens."""
MAX_STRINGS = 1 << 22
"""In an array; the longest is the vocabulary."""

TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    8: ("Q8_0", 32, 34),
    30: ("BF16", 1, 2),
}
"""Name, numbers in a block, and bytes of a block, by code."""


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file."""

    path: Path
    name: str
    shape: tuple[int, ...]
    """Rows first, as in NumPy."""
    kind: str
    """The number format, named as in `TENSOR_TYPES`."""
    offset: int
    """Bytes from the beginning of the file."""
    nbytes: int

    def read_floats(self) -> Floats:
        """The values as float32.

        Raises:
            UserError: the file has become shorter.
        """
        from gguf import GGMLQuantizationType, dequantize

        raw = np.empty(self.nbytes, np.uint8)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            if file.readinto(raw.data) < self.nbytes:
                raise UserError(f"{self.path}: its end is missing: get it again")
        with np.errstate(all="ignore"):  # a scale of a damaged file may be no number
            values = dequantize(_typed(raw, self.kind), GGMLQuantizationType[self.kind])
        return np.asarray(values, np.float32).reshape(self.shape)


def _typed(raw: npt.NDArray[np.uint8], kind: str) -> npt.NDArray[Any]:
    """The bytes as the library expects them: plain numbers as such, blocks as bytes."""
    plain = {"F32": "<f4", "F16": "<f2"}
    return raw.view(plain[kind]) if kind in plain else raw


@dataclass(frozen=True)
class GGUFFile:
    """The head of a file."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read_gguf(path: Path) -> GGUFFile:
    """Read the metadata of a file and the places of its tensors.

    Raises:
        UserError: there is no such file, it is damaged, or it has a kind of tensor that is not supported.
    """
    try:
        with path.open("rb") as file:
            return _Reader(path, file).read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, struct.error) as error:
        raise UserError(f"{path}: damaged or no GGUF file ({error}): get it again") from None


class _Reader:
    def __init__(self, path: Path, file: BinaryIO):
        self._path, self._file = path, file
        self._size = os.fstat(file.fileno()).st_size
        self._at = 0

    def read(self) -> GGUFFile:
        if self._take(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self._number("<u4")
        if version not in VERSIONS:
            raise ValueError(f"version {version}")
        n_tensors, n_entries = self._number("<u8"), self._number("<u8")
        if n_entries > MAX_ENTRIES:
            raise ValueError(f"{n_entries:,} entries of metadata")
        metadata: dict[str, Any] = {}
        for _ in range(n_entries):
            key = self._name()
            if key in metadata:
                raise ValueError(f"{key} occurs twice")
            metadata[key] = self._value(self._number("<u4"))
        described = [self._description() for _ in range(self._count(n_tensors, 24))]
        return GGUFFile(self._path, metadata, self._placed(described, metadata))

    def _placed(
        self, described: list[tuple[str, tuple[int, ...], int, int]], metadata: dict[str, Any]
    ) -> dict[str, Tensor]:
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise ValueError(f"an alignment of {shown(alignment)}")
        start = -(-self._at // alignment) * alignment
        tensors: dict[str, Tensor] = {}
        for name, shape, code, offset in described:
            if code not in TENSOR_TYPES:
                known = ", ".join(kind for kind, _, _ in TENSOR_TYPES.values())
                raise UserError(
                    f"{self._path}: {name} has numbers of type {code}: get a file of {known}"
                )
            kind, in_block, block_bytes = TENSOR_TYPES[code]
            if name in tensors or not shape or shape[-1] % in_block:
                raise ValueError(f"the tensor {name}")
            nbytes = math.prod(shape) // in_block * block_bytes
            if start + offset + nbytes > self._size:
                raise ValueError(f"the tensor {name} would end after the file")
            tensors[name] = Tensor(self._path, name, shape, kind, start + offset, nbytes)
        return tensors

    def _description(self) -> tuple[str, tuple[int, ...], int, int]:
        name, n_dims = self._name(), self._number("<u4")
        if n_dims > 4:
            raise ValueError(f"{name} has {n_dims} dimensions")
        shape = tuple(self._number("<u8") for _ in range(n_dims))[::-1]
        return name, shape, self._number("<u4"), self._number("<u8")

    def _value(self, code: int) -> Any:
        if code == STRING:
            return self._string()
        if code != ARRAY:
            return self._number(self._dtype(code))
        item, stated = self._number("<u4"), self._number("<u8")
        if item == STRING:
            count = self._count(stated, 8)
            if count > MAX_STRINGS:
                raise ValueError(f"{count:,} strings")
            return [self._string() for _ in range(count)]
        dtype = np.dtype(self._dtype(item))
        count = self._count(stated, dtype.itemsize)
        return np.frombuffer(self._take(count * dtype.itemsize), dtype)

    def _dtype(self, code: int) -> str:
        if code not in SCALARS:
            raise ValueError(f"metadata of type {code}")
        return SCALARS[code]

    def _number(self, dtype: str) -> Any:
        kind = np.dtype(dtype)
        return np.frombuffer(self._take(kind.itemsize), kind)[0].item()

    def _name(self) -> str:
        name = self._string()
        if not name.isprintable():
            raise ValueError(f"the name {shown(name)}")
        return name

    def _string(self) -> str:
        return self._take(self._count(self._number("<u8"), 1)).decode("utf-8", "replace")

    def _count(self, stated: int, bytes_each: int) -> int:
        """A count for which the file has enough bytes."""
        if stated * bytes_each > self._size - self._at:
            raise ValueError(f"a count of {stated:,} at byte {self._at:,}")
        return stated

    def _take(self, n_bytes: int) -> bytes:
        data = self._file.read(n_bytes)
        if len(data) < n_bytes:
            raise ValueError("its end is missing")
        self._at += n_bytes
        return data
