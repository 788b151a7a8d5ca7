"""A file flows in, its content flows out, decompressed piece by piece if it is compressed.

The first bytes of a file decide whether it is, and its name may end in the suffix of the compression.
"""

import io
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, cast

READ = 1 << 18
"""Bytes that are read at once."""
_HEAD = 1 << 12
"""Bytes at the start of a file that show which kind of file it is."""
COMPRESSIONS = {
    ".gz": ("gzip", rb"\x1f\x8b", "gzip -dc"),
    ".zst": ("zstd", rb"(?s:\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)", "zstd -dc"),
}
"""By suffix: the codec, the first bytes, and a command that decompresses."""
NEVER_COMPRESSED = (".parquet",)
"""Files of these kinds are compressed inside, so they are not as a whole."""


def suffix(name: str) -> str:
    """The suffix that tells the kind of a file, in small letters: `.jsonl` for `a.jsonl` and for `a.jsonl.gz`."""
    outer, inner = Path(name).suffix.lower(), Path(Path(name).stem).suffix.lower()
    if outer not in COMPRESSIONS:
        return outer
    return inner + outer if inner in NEVER_COMPRESSED else inner


def head_of(file: BinaryIO) -> bytes:
    """The first bytes of a file, whose position is at the start after that."""
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    return head


def codec_of(name: str, file: BinaryIO) -> str | None:
    """The compression of a text or .jsonl file by its first bytes."""
    if suffix(name) in NEVER_COMPRESSED:
        return None
    head = head_of(file)
    return next((codec for codec, first, _ in COMPRESSIONS.values() if re.match(first, head)), None)


def decompressed(file: BinaryIO, codec: str) -> BinaryIO:
    """The content of a compressed file. Damage raises an OSError where it is read."""
    return cast(BinaryIO, io.BufferedReader(_Decompressed(file, codec), READ))


class _Decompressed(io.RawIOBase):
    """The content of a compressed file, decompressed piece by piece."""

    def __init__(self, file: BinaryIO, codec: str) -> None:
        self._file, self._codec = file, codec
        self._restart()

    def _restart(self) -> None:
        import pyarrow

        self._file.seek(0)
        self._stream = pyarrow.CompressedInputStream(
            pyarrow.PythonFile(_Borrowed(self._file), mode="r"), self._codec
        )
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET:
            raise io.UnsupportedOperation("only an offset from the start is known")
        if offset < self._position:
            self._restart()
        while self._position < offset:
            skipped = self._stream.read(min(READ, offset - self._position))
            if not skipped:
                break
            self._position += len(skipped)
        return self._position

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


class _Borrowed:
    """A file that stays open when its reader closes it."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        pass
