"""Documents and a tokenizer flow in, two token streams on disk flow out: one for training, one for validation.

The documents of each side go, in order, into shards of about `SHARD_BYTES` of text. The content of a shard depends
only on the text and the tokenizer, so a run that was killed keeps its finished shards and continues to the same bytes.
`index.json` lists the shards and is written last.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from homespun import durable
from homespun.data.corpus import Corpus, Piece
from homespun.data.manifest import Manifest, Snapshot
from homespun.data.mixture import mixed_stream
from homespun.data.remote import RemoteText
from homespun.data.shards import Header, Shard, TokenStream, open_shard, write_shard
from homespun.errors import ResourceError, UserError, cannot_read, cannot_write
from homespun.terminal import Say, bar, counted, say

INDEX = "index.json"
VERIFIED = "verified.json"
"""The manifest of the shards whose bytes have been verified, with their headers."""
VERIFIED_VERSION = 2
"""Of the facts in that manifest."""
SHARD_BYTES = 8_000_000
"""Bytes of text in a shard: a few seconds of work, which is the most that a kill can cost."""
ENCODING_THREADS = 2
"""One waits for the library, which encodes new words on all cores, while the other assembles or writes a shard. With
`encoding.EncodingProcesses` there are more."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""The errors of file systems that cannot lock files."""

Index = dict[str, dict[str, str]]
"""For each side its shards: file name, and SHA-256 of the documents in it."""


@dataclass(frozen=True)
class Prepared:
    """The text as a model sees it: all documents in a row, each after an end-of-text token."""

    folder: Path
    training: TokenStream
    validation: TokenStream
    sources: tuple["Prepared", ...] = ()
    """The texts of a mixture."""
    weights: tuple[int, ...] = ()
    """Their weights."""


class Encoder(Protocol):
    """Turns documents into numbers: a tokenizer, or `chat_samples.ChatEncoder`."""

    @property
    def sha256(self) -> str:
        """Equal encoders give equal numbers."""

    @property
    def vocab_size(self) -> int:
        """The largest number, plus 1."""

    def join(self, documents: Iterable[str]) -> npt.NDArray[np.int32]:
        """The numbers of documents in a row."""


def prepare(
    corpus: Corpus,
    tokenizer: Encoder,
    folder: Path,
    *,
    any_split: bool = False,
    say: Say = say,
    threads: int = ENCODING_THREADS,
) -> Prepared:
    """Tokenize a corpus into its own subfolder of `folder`, or open the tokens that are there.

    Missing and damaged shards are made again. A shard is verified in full once; after that it is not even opened while
    its size, times and inode stay the same, see `manifest`. If two processes prepare the same text, one waits.

    Args:
        corpus: the documents.
        tokenizer: encodes the documents.
        folder: has one subfolder for each pair of text and tokenizer. Each text of a mixture has its own.
        any_split: take tokens that are there although an earlier version divided the text in another way, as a run
            that began with them does. Otherwise they are made again.
        say: receives messages. Progress is shown as a bar on a terminal.
        threads: number of shards in the making at a time. The shards do not depend on it.

    Raises:
        UserError: the folder cannot be written (disk full, ...), or the text cannot be read or has changed since its
            survey. Finished shards stay.
    """
    if corpus.sources:
        sources = [
            prepare(source, tokenizer, folder, any_split=any_split, say=say, threads=threads)
            for source in corpus.sources
        ]
        return _mixture(folder, sources, corpus.weights)
    if corpus.remote:
        return _elsewhere(corpus, corpus.remote, tokenizer, folder)
    home = folder / folder_name(corpus.sha256, tokenizer.sha256)
    try:
        if prepared := _whole(home, corpus, tokenizer, any_split):
            return prepared
        durable.make_folder(home)
        with locked(home, say):
            # Another process may have finished by now.
            if prepared := _whole(home, corpus, tokenizer, any_split):
                return prepared
            _tokenize(corpus, tokenizer, home, say, threads)
            return _open(home, corpus, tokenizer, any_split)
    except OSError as error:
        raise cannot_write_tokens(error, home) from None


def already_prepared(
    corpus: Corpus, tokenizer: Encoder, folder: Path, *, any_split: bool = True
) -> Prepared | None:
    """The tokens of a text, if they are all there; see `prepare`.

    Raises:
        UserError: the folder cannot be read.
    """
    if corpus.sources:
        found = [
            already_prepared(source, tokenizer, folder, any_split=any_split)
            for source in corpus.sources
        ]
        sources = [one for one in found if one]
        return _mixture(folder, sources, corpus.weights) if len(sources) == len(found) else None
    if corpus.remote:
        return _elsewhere(corpus, corpus.remote, tokenizer, folder)
    home = folder / folder_name(corpus.sha256, tokenizer.sha256)
    try:
        return _whole(home, corpus, tokenizer, any_split)
    except OSError as error:
        raise cannot_read(error, f"{home}: cannot be read") from None


