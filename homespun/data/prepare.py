"""Documents and a tokenizer in, two token streams on disk out: training and validation.

The documents of a side go, in order, into shards of about `SHARD_BYTES` of text. What is in a shard
follows from the data and the tokenizer alone, so a run that was killed keeps the shards that it
finished and goes on to the same bytes. `index.json`, which lists them, is written last.
"""

import contextlib
import fcntl
import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from homespun import durable
from homespun.data.corpus import Corpus
from homespun.data.shards import Header, Shard, TokenStream, open_shard, write_shard
from homespun.errors import UserError
from homespun.terminal import Say, bar
from homespun.tokenizer import Tokenizer

INDEX = "index.json"
SHARD_BYTES = 8_000_000
"""Of text: the few seconds of work that a kill can cost."""
THREADS = 2
"""One encodes while the other has new words encoded, on all cores inside the library, or writes."""

Index = dict[str, dict[str, str]]
"""For each side its shards: the name, and the SHA-256 of the documents in it."""


@dataclass(frozen=True)
class Prepared:
    """The data as a model sees it: each document behind an end-of-text id, all joined."""

    folder: Path
    training: TokenStream
    validation: TokenStream


def prepare(corpus: Corpus, tokenizer: Tokenizer, folder: Path, *, say: Say = print) -> Prepared:
    """Tokenize a corpus into a folder of its own below `folder`, or find it done there.

    A shard that is missing or damaged is made (again). Of two processes, one waits for the other.

    Args:
        corpus: the documents.
        tokenizer: what encodes them.
        folder: holds a folder for each pair of data and tokenizer.
        say: takes the messages; how far it is shows as a bar, where there is a terminal.

    Raises:
        UserError: the folder cannot be written (disk full, ...), or the data cannot be read or has
            changed since it was surveyed. Finished shards stay.
    """
    home = folder / folder_name(corpus.sha256, tokenizer.sha256)
    try:
        if prepared := _open(home, corpus, tokenizer):
            return prepared
        home.mkdir(parents=True, exist_ok=True)
        with _alone(home, say):
            prepared = _open(home, corpus, tokenizer)  # another process may have made it by now
            if prepared is None:
                _tokenize(corpus, tokenizer, home, say)
                prepared = _open(home, corpus, tokenizer)
    except OSError as error:
        raise UserError(
            f"{home}: tokens cannot be written ({error.strerror or error}); "
            "make room there and try again"
        ) from None
    if prepared is None:
        raise UserError(f"{home}: the tokens just written cannot be read back; check the disk")
    return prepared


def folder_name(data_sha256: str, tokenizer_sha256: str) -> str:
    """Of the tokens of a text, below the folder of all tokens."""
    return f"{data_sha256[:12]}-{tokenizer_sha256[:12]}"


def read_index(home: Path) -> Index:
    """Which shards make up the two sides.

    Raises:
        OSError: the file cannot be read.
        UserError: it is missing or damaged.
    """
    record = durable.read_json(home / INDEX)
    index: Index = {side: record.get(side, {}) for side in ("training", "validation")}
    for shards in index.values():
        names = shards if isinstance(shards, dict) else {}
        if not names or not all(Path(name).name == name for name in names):
            raise UserError(
                f"{home / INDEX}: missing or damaged: the next run with this text completes it"
            )
    return index


def _open(home: Path, corpus: Corpus, tokenizer: Tokenizer) -> Prepared | None:
    """The finished folder, every shard verified; None where anything is missing or damaged."""
    try:
        index = read_index(home)
        training, validation = (
            [
                _open_shard(home / name, text_sha256, corpus, tokenizer)
                for name, text_sha256 in index[side].items()
            ]
            for side in ("training", "validation")
        )
    except UserError:
        return None
    if sum(shard.header.n_documents for shard in training + validation) != corpus.n_documents:
        return None
    return Prepared(
        folder=home,
        training=TokenStream([shard.ids for shard in training]),
        validation=TokenStream([shard.ids for shard in validation]),
    )


def _open_shard(path: Path, text_sha256: str, corpus: Corpus, tokenizer: Tokenizer) -> Shard:
    shard = open_shard(path, tokenizer_sha256=tokenizer.sha256, data_sha256=corpus.sha256)
    if shard.header.text_sha256 != text_sha256:
        raise UserError(f"{path}: made from other documents")
    return shard


@contextlib.contextmanager
def _alone(home: Path, say: Say) -> Iterator[None]:
    """One process at a time. The system takes the lock back from one that was killed."""
    with (home / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another process is tokenizing into {home}: waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _tokenize(corpus: Corpus, tokenizer: Tokenizer, home: Path, say: Say) -> None:
    durable.remove_leftovers(home, lambda name: True)
    index: Index = {"training": {}, "validation": {}}
    with bar("Tokenizing", corpus.n_documents) as advance, ThreadPoolExecutor(THREADS) as pool:
        pending: deque[Future[int]] = deque()
        for side, documents in _shards(corpus):
            name = f"{side}-{len(index[side]):05}.tokens"
            index[side][name] = text_sha256 = _sha256(documents)
            work = (home / name, documents, text_sha256, corpus, tokenizer, say)
            pending.append(pool.submit(_make_shard, *work))
            if len(pending) > THREADS:
                advance(pending.popleft().result())
        for shard in pending:
            advance(shard.result())
    durable.write_json(home / INDEX, index)


def _shards(corpus: Corpus) -> Iterator[tuple[str, list[str]]]:
    """The documents of each shard, and its side; of each side in order."""
    full: dict[str, list[str]] = {"training": [], "validation": []}
    n_bytes = {"training": 0, "validation": 0}
    for document, is_validation in corpus.split():
        side = "validation" if is_validation else "training"
        full[side].append(document)
        n_bytes[side] += len(document.encode())
        if n_bytes[side] >= SHARD_BYTES:
            yield side, full[side]
            full[side], n_bytes[side] = [], 0
    yield from ((side, documents) for side, documents in full.items() if documents)


def _sha256(documents: list[str]) -> str:
    whole = hashlib.sha256()
    for document in documents:
        whole.update(hashlib.sha256(document.encode()).digest())
    return whole.hexdigest()


def _make_shard(
    path: Path,
    documents: list[str],
    text_sha256: str,
    corpus: Corpus,
    tokenizer: Tokenizer,
    say: Say,
) -> int:
    """Write a shard, unless it is there and right; the number of documents in it."""
    if path.exists():
        try:
            _open_shard(path, text_sha256, corpus, tokenizer)
            return len(documents)
        except UserError as error:
            say(f"{error}; made again")
    ids = tokenizer.join(documents)
    header = Header(
        vocab_size=tokenizer.vocab_size,
        n_tokens=len(ids),
        n_documents=len(documents),
        n_bytes=sum(len(document.encode()) for document in documents),
        tokenizer_sha256=tokenizer.sha256,
        data_sha256=corpus.sha256,
        text_sha256=text_sha256,
    )
    write_shard(path, ids, header)
    return len(documents)
