"""Documents in, a corpus out: what they are as a whole, and which of them are kept aside for validation.

The split follows from the text alone, so every part of the project that reads the same data keeps the same documents
aside, and nothing that is learned has seen them.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from homespun.data.documents import block_bytes, blocks, bytes_to_read, documents, left_out
from homespun.errors import UserError
from homespun.terminal import Say, bar

SHARE = 0.1
"""Of the text, for validation."""
NEAR = (0.7 * SHARE, 1.3 * SHARE)
"""Shares that will do."""
MOST = 2 * SHARE
"""The share that no choice exceeds."""
MANY = 1 << 16
"""So many documents divide fairly by their hashes alone; of fewer, the sizes are looked at."""
FEW = 10
"""Of fewer documents a tenth is none: they are cut."""
DIVIDED = 100
"""Of so many documents some are divisible by ten, unless somebody has taken those out already."""


@dataclass(frozen=True)
class Corpus:
    """Documents on disk: what they are, and which of them are kept aside for validation.

    A document is validation where its SHA-256 is divisible by ten: about a tenth of them, and equal
    documents on one side. Where that is not about a tenth of the text, as happens with few
    documents, others are chosen by their hashes, see `_kept_aside`. Fewer than ten different
    documents are cut into blocks, and the blocks are the documents.
    """

    path: Path
    sha256: str
    """Identity of the text: over the SHA-256 of each document, in order; no matter what kind of
    file it is in."""
    n_documents: int
    """Blocks, where the documents are cut."""
    n_bytes: int
    """Of UTF-8, without separators."""
    kept_aside: frozenset[str] | None = None
    """SHA-256 of the validation documents, where it is not those divisible by ten."""
    longest: int | None = None
    """Bytes of a block at most, where the documents are cut."""

    def split(self) -> Iterator[tuple[str, bool]]:
        """Stream (document, is it validation).

        Raises:
            UserError: the data has changed since it was surveyed (known at the end).
        """
        identity = hashlib.sha256()
        for document in documents(self.path):
            encoded = document.encode()
            identity.update(hashlib.sha256(encoded).digest())
            for piece in [document] if self.longest is None else blocks(encoded, self.longest):
                yield piece, self._is_validation(_sha256(piece))
        if identity.hexdigest() != self.sha256:
            raise UserError(f"{self.path}: changed while it was being read; run this again")

    def training(self) -> Iterator[str]:
        """Stream the documents to learn from."""
        return (document for document, is_validation in self.split() if not is_validation)

    def validation(self) -> Iterator[str]:
        """Stream the documents kept aside."""
        return (document for document, is_validation in self.split() if is_validation)

    def _is_validation(self, sha256: str) -> bool:
        return _is_divisible(sha256) if self.kept_aside is None else sha256 in self.kept_aside


def survey(path: Path, say: Say | None = None) -> Corpus:
    """Read all documents once, to know what they are and how they split; with a bar on a terminal.

    Args:
        path: a file or folder.
        say: is told of what is left out of a folder.

    Raises:
        UserError: nothing to read, a file breaks the policy of `documents`, or too little text for two sides.
    """
    identity = hashlib.sha256()
    n_documents = n_bytes = 0
    sizes: dict[str, int] = {}
    with bar(f"Reading {path}", bytes_to_read(path)) as advance:
        for document in documents(path):
            encoded = document.encode()
            digest = hashlib.sha256(encoded)
            identity.update(digest.digest())
            if len(sizes) < MANY:
                sizes[digest.hexdigest()] = len(encoded)
            n_documents += 1
            n_bytes += len(encoded)
            advance(len(encoded))
    longest = None
    if len(sizes) < FEW:
        longest = 2 * block_bytes(sum(sizes.values()))
        sizes, n_documents = {}, 0
        for document in documents(path):
            for block in blocks(document.encode(), longest):
                sizes[_sha256(block)] = len(block.encode())
                n_documents += 1
    if len(sizes) < 2:
        raise UserError(
            f"{path}: {n_bytes:,} bytes with nothing to keep aside for validation; "
            "give more text, or more than one document"
        )
    if say and (others := left_out(path)):
        say(f"Left out of {path}: {others}.")
    return Corpus(
        path=path,
        sha256=identity.hexdigest(),
        n_documents=n_documents,
        n_bytes=n_bytes,
        kept_aside=_kept_aside(sizes),
        longest=longest,
    )


def _kept_aside(sizes: dict[str, int]) -> frozenset[str] | None:
    """Which documents are validation, where it is not those divisible by ten.

    They are taken in the order of their hashes, save those that would make it more than a fifth of
    the text, until they are a tenth of it; where each alone is more than a fifth, it is the shortest one.

    Args:
        sizes: bytes of each different document by its SHA-256, or of `MANY` of them.
    """
    if len(sizes) >= MANY:
        return None
    total = sum(sizes.values())
    divisible = sum(size for sha256, size in sizes.items() if _is_divisible(sha256))
    if NEAR[0] * total <= divisible <= NEAR[1] * total:
        return None
    if not divisible and len(sizes) >= DIVIDED:
        return frozenset({min(sizes)})
    taken: set[str] = set()
    n_bytes = 0
    for sha256, size in sorted(sizes.items()):
        if n_bytes < SHARE * total and n_bytes + size <= MOST * total:
            taken.add(sha256)
            n_bytes += size
    return frozenset(taken or {min(sizes, key=lambda sha256: (sizes[sha256], sha256))})


def _is_divisible(sha256: str) -> bool:
    return int(sha256, 16) % 10 == 0


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
