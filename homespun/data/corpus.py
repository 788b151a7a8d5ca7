"""Documents flow in, a corpus flows out: facts about the whole text, and its split into training and validation.

The split depends on the text alone. Every part of the project that reads the same text therefore holds out the same
documents, and nothing learns from them.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun import workspace
from homespun.data.documents import (
    block_bytes,
    blocks,
    bytes_to_read,
    documents,
    files_to_read,
    left_out,
)
from homespun.data.manifest import Manifest, Snapshot
from homespun.errors import UserError
from homespun.terminal import Say, bar, counted

VALIDATION_SHARE = 0.1
"""The share of the text that is held out for validation."""
ACCEPTED_SHARES = (0.7 * VALIDATION_SHARE, 1.3 * VALIDATION_SHARE)
"""The least and the largest share that a split by hashes alone may have."""
MAX_VALIDATION_SHARE = 2 * VALIDATION_SHARE
"""No choice of documents by size exceeds this share."""
LARGE_CORPUS = 1 << 16
"""From this number of documents on, the split is by hashes alone. Sizes are compared only in smaller texts."""
MIN_DOCUMENTS = 10
"""A text of fewer documents is cut into blocks, since a tenth of it is less than one document."""
MIN_DOCUMENTS_TO_DETECT_SPLIT = 100
"""If none of this many documents has a hash divisible by ten, the validation documents were removed earlier."""
RULES = 1
"""The version of the rules in this module and in `documents`. Raise it when either of them reads or splits a text
differently; surveys by earlier rules are then forgotten."""


@dataclass(frozen=True)
class Corpus:
    """The documents of a text, and their split into training and validation.

    A document belongs to validation if its SHA-256 is divisible by ten. That is about a tenth of the documents, and
    equal documents are on the same side. If it is not about a tenth of the text, as happens with few documents,
    others are chosen by hash and size, see `_validation_hashes`. A text of fewer than ten different documents is cut
    into blocks, and each block counts as a document.
    """

    path: Path
    sha256: str
    """Identity of the text: the SHA-256 over the SHA-256 of each document, in order. It is the same for every kind
    of file that holds these documents."""
    n_documents: int
    """Number of documents, or of blocks if the documents are cut."""
    n_bytes: int
    """Bytes of UTF-8, without separators."""
    validation_hashes: frozenset[str] | None = None
    """SHA-256 of the validation documents; None if they are those divisible by ten."""
    max_block_bytes: int | None = None
    """Largest size of a block; None if the documents are not cut."""

    def split(self) -> Iterator[tuple[str, bool]]:
        """Stream all documents, each with True if it belongs to validation.

        Raises:
            UserError: the text has changed since its survey. This is known only at the end of the stream.
        """
        identity = hashlib.sha256()
        for document in documents(self.path):
            encoded = document.encode()
            identity.update(hashlib.sha256(encoded).digest())
            limit = self.max_block_bytes
            for piece in [document] if limit is None else blocks(encoded, limit):
                yield piece, self._is_validation(_sha256(piece))
        if identity.hexdigest() != self.sha256:
            raise UserError(f"{self.path}: changed while it was being read; run this again")

    def training(self) -> Iterator[str]:
        """Stream the training documents."""
        return (document for document, is_validation in self.split() if not is_validation)

    def validation(self) -> Iterator[str]:
        """Stream the validation documents."""
        return (document for document, is_validation in self.split() if is_validation)

    def _is_validation(self, sha256: str) -> bool:
        chosen = self.validation_hashes
        return _is_divisible(sha256) if chosen is None else sha256 in chosen


def survey(path: Path, say: Say | None = None) -> Corpus:
    """Find out which documents a text has and how they split.

    All of the text is read, with a progress bar on a terminal. The result is kept in a manifest, so that the next
    survey of the same files reads nothing as long as their sizes, times and inodes stay the same.

    Args:
        path: a file or a folder.
        say: receives a message about files that are left out of a folder.

    Raises:
        UserError: there is nothing to read, a file breaks the policy of `documents`, or the text is too small to be
            split.
    """
    snapshot = Snapshot(files_to_read(path))
    name = path.resolve().name
    manifest = Manifest(workspace.tokens_folder(path) / f"{name}.survey.json", RULES)
    fact = manifest.recall(name, snapshot)
    if fact is None:
        corpus = _read(path)
        manifest.note(name, snapshot, _as_fact(corpus))
        manifest.save()
    else:
        corpus = _from_fact(path, fact)
    if say and (others := left_out(path)):
        say(f"Left out of {path}: {others}.")
    return corpus


def _as_fact(corpus: Corpus) -> dict[str, Any]:
    hashes = corpus.validation_hashes
    return {
        "sha256": corpus.sha256,
        "n_documents": corpus.n_documents,
        "n_bytes": corpus.n_bytes,
        "validation_hashes": None if hashes is None else sorted(hashes),
        "max_block_bytes": corpus.max_block_bytes,
    }


def _from_fact(path: Path, fact: dict[str, Any]) -> Corpus:
    hashes = fact["validation_hashes"]
    hashes = None if hashes is None else frozenset(hashes)
    return Corpus(path=path, **{**fact, "validation_hashes": hashes})


def _read(path: Path) -> Corpus:
    """Read and hash all documents."""
    identity = hashlib.sha256()
    n_documents = n_bytes = 0
    sizes: dict[str, int] = {}  # of the first `LARGE_CORPUS` different documents
    with bar(f"Reading {path}", bytes_to_read(path)) as advance:
        for document in documents(path):
            encoded = document.encode()
            digest = hashlib.sha256(encoded)
            identity.update(digest.digest())
            if len(sizes) < LARGE_CORPUS:
                sizes[digest.hexdigest()] = len(encoded)
            n_documents += 1
            n_bytes += len(encoded)
            advance(len(encoded))
    max_block_bytes = None
    if len(sizes) < MIN_DOCUMENTS:
        max_block_bytes = 2 * block_bytes(sum(sizes.values()))
        sizes, n_documents = {}, 0
        for document in documents(path):
            for block in blocks(document.encode(), max_block_bytes):
                sizes[_sha256(block)] = len(block.encode())
                n_documents += 1
    if len(sizes) < 2:
        raise UserError(
            f"{path}: too little text to hold some out for validation ({counted(n_bytes, 'byte')}); "
            "give more text, or more than one document"
        )
    return Corpus(
        path=path,
        sha256=identity.hexdigest(),
        n_documents=n_documents,
        n_bytes=n_bytes,
        validation_hashes=_validation_hashes(sizes),
        max_block_bytes=max_block_bytes,
    )


def _validation_hashes(sizes: dict[str, int]) -> frozenset[str] | None:
    """Choose the validation documents; None if those divisible by ten are a fair choice.

    Documents are taken in the order of their hashes until they hold a tenth of the text. A document that would raise
    the share above a fifth is passed over. If every single document is larger than that, the shortest one is taken.

    Args:
        sizes: bytes of each different document by its SHA-256, of `LARGE_CORPUS` documents at most.
    """
    if len(sizes) >= LARGE_CORPUS:
        return None
    total = sum(sizes.values())
    divisible = sum(size for sha256, size in sizes.items() if _is_divisible(sha256))
    least, largest = ACCEPTED_SHARES
    if least * total <= divisible <= largest * total:
        return None
    if not divisible and len(sizes) >= MIN_DOCUMENTS_TO_DETECT_SPLIT:
        return frozenset({min(sizes)})
    chosen: set[str] = set()
    n_bytes = 0
    for sha256, size in sorted(sizes.items()):
        if n_bytes < VALIDATION_SHARE * total and n_bytes + size <= MAX_VALIDATION_SHARE * total:
            chosen.add(sha256)
            n_bytes += size
    return frozenset(chosen or {min(sizes, key=lambda sha256: (sizes[sha256], sha256))})


def _is_divisible(sha256: str) -> bool:
    return int(sha256, 16) % 10 == 0


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
