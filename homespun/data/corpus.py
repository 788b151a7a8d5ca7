"""Documents flow in, a corpus flows out: facts about the whole text, and its split into training and validation.

The split depends on the text alone. Every part of the project that reads the same text therefore holds out the same
documents, and nothing learns from them.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from homespun import durable
from homespun.data import conversations, preferences
from homespun.data.documents import block_of, documents
from homespun.data.download_file import is_as_downloaded, record_of
from homespun.data.facts import Fact, facts_in, facts_of
from homespun.data.files import (
    bytes_to_read,
    files_to_read,
    how_to_mark,
    left_out,
    looks_like_jsonl,
)
from homespun.data.manifest import Manifest, Snapshot
from homespun.data.remote import RemoteText
from homespun.data.text_file import Mixture, is_described, read_description
from homespun.data.text_formats.cutting import block_bytes, blocks
from homespun.errors import UserError
from homespun.terminal import Say, bar, counted
from homespun.tokenizer import END_OF_TEXT, Tokenizer

VALIDATION_SHARE = 0.1
"""The share of the text that is held out for validation."""
ACCEPTED_SHARES = (0.7 * VALIDATION_SHARE, 1.3 * VALIDATION_SHARE)
"""The least and the largest share that a split by hashes alone may have."""
MAX_VALIDATION_SHARE = 2 * VALIDATION_SHARE
"""No choice of documents by size exceeds this share of the text, or of its different documents."""
MIN_VALIDATION_SHARE = VALIDATION_SHARE / 2
"""A smaller share is announced, as is one above the maximum."""
LARGE_CORPUS = 1 << 16
"""From this number of documents on, the split is by hashes alone. Sizes are compared only in smaller texts."""
MIN_DOCUMENTS = 10
"""A text of fewer documents is cut into blocks, since a tenth of it is less than one document."""
MIN_DOCUMENTS_TO_DETECT_SPLIT = 100
"""If none of this many documents has a hash divisible by ten, the validation documents were removed earlier."""
RULES = 3
"""The version of the rules in this module, in `documents` and in `text_formats`. Raise it when one of them reads or
splits a text differently; surveys by earlier rules are then forgotten."""


class TooLittleText(UserError):
    """A text is too small to hold some of it out for validation."""


class Piece(NamedTuple):
    """A document, or a block of a long one."""

    text: str
    is_validation: bool
    sha256: bytes
    n_bytes: int


@dataclass(frozen=True)
class Corpus:
    """The documents of a text, and their split into training and validation.

    A document belongs to validation if its SHA-256 is divisible by ten. That is about a tenth of the documents, and
    equal documents are on the same side. If it is not about a tenth of the text, as happens with few documents or
    with many copies of one, others are chosen by hash and size, see `_validation_hashes`. A text of fewer than ten
    different documents is cut into blocks, and each block counts as a document; conversations are never cut.
    """

    path: Path
    sha256: str
    """Identity of the text: the SHA-256 over the SHA-256 of each document, in order. It is the same for every kind
    of file that holds these documents."""
    n_documents: int
    """Number of documents, or of blocks if the documents are cut."""
    n_bytes: int
    """Bytes of UTF-8, without separators."""
    validation_bytes: int
    """Those of the validation documents."""
    validation_hashes: frozenset[str] | None = None
    """SHA-256 of the validation documents; None if they are those divisible by ten."""
    max_block_bytes: int | None = None
    """Largest size of a block; None if the documents are not cut."""
    n_marks: int = 0
    """Number of end-of-text marks inside the documents, where they are ordinary text."""
    is_chat: bool = False
    """Whether the documents are conversations, see `conversations.document_of`."""
    n_left_out: int = 0
    """Number of conversations with an empty message or without an answer, which are no documents."""
    first_left_out: str | None = None
    """The place of the first of them."""
    is_pairs: bool = False
    """Whether these conversations are preference pairs, see `preferences.document_of`."""
    sources: tuple["Corpus", ...] = ()
    """The texts of a mixture, see `text_file`."""
    weights: tuple[int, ...] = ()
    """Their weights."""
    remote: RemoteText | None = None
    """The place of the tokens, if only these can be read; the documents are then decoded from them."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that made the tokens, if only these can be read."""
        texts = (self, *self.sources)
        return next((text.remote.tokenizer for text in texts if text.remote), None)

    def split(self) -> Iterator[tuple[str, bool]]:
        """Stream all documents, each with True if it belongs to validation.

        Raises:
            UserError: the text has changed since its survey. This is known only at the end of the stream.
        """
        if self.sources:
            yield from self._split_of_mixture()
            return
        if self.remote:
            yield from self.remote.documents()
            return
        for piece in self.pieces():
            yield piece.text, piece.is_validation

    def pieces(self) -> Iterator[Piece]:
        """As `split`, with the hashes that were computed on the way. The text must lie here.

        Raises:
            UserError: as for `split`.
        """
        identity = hashlib.sha256()
        for document in _documents(self.path, self.is_chat, self.is_pairs, lambda place: None):
            whole = self.piece(document)
            identity.update(whole.sha256)
            if self.max_block_bytes is None:
                yield whole
            else:
                yield from map(self.piece, blocks(document.encode(), self.max_block_bytes))
        if identity.hexdigest() != self.sha256:
            raise UserError(f"{self.path}: changed while it was being read; run this again")

    def piece(self, text: str) -> Piece:
        """A document or a block, with its hash and its side."""
        encoded = text.encode()
        digest = hashlib.sha256(encoded).digest()
        return Piece(text, self.is_validation(digest), digest, len(encoded))

    def _split_of_mixture(self) -> Iterator[tuple[str, bool]]:
        """The documents of all texts in turn, so that every beginning has about the shares of the weights."""
        streams = {number: source.split() for number, source in enumerate(self.sources)}
        had = dict.fromkeys(streams, 0.0)
        while had:
            turn = min(had, key=lambda number: (had[number], number))
            if found := next(streams[turn], None):
                had[turn] += len(found[0]) / self.weights[turn]
                yield found
            else:
                del had[turn]

    def training(self) -> Iterator[str]:
        """Stream the training documents."""
        if self.remote:
            return self.remote.side(is_validation=False)
        return (document for document, is_validation in self.split() if not is_validation)

    def validation(self) -> Iterator[str]:
        """Stream the validation documents."""
        if self.remote:
            return self.remote.side(is_validation=True)
        return (document for document, is_validation in self.split() if is_validation)

    def unevenness(self) -> str | None:
        """A message about a validation side that is far from a tenth of the text; None if it is not."""
        share = self.validation_bytes / self.n_bytes
        if MIN_VALIDATION_SHARE <= share <= MAX_VALIDATION_SHARE:
            return None
        return (
            f"Held out for validation: {share:.1%} of {self.path} instead of about a tenth. Its documents are few, "
            "long or often the same, or the validation documents were removed earlier."
        )

    def is_validation(self, digest: bytes) -> bool:
        """Whether the document with this SHA-256 belongs to validation."""
        chosen = self.validation_hashes
        return _is_divisible(digest) if chosen is None else digest.hex() in chosen