def _elsewhere(corpus: Corpus, remote: RemoteText, tokenizer: Encoder, folder: Path) -> Prepared:
    """Tokens that are read from another place.

    Raises:
        UserError: they were made by another tokenizer.
    """
    if tokenizer.sha256 != remote.tokenizer.sha256:
        raise UserError(
            f"{corpus.path}: its tokens were made by another tokenizer ({remote.tokenizer.sha256[:12]}) than the one "
            f"in use ({tokenizer.sha256[:12]}): leave --tokenizer-path out; a model to go on from, and all texts of a "
            "mixture, must have the tokenizer of these tokens"
        )
    copies = folder / f"{folder_name(corpus.sha256, tokenizer.sha256)}.copies"
    return Prepared(copies, *remote.streams(copies))


def _mixture(folder: Path, sources: Sequence[Prepared], weights: tuple[int, ...]) -> Prepared:
    """Several texts as one."""
    return Prepared(
        folder,
        TokenStream([source.training for source in sources]),
        mixed_stream([source.validation for source in sources], weights),
        tuple(sources),
        weights,
    )


def check_folder(folder: Path) -> None:
    """Make sure, without writing, that tokens can be written to a folder, or that it holds tokens already.

    Raises:
        UserError: neither.
    """
    try:
        nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{nearest} is a file")
        if not os.access(nearest, os.W_OK | os.X_OK) and not any(folder.glob(f"*/{INDEX}")):
            raise PermissionError(errno.EACCES, f"{nearest} is read-only")
    except OSError as error:
        raise cannot_write_tokens(error, folder) from None


def cannot_write_tokens(error: OSError, folder: Path) -> UserError:
    """The exception for a failed write into a folder of tokens."""
    return cannot_write(
        error, f"{folder}: tokens cannot be written", "choose another folder (--tokens-dir)"
    )


def folder_name(data_sha256: str, tokenizer_sha256: str) -> str:
    """The name of the subfolder that holds the tokens of a text."""
    return f"{data_sha256[:12]}-{tokenizer_sha256[:12]}"


def read_index(home: Path) -> Index:
    """Read the list of shards of each side.

    Raises:
        OSError: the file cannot be read.
        UserError: it is missing or damaged.
    """
    try:
        record = durable.read_json(home / INDEX)
    except durable.DamagedRecord:
        record = {}
    index: Index = {side: record.get(side, {}) for side in ("training", "validation")}
    for shards in index.values():
        names = shards if isinstance(shards, dict) else {}
        if not names or not all(Path(name).name == name for name in names):
            raise UserError(
                f"{home / INDEX}: missing or damaged; the next run with this text completes it"
            )
    return index


def _whole(home: Path, corpus: Corpus, tokenizer: Encoder, any_split: bool) -> Prepared | None:
    """`_open`, or None if anything in the folder is missing or damaged, or divided in another way."""
    try:
        return _open(home, corpus, tokenizer, any_split)
    except ResourceError:
        raise
    except UserError:
        return None


def _open(home: Path, corpus: Corpus, tokenizer: Encoder, any_split: bool) -> Prepared:
    """Open the finished folder.

    Raises:
        UserError: something in it is missing or damaged, or divided in another way.
    """
    verified = Manifest(home / VERIFIED, VERIFIED_VERSION)
    index = read_index(home)
    training, validation = (
        [
            _open_shard(home / name, text_sha256, corpus, tokenizer, verified)
            for name, text_sha256 in index[side].items()
        ]
        for side in ("training", "validation")
    )
    n_documents = sum(shard.header.n_documents for shard in training + validation)
    if n_documents != corpus.n_documents:
        raise UserError(f"{home}: {counted(n_documents, 'document')}, not {corpus.n_documents:,}")
    validation_bytes = sum(shard.header.n_bytes for shard in validation)
    if validation_bytes != corpus.validation_bytes and not any_split:
        raise UserError(f"{home}: the validation side was chosen by another rule")
    verified.save()
    return Prepared(folder=home, training=TokenStream(training), validation=TokenStream(validation))


def _open_shard(
    path: Path, text_sha256: str, corpus: Corpus, tokenizer: Encoder, verified: Manifest
) -> Shard:
    """Open a shard. All of it is read, or nothing if the manifest knows it as verified."""
    try:
        snapshot = Snapshot([path])
    except OSError as error:
        raise cannot_read(error, f"{path}: cannot be read") from None
    shard = _verified_shard(path, snapshot, corpus, tokenizer, verified)
    if shard is None:
        shard = open_shard(path, tokenizer_sha256=tokenizer.sha256, data_sha256=corpus.sha256)
        verified.note(path.name, snapshot, dataclasses.asdict(shard.header))
    if shard.header.text_sha256 != text_sha256:
        raise UserError(f"{path}: made from other documents")
    return shard


def _verified_shard(
    path: Path, snapshot: Snapshot, corpus: Corpus, tokenizer: Encoder, verified: Manifest
) -> Shard | None:
    """A shard of this text and tokenizer that the manifest knows."""
    fact = verified.recall(path.name, snapshot)
    if fact is None:
        return None
    header = Header(**fact)
    if (header.data_sha256, header.tokenizer_sha256) != (corpus.sha256, tokenizer.sha256):
        return None
    [(size, modified, _, inode)] = snapshot.stats.values()
    return Shard(path, header, (size, modified, inode))


