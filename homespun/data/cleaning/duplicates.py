"""Documents flow in, one after the other; whether an earlier one is the same, or nearly the same, flows out.

Equal documents are found by their SHA-256. Similar ones are found by MinHash (Broder 1997): the sets of all runs of
`SHINGLE_WORDS` words are compared by small samples of both, and an index finds the samples that are worth comparing.
"""

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.errors import UserError

INSTALL = "pip install 'homespun[clean]'"
SHINGLE_WORDS = 5
SAMPLES = 128
"""Numbers in a signature. The similarity of two documents is measured with a standard error of up to 4%."""
SCHEME = "affine32"
"""The library's kind of MinHash."""
DIGEST_BYTES = 16
"""Of the SHA-256 of a document, which is enough: the chance that two of a billion are alike is 1 in 10**21."""

Signatures = npt.NDArray[np.uint32]


def check_installed() -> None:
    """Make sure that near duplicates can be found here.

    Raises:
        UserError: the library is missing.
    """
    try:
        import datasketch  # noqa: F401
    except ImportError:
        raise UserError(f"near duplicates need a library: {INSTALL}") from None


def signatures(documents: Sequence[str]) -> Signatures:
    """The MinHash signature of each document. [n, SAMPLES]"""
    found = np.empty((len(documents), SAMPLES), np.uint32)
    if not documents:
        return found
    from datasketch import MinHash

    empty = MinHash(SAMPLES, hashfunc=zlib.crc32, scheme=SCHEME)
    for number, document in enumerate(documents):
        signature = empty.copy()
        signature.update_batch(_shingles(document))
        found[number] = signature.hashvalues
    return found


def _shingles(document: str) -> list[bytes]:
    """All runs of a few words, in small letters. A shorter text is one run."""
    words = re.findall(r"\w+", document.lower()) or [document]
    starts = range(max(1, len(words) - SHINGLE_WORDS + 1))
    return list({" ".join(words[start : start + SHINGLE_WORDS]).encode() for start in starts})


class Duplicates:
    """The documents so far by their hash. Each takes about 150 bytes of memory."""

    def __init__(self) -> None:
        self._first: dict[bytes, int] = {}

    def original(self, number: int, sha256: bytes) -> int | None:
        """The number of an equal document, or None if this is the first such one."""
        first = self._first.setdefault(sha256[:DIGEST_BYTES], number)
        return None if first == number else first


class NearDuplicates:
    """The documents so far by their signature. Each takes about 3 kB of memory."""

    def __init__(self, similarity: float) -> None:
        """`similarity`: from which share of common runs of words on two documents are nearly the same."""
        from datasketch import MinHashLSH

        self._similarity = similarity
        # Rather too many candidates than too few: each is compared.
        self._index: Any = MinHashLSH(threshold=similarity, num_perm=SAMPLES, weights=(0.1, 0.9))
        self._signatures: dict[int, Signatures] = {}

    def original(self, number: int, signature: Signatures) -> int | None:
        """The number of the first document that is nearly the same, or None if there is none. Only in this case the
        document is remembered."""
        from datasketch import LeanMinHash

        wrapped = LeanMinHash(seed=1, hashvalues=signature, scheme=SCHEME)
        for candidate in sorted(self._index.query(wrapped)):
            if np.mean(self._signatures[candidate] == signature) >= self._similarity:
                return int(candidate)
        self._index.insert(number, wrapped, check_duplication=False)
        self._signatures[number] = signature.copy()
        return None