def survey(
    path: Path,
    say: Say | None = None,
    folder: Path | None = None,
    *,
    keeps: bool = True,
    as_pairs: bool = False,
    n_workers: int = 1,
) -> Corpus:
    """Find out which documents a text has and how they split.

    All of the text is read, with a progress bar on a terminal. The result is kept in a manifest, so that the next
    survey of the same files reads nothing as long as their sizes, times and inodes stay the same.

    Args:
        path: a file, a folder, a pattern, or a file that describes a text, see `text_file`.
        say: receives messages about files that are left out of a folder, or that have changed since their download,
            JSON under the name of a text, and marks inside the documents.
        folder: holds the manifest; without it, none is kept.
        keeps: whether the manifest is written; otherwise it is only read.
        as_pairs: the files hold preference pairs.
        n_workers: several processes read the files, if these are several files of text.

    Raises:
        UserError: there is nothing to read, or a file breaks the policy of `documents`.
        TooLittleText: the text is too small to be split.
    """
    if is_described(path):
        if as_pairs:
            raise UserError(f"{path}: describes a text: name a file or folder of pairs")
        described = read_description(path)
        if not isinstance(described, Mixture):
            return _elsewhere(path, RemoteText(described))
        sources = [
            survey(text, say, folder, keeps=keeps, n_workers=n_workers) for text in described.texts
        ]
        return _mixture(path, sources, described.weights)
    snapshot = Snapshot(files_to_read(path))
    manifest = folder and _surveys(path, folder)
    place = str(path.resolve())  # texts of the same name share a manifest
    if as_pairs:  # the same file may hold conversations, too
        place += " as pairs"
    fact = manifest.recall(place, snapshot) if manifest else None
    if fact is None:
        corpus = _read(path, as_pairs, n_workers)
        if manifest:
            manifest.note(place, snapshot, as_fact(corpus))
            if keeps:
                manifest.save()
        if say:
            _report_changes(files_to_read(path), say)
    else:
        corpus = from_fact(path, fact)
    if say:
        remark(corpus, say)
    return corpus