@contextlib.contextmanager
def locked(home: Path, say: Say, *, together: bool = False) -> Iterator[None]:
    """Let one process at a time work in the folder, or several that work `together`. The system releases the lock of a
    killed process.

    Raises:
        UserError: the file system has no locks, and one process is to work at a time.
    """
    how = fcntl.LOCK_SH if together else fcntl.LOCK_EX
    with (home / "lock").open("a+") as file:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another process is tokenizing into {home}: waiting for it.")
            with bar("Waiting for the other process", None):
                fcntl.flock(file, how)
        except OSError as error:
            if not together:  # a shared file system may have no locks; those who work together write the same files
                if error.errno not in NO_LOCKS:
                    raise
                raise UserError(
                    f"{home}: this file system has no locks ({error.strerror}): choose another folder (--tokens-dir), "
                    "or delete the files that `homespun verify` names as damaged and start all parts again (--part)"
                ) from None
        yield


def _tokenize(corpus: Corpus, tokenizer: Encoder, home: Path, say: Say, threads: int) -> None:
    """Write all shards and the index."""
    durable.remove_leftovers(home, lambda name: True)
    index: Index = {"training": {}, "validation": {}}

    def named() -> Iterator[tuple[str, Part]]:
        for side, part in _parts(corpus):
            name = shard_name(side, len(index[side]))
            index[side][name] = part.sha256
            yield name, part

    with bar("Tokenizing", corpus.n_documents) as advance:
        make_shards(named(), corpus, tokenizer, home, say, threads, advance)
    durable.write_json(home / INDEX, index)


def shard_name(side: str, number: int) -> str:
    """The name of a file of tokens."""
    return f"{side}-{number:05}.tokens"


def make_shards(
    parts: Iterable[tuple[str, "Part"]],
    corpus: Corpus,
    tokenizer: Encoder,
    home: Path,
    say: Say,
    threads: int,
    advance: Callable[[float], None],
) -> None:
    """Write some shards of a corpus, unless they are there and whole.

    Args:
        parts: the name of each shard, and its documents.
        corpus: the whole text.
        tokenizer: encodes the documents.
        home: the folder for the shards.
        say: receives a message about each damaged shard.
        threads: number of shards in the making at a time.
        advance: gets the number of documents in each finished shard.

    Raises:
        OSError, UserError: as for `prepare`. Finished shards stay.
    """
    verified = Manifest(home / VERIFIED, VERIFIED_VERSION)
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[int]] = deque()
        for name, part in parts:
            work = (home / name, part, corpus, tokenizer, verified, say)
            pending.append(pool.submit(_make_shard, *work))
            if len(pending) > threads:
                advance(pending.popleft().result())
        for shard in pending:
            advance(shard.result())
    verified.save()


class Part:
    """The documents of a shard."""

    def __init__(self) -> None:
        self.documents: list[str] = []
        self.n_bytes = 0
        self._identity = hashlib.sha256()

    def add(self, piece: Piece) -> None:
        """Append a document."""
        self.documents.append(piece.text)
        self.n_bytes += piece.n_bytes
        self._identity.update(piece.sha256)

    @property
    def sha256(self) -> str:
        """The SHA-256 over the SHA-256 of each document."""
        return self._identity.hexdigest()

    @property
    def is_full(self) -> bool:
        """Whether the next document of this side begins another shard."""
        return self.n_bytes >= SHARD_BYTES


def side_of(piece: Piece) -> str:
    """The side of a document, as the names of shards have it."""
    return "validation" if piece.is_validation else "training"


def _parts(corpus: Corpus) -> Iterator[tuple[str, Part]]:
    """Stream the side and the documents of each shard. The shards of each side come in order."""
    parts = {"training": Part(), "validation": Part()}
    for piece in corpus.pieces():
        side = side_of(piece)
        parts[side].add(piece)
        if parts[side].is_full:
            yield side, parts[side]
            parts[side] = Part()
    yield from ((side, part) for side, part in parts.items() if part.documents)


def _make_shard(
    path: Path,
    part: Part,
    corpus: Corpus,
    tokenizer: Encoder,
    verified: Manifest,
    say: Say,
) -> int:
    """Write a shard unless it is there and whole; returns its number of documents."""
    if path.exists():
        try:
            _open_shard(path, part.sha256, corpus, tokenizer, verified)
            return len(part.documents)
        except ResourceError:
            raise
        except UserError as error:
            say(f"{error}; made again")
    ids = tokenizer.join(part.documents)
    header = Header(
        vocab_size=tokenizer.vocab_size,
        n_tokens=len(ids),
        n_documents=len(part.documents),
        n_bytes=part.n_bytes,
        tokenizer_sha256=tokenizer.sha256,
        data_sha256=corpus.sha256,
        text_sha256=part.sha256,
    )
    write_shard(path, ids, header)
    return len(part.documents)
