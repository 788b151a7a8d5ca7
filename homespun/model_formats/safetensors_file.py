"""Tensors flow in, a `.safetensors` file flows out, and back.

The file begins with the length of a JSON header, which states the dtype, shape and place of each tensor. It is read and
written here, one tensor at a time: the `safetensors` library writes only tensors that are all in memory, and gives
NumPy no bfloat16.
"""

import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun import durable
from homespun.bfloat16 import from_bfloat16
from homespun.config.checked import shown
from homespun.errors import UserError
from homespun.model_formats.numbers import Floats

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
FLOATS = ("F64", "F32", "F16", "BF16")
NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint32": "U32"}

MAX_HEADER = 100_000_000
"""Bytes; the limit of the library."""
PLAIN = "format"
"""Entry of the metadata that `transformers` requires."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Bytes from the beginning of the file."""

    def read(self) -> npt.NDArray[Any]:
        """The stored numbers; bfloat16 as bits.

        Raises:
            UserError: the file has become shorter.
        """
        tensor = np.empty(self.shape, DTYPES[self.dtype])
        with self.path.open("rb") as file:
            file.seek(self.offset)
            if file.readinto(tensor.reshape(-1).view(np.uint8).data) != tensor.nbytes:
                raise UserError(f"{self.path}: its end is missing: get it again")
        return tensor

    def read_floats(self) -> Floats:
        """The values as float32."""
        stored = self.read()
        return from_bfloat16(stored) if self.dtype == "BF16" else stored.astype(np.float32)


def read_entries(path: Path) -> dict[str, Entry]:
    """The tensors in a file, of which only the header is read.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                raise _damaged(path, "its header would be longer than the file")
            header = json.loads(file.read(length))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise _damaged(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a table")
    header.pop("__metadata__", None)
    try:
        return _checked_entries(path, header, 8 + length, size)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"a tensor is not described ({error})") from None


def _checked_entries(
    path: Path, header: Mapping[str, Any], data_start: int, size: int
) -> dict[str, Entry]:
    entries = {}
    expected = 0
    for name, stated in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = stated["dtype"], tuple(stated["shape"])
        if not name.isprintable():
            raise ValueError(f"the name {shown(name)}")
        if dtype not in DTYPES:
            raise UserError(
                f"{path}: {name} has numbers of type {shown(dtype)}, which are not supported"
            )
        if len(shape) > 8 or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f"{name}: {shape}")
        begin, end = stated["data_offsets"]
        fits = begin == expected and end - begin == math.prod(shape) * DTYPES[dtype].itemsize
        if not (fits and type(begin) is type(end) is int):
            raise ValueError(f"{name}: offsets {begin} to {end}")
        entries[name] = Entry(path, dtype, shape, data_start + begin)
        expected = end
    if data_start + expected != size:
        raise _damaged(path, f"{data_start + expected:,} bytes are described, it has {size:,}")
    return entries


def _damaged(path: Path, fault: str) -> UserError:
    return UserError(f"{path}: damaged or no safetensors file ({fault}): get it again")


@dataclass(frozen=True)
class Described:
    """A tensor before it is written."""

    shape: tuple[int, ...]
    dtype: str
    """Key of `NAMES`."""


def write(
    path: Path,
    described: Mapping[str, Described],
    arrays: Iterable[npt.NDArray[Any]] | Iterator[npt.NDArray[Any]],
) -> None:
    """Write a file in one step.

    Args:
        path: the file.
        described: the tensors by name.
        arrays: their numbers, in the same order; bfloat16 as bits.

    Raises:
        OSError: the file cannot be written. Nothing is left behind.
        ValueError: an array is not as described.
    """
    header: dict[str, Any] = {"__metadata__": {PLAIN: "pt"}}
    offset = 0
    for name, tensor in described.items():
        end = offset + math.prod(tensor.shape) * DTYPES[NAMES[tensor.dtype]].itemsize
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with durable.replacing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, tensor), array in zip(described.items(), arrays, strict=True):
            if array.shape != tensor.shape or array.dtype != DTYPES[NAMES[tensor.dtype]]:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not {tensor}")
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