def remark(corpus: Corpus, say: Say) -> None:
    """Tell what a user may not expect of a text: files that are left out of a folder, JSON under the name of a text,
    conversations that are left out, and marks inside the documents."""
    path = corpus.path
    if others := left_out(path):
        say(f"Left out of {path}: {others}.")
    if looks_like_jsonl(path):
        say(
            f"{path}: its lines are JSON and are read as they are. To read only the text in them, give the file a "
            "name that ends in .jsonl"
        )
    if corpus.n_left_out:
        kind, reason = "conversation", "an empty message or without an answer"
        if corpus.is_pairs:
            kind, reason = "pair", "an empty message or equal answers"
        say(
            f"Left out of {path}: {counted(corpus.n_left_out, kind)} with {reason}; "
            f"the first is {corpus.first_left_out}."
        )
    if corpus.n_marks and not corpus.is_chat:
        say(
            f"{path}: {corpus.n_marks:,} {END_OF_TEXT} inside documents, where it is ordinary text and ends none. "
            f"If it is meant to end documents, {how_to_mark(path)}"
        )


def keep_survey(corpus: Corpus, snapshot: Snapshot, folder: Path) -> None:
    """Let the next survey of these files find this corpus, see `survey`.

    Args:
        corpus: the text in the files.
        snapshot: the files, from a time since when they were not changed.
        folder: holds the manifest.
    """
    manifest = _surveys(corpus.path, folder)
    manifest.note(str(corpus.path.resolve()), snapshot, as_fact(corpus))
    manifest.save()


def _surveys(path: Path, folder: Path) -> Manifest:
    return Manifest(folder / f"{plain(path.resolve().name)}.survey.json", RULES)


def plain(name: str) -> str:
    """A name of a text, which may be a pattern, as the name of a file."""
    return re.sub(r"[*?\[\]]", "_", name)


def _elsewhere(path: Path, remote: RemoteText) -> Corpus:
    """A text of which only the tokens can be read."""
    return Corpus(
        path=path,
        sha256=remote.sha256,
        n_documents=remote.n_documents,
        n_bytes=remote.n_bytes,
        validation_bytes=remote.validation_bytes,
        remote=remote,
    )


def _mixture(path: Path, sources: Sequence[Corpus], weights: Sequence[int]) -> Corpus:
    """Several texts as one."""
    identity = hashlib.sha256()
    for source, weight in zip(sources, weights, strict=True):
        if source.is_chat:
            raise UserError(f"{path}: {source.path} holds conversations, which cannot be mixed")
        identity.update(f"{weight} {source.sha256}\n".encode())
    return Corpus(
        path=path,
        sha256=identity.hexdigest(),
        n_documents=sum(source.n_documents for source in sources),
        n_bytes=sum(source.n_bytes for source in sources),
        validation_bytes=sum(source.validation_bytes for source in sources),
        sources=tuple(sources),
        weights=tuple(weights),
    )


def _report_changes(files: Sequence[Path], say: Say) -> None:
    """Say which downloaded texts are no longer as they were downloaded. They may have been edited, or damaged."""
    for file in files:
        try:
            if is_as_downloaded(file) is False:
                say(f"{file} has changed since its download, see {record_of(file).name}.")
        except durable.DamagedRecord as error:
            say(f"{file} cannot be compared with its download: {error}.")
        except OSError as error:
            say(f"{file} cannot be compared with its download ({error.strerror}).")


def as_fact(corpus: Corpus) -> dict[str, Any]:
    """A corpus that is neither a mixture nor elsewhere as a record without its path."""
    hashes = corpus.validation_hashes
    return {
        "sha256": corpus.sha256,
        "n_documents": corpus.n_documents,
        "n_bytes": corpus.n_bytes,
        "validation_bytes": corpus.validation_bytes,
        "validation_hashes": None if hashes is None else sorted(hashes),
        "max_block_bytes": corpus.max_block_bytes,
        "n_marks": corpus.n_marks,
        "is_chat": corpus.is_chat,
        "n_left_out": corpus.n_left_out,
        "first_left_out": corpus.first_left_out,
        "is_pairs": corpus.is_pairs,
    }


def from_fact(path: Path, fact: dict[str, Any]) -> Corpus:
    """The corpus of such a record."""
    hashes = fact["validation_hashes"]
    hashes = None if hashes is None else frozenset(hashes)
    return Corpus(path=path, **{**fact, "validation_hashes": hashes})


class _Sizes:
    """Bytes of each different document, with and without its copies."""

    def __init__(self) -> None:
        self.of_one: dict[str, int] = {}
        """By SHA-256, of the first `LARGE_CORPUS` different documents."""
        self.of_all: dict[str, int] = {}
        """The same with all copies of the document."""
        self.n_documents = 0
        self.total = self.divisible = 0
        """Of all documents, and of those whose SHA-256 is divisible by ten."""

    def add(self, digest: bytes, size: int) -> None:
        self.n_documents += 1
        self.total += size
        if _is_divisible(digest):
            self.divisible += size
        sha256 = digest.hex()
        if sha256 in self.of_one or len(self.of_one) < LARGE_CORPUS:
            self.of_one[sha256] = size
            self.of_all[sha256] = self.of_all.get(sha256, 0) + size


