"""A folder of tokens elsewhere flows in; the same streams flow out as from a folder here.

The folder has a record of its text, see `write_record`. It may be on S3, on the Hugging Face hub, on a web server, or
wherever `fsspec` reads. Shards are copied into a folder here when they are needed, and verified, as long as there is
room for them. Nothing is thrown out to make room: a run reads its samples in random order, so no shard is worth more
than another. Of the other shards, single ranges of bytes are read.
"""

import contextlib
import fcntl
import os
import re
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun import durable
from homespun.data.shards import HEADER_BYTES, Header, Shard, TokenStream, open_shard
from homespun.data.text_file import TokensElsewhere
from homespun.errors import ResourceError, UserError, cannot_write
from homespun.terminal import bar
from homespun.tokenizer import Tokenizer

RECORD = "text.json"
VERSION = 1
DECODED_TOGETHER = 1 << 16
"""Tokens."""
TRIES = 5
"""Failures in a row, before giving up."""
INSTALL = "pip install 'homespun[remote]'"

Record = dict[str, Any]


class Place:
    """A folder elsewhere."""

    def __init__(self, url: str, sleep: Callable[[float], None] = time.sleep) -> None:
        """
        Args:
            url: its address.
            sleep: waits some seconds before the next try.

        Raises:
            UserError: no library reads such an address.
        """
        try:
            from fsspec.core import url_to_fs

            self._files, self._root = url_to_fs(url)
        except Exception as error:  # each storage has errors of its own
            raise UserError(f"{url}: cannot be read here ({error}): {INSTALL}") from None
        self.url = url
        self._sleep = sleep
        # Files of the hub, for example, read 5 MB ahead unless they are asked not to.
        self._exactly = {} if self._files.async_impl else {"cache_type": "none"}

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` to `end`.

        Raises:
            UserError: it cannot be read.
        """
        path = f"{self._root}/{name}"
        for failures in range(TRIES):
            if failures:
                self._sleep(2.0 ** (failures - 1))
            try:
                # By name, because the order of the arguments differs between storages.
                wanted = self._files.cat_file(path, start=start, end=end, **self._exactly)
                content = bytes(wanted)
            except (FileNotFoundError, PermissionError) as error:
                reason = type(error).__name__
                break
            except Exception as error:  # each storage has exceptions of its own
                reason = " ".join(str(error).split()) or type(error).__name__
            else:
                if start is not None and end is not None and len(content) > end - start:
                    return content[start:end]  # the server does not know ranges
                return content
        raise UserError(
            f"{self.url}/{name}: cannot be read ({reason}): check the address, and whether this machine reaches it"
        )


class RemoteText:
    """The record of a folder of tokens elsewhere."""

    def __init__(self, elsewhere: TokensElsewhere, place: Place | None = None) -> None:
        """
        Raises:
            UserError: the record cannot be read.
        """
        self._place = place or Place(elsewhere.url)
        self._cache_bytes = elsewhere.cache_bytes
        where = f"{elsewhere.url}/{RECORD}"
        try:
            with bar(f"Reading {where}", None):
                content = self._place.read(RECORD)
            record = durable.parse_json(content, where)
            if record["version"] != VERSION:
                raise UserError(f"{where}: of another version of homespun")
            self.sha256 = str(record["sha256"])
            self.n_documents, self.n_bytes, self.validation_bytes = (
                int(record[name]) for name in ("n_documents", "n_bytes", "validation_bytes")
            )
            self.tokenizer = Tokenizer.from_json(record["tokenizer"], where)
            self._headers = {
                side: {_checked(name): Header(**header) for name, header in record[side].items()}
                for side in ("training", "validation")
            }
            self._check()
        except durable.DamagedRecord as error:
            raise UserError(f"{error}: copy the folder there again") from None
        except (KeyError, TypeError, ValueError, AttributeError, struct.error):
            raise UserError(f"{where}: not a record of tokens") from None

    def _check(self) -> None:
        """Make sure that the parts of the record fit each other.

        Raises:
            ValueError, struct.error: they do not.
        """
        ours = self.sha256, self.tokenizer.sha256, self.tokenizer.vocab_size
        if not 0 < self.validation_bytes < self.n_bytes or not all(self._headers.values()):
            raise ValueError("no text")
        for headers in self._headers.values():
            for header in headers.values():
                header.pack()
                if (header.data_sha256, header.tokenizer_sha256, header.vocab_size) != ours:
                    raise ValueError("a shard of another text")

    def streams(self, folder: Path | None = None) -> tuple[TokenStream, TokenStream]:
        """The tokens of the training and of the validation side. Copies of shards are kept in a folder."""
        room = _Room(folder, self._cache_bytes) if folder else None
        training, validation = (
            TokenStream(
                [RemoteShard(self._place, name, header, room) for name, header in headers.items()]
            )
            for headers in self._headers.values()
        )
        return training, validation

    def documents(self) -> Iterator[tuple[str, bool]]:
        """The documents, decoded, each with whether it belongs to validation; those for training come first."""
        for is_validation in (False, True):
            for document in self.side(is_validation=is_validation):
                yield document, is_validation

    def side(self, *, is_validation: bool) -> Iterator[str]:
        """The documents of one side, decoded."""
        return _decoded(self.streams()[is_validation], self.tokenizer)


def _checked(name: str) -> str:
    """The name of a shard, which must not lead out of its folder.

    Raises:
        ValueError: it is not such a name.
    """
    if not re.fullmatch(r"\w+-\d+\.tokens", name):
        raise ValueError(name)
    return name


def _decoded(stream: TokenStream, tokenizer: Tokenizer) -> Iterator[str]:
    ids: list[int] = []
    for start in range(0, len(stream), DECODED_TOGETHER):
        for token in stream.read(start, min(DECODED_TOGETHER, len(stream) - start)).tolist():
            if token == tokenizer.eot_id and ids:
                yield tokenizer.decode(ids)
                ids = []
            elif token != tokenizer.eot_id:
                ids.append(token)
    if ids:
        yield tokenizer.decode(ids)


class RemoteShard:
    """A shard elsewhere, as a sequence of ids."""

    def __init__(self, place: Place, name: str, header: Header, room: "_Room | None") -> None:
        self.name, self.header = name, header
        self._place, self._room = place, room
        self._is_checked = False

    def __len__(self) -> int:
        return self.header.n_tokens

    def __getitem__(self, window: slice) -> npt.NDArray[np.integer[Any]]:
        """The ids of a contiguous window.

        Raises:
            UserError: the file cannot be read, or is not the one that the record describes.
        """
        start, stop, _ = window.indices(len(self))
        if self._room and (copy := self._room.copy_of(self)):
            return copy[start:stop]
        if not self._is_checked:
            packed = self.header.pack()
            if self._place.read(self.name, 0, len(packed)) != packed:
                raise self.changed()
            self._is_checked = True
        itemsize = self.header.dtype.itemsize
        first, last = (HEADER_BYTES + at * itemsize for at in (start, max(start, stop)))
        content = self._place.read(self.name, first, last)
        ids = np.frombuffer(content, self.header.dtype) if len(content) == last - first else None
        if ids is None or (len(ids) and ids.max() >= self.header.vocab_size):
            raise self.changed()
        return ids

    @property
    def n_bytes(self) -> int:
        """Of the file."""
        return HEADER_BYTES + len(self) * self.header.dtype.itemsize

    def content(self) -> bytes:
        """The whole file. Raises the exceptions of `Place.read`."""
        return self._place.read(self.name)

    def changed(self) -> UserError:
        """The error about a file that is not the one of the record."""
        return UserError(
            f"{self._place.url}/{self.name}: not as its record describes it; it has changed, or was damaged: copy the "
            "folder there again"
        )


class _Room:
    """A folder for copies of shards, up to some bytes. Several processes may use it."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._lock = threading.Lock()
        self._copies: dict[str, Shard] = {}
        self._used: int | None = None
        """Bytes of all copies; None until the first one is wanted."""

    def copy_of(self, shard: RemoteShard) -> Shard | None:
        """The copy of a shard, made now if need be; None if there is no room for it.

        Raises:
            UserError: it cannot be read or written, or is not the one that the record describes.
        """
        with self._lock:
            if copy := self._copies.get(shard.name):
                return copy
            path = self._folder / shard.name
            try:
                if shard.n_bytes > self._limit:
                    return None
                if self._used is None:
                    self._begin()
                copy = self._verified(path, shard) if path.exists() else None
                if copy is None:
                    used = self._used or 0
                    if used + shard.n_bytes > self._limit:
                        return None
                    durable.write(path, shard.content())
                    self._used = used + path.stat().st_size
                    copy = self._verified(path, shard)
                    if copy is None:
                        raise shard.changed()
            except OSError as error:
                raise cannot_write(
                    error, f"{path}: cannot be written", "choose another folder (--tokens-dir)"
                ) from None
            self._copies[shard.name] = copy
            return copy

    def _begin(self) -> None:
        """Make the folder, and measure it. Files of killed processes are removed if no process uses the folder."""
        durable.make_folder(self._folder)
        descriptor = os.open(self._folder, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        if durable.try_lock(descriptor):
            durable.remove_leftovers(self._folder, lambda name: True)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        self._used = sum(file.stat().st_size for file in self._folder.glob("*.tokens"))

    def _verified(self, path: Path, shard: RemoteShard) -> Shard | None:
        """A copy that is there, if it is whole. Otherwise it is removed."""
        try:
            copy = open_shard(path)
            if copy.header == shard.header:
                return copy
        except ResourceError:
            raise
        except UserError:
            pass
        self._used = (self._used or 0) - path.stat().st_size
        path.unlink()
        return None


def write_record(
    folder: Path, corpus_facts: Record, tokenizer: Tokenizer, sides: dict[str, list[Shard]]
) -> None:
    """Write the record of a folder of tokens, unless it is there.

    Args:
        folder: the folder.
        corpus_facts: `sha256`, `n_documents`, `n_bytes` and `validation_bytes` of the text.
        tokenizer: made the tokens.
        sides: the shards of each side.

    Raises:
        UserError: it cannot be written.
    """
    record = {
        "version": VERSION,
        **corpus_facts,
        "tokenizer": tokenizer.to_json(),
        **{
            side: {shard.path.name: asdict(shard.header) for shard in shards}
            for side, shards in sides.items()
        },
    }
    path = folder / RECORD
    try:
        with contextlib.suppress(durable.DamagedRecord):
            if durable.read_json(path) == record:
                return
        durable.write_json(path, record)
    except OSError as error:
        raise cannot_write(
            error, f"{path}: cannot be written", "choose another --tokens-dir"
        ) from None