def _read(path: Path, is_pairs: bool, n_workers: int) -> Corpus:
    """Read and hash all documents."""
    is_chat = is_pairs or conversations.holds_conversations(path)
    left_out: list[str] = []
    with bar(f"Reading {path}", bytes_to_read(path)) as advance:
        files = files_to_read(path)
        if n_workers > 1 and not is_chat and len(files) > 1:
            facts = facts_in(files, block_of(files), n_workers, advance)
        else:
            read = _documents(path, is_chat, is_pairs, left_out.append)
            facts = facts_of(((document, None) for document in read), advance)
        corpus = corpus_of(path, facts, is_chat=is_chat, is_pairs=is_pairs)
    return replace(corpus, n_left_out=len(left_out), first_left_out=next(iter(left_out), None))


def corpus_of(
    path: Path, facts: Iterable[Fact], *, is_chat: bool = False, is_pairs: bool = False
) -> Corpus:
    """The corpus whose documents have these facts. If they are few and to be cut, they are read again.

    Raises:
        UserError: as for `survey`.
    """
    identity = hashlib.sha256()
    sizes = _Sizes()
    n_marks = 0
    for fact in facts:
        identity.update(fact.sha256)
        sizes.add(fact.sha256, fact.n_bytes)
        n_marks += fact.n_marks
    n_bytes = sizes.total
    max_block_bytes = None
    if len(sizes.of_one) < MIN_DOCUMENTS and not is_chat:
        max_block_bytes = 2 * block_bytes(sum(sizes.of_one.values()))
        sizes = _Sizes()
        for document in documents(path):
            for block in blocks(document.encode(), max_block_bytes):
                encoded = block.encode()
                sizes.add(hashlib.sha256(encoded).digest(), len(encoded))
    if len(sizes.of_one) < 2:
        raise TooLittleText(
            f"{path}: too little text to hold some out for validation ({counted(n_bytes, 'byte')}); "
            + (
                f"give more {'pairs' if is_pairs else 'conversations'}"
                if is_chat
                else "give more text, or more than one document"
            )
        )
    hashes = _validation_hashes(sizes)
    return Corpus(
        path=path,
        sha256=identity.hexdigest(),
        n_documents=sizes.n_documents,
        n_bytes=n_bytes,
        validation_bytes=sizes.divisible
        if hashes is None
        else sum(sizes.of_all[sha256] for sha256 in hashes),
        validation_hashes=hashes,
        max_block_bytes=max_block_bytes,
        n_marks=n_marks,
        is_chat=is_chat,
        is_pairs=is_pairs,
    )


def _documents(
    path: Path, is_chat: bool, is_pairs: bool, left_out: Callable[[str], None]
) -> Iterator[str]:
    if is_pairs:
        return preferences.documents_of(path, left_out)
    return conversations.documents_of(path, left_out) if is_chat else documents(path)


def _validation_hashes(sizes: _Sizes) -> frozenset[str] | None:
    """Choose the validation documents; None if those divisible by ten are a fair choice.

    Documents are taken in the order of their hashes until they hold a tenth of the text. A document that would raise
    the share above a fifth, of the text or of its different documents, is passed over. If every single document is
    larger than that, the one with the fewest bytes is taken.
    """
    if len(sizes.of_one) >= LARGE_CORPUS:
        return None
    least, largest = ACCEPTED_SHARES
    if least * sizes.total <= sizes.divisible <= largest * sizes.total:
        return None
    if not sizes.divisible and len(sizes.of_one) >= MIN_DOCUMENTS_TO_DETECT_SPLIT:
        return frozenset({min(sizes.of_one)})
    most, most_different = (
        MAX_VALIDATION_SHARE * total for total in (sizes.total, sum(sizes.of_one.values()))
    )
    chosen: set[str] = set()
    n_bytes = n_different = 0
    for sha256, size in sorted(sizes.of_all.items()):
        fits = n_bytes + size <= most and n_different + sizes.of_one[sha256] <= most_different
        if n_bytes < VALIDATION_SHARE * sizes.total and fits:
            chosen.add(sha256)
            n_bytes += size
            n_different += sizes.of_one[sha256]
    smallest = min(sizes.of_all, key=lambda sha256: (sizes.of_all[sha256], sha256))
    return frozenset(chosen or {smallest})


def _is_divisible(sha256: bytes) -> bool:
    return int.from_bytes(sha256) % 10 == 0
