"""Words flow in, their ids flow out. Few words of a text are new, so most ids come from the cache.

Valid only for words as `Splitting.words` gives them, whose ids do not depend on the text around them.
"""

from collections.abc import Callable, Sequence
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

from homespun.tokenizer.splitting import Splitting
from homespun.tokenizer.utf8 import utf8

CACHE_BYTES = 1 << 20
"""The cache is emptied when its distinct words have more bytes; each takes some 15 to 20 bytes of memory."""
WORDS_PER_TEXT = 100
"""New words are encoded in texts of this many words, which takes half the time of encoding them one by one."""
DOCUMENT_START = ""
"""Marks the start of each document in a list of words, since no word is empty."""

EncodeBatch = Callable[[Sequence[str]], list[list[int]]]


class WordCache:
    """The ids of the words seen so far."""

    def __init__(
        self,
        splitting: Splitting,
        encode_batch: EncodeBatch,
        eot_id: int,
        byte_lengths: npt.NDArray[np.int32] | None,
    ):
        """
        Args:
            splitting: cuts texts into words.
            encode_batch: gives the ids of several texts.
            eot_id: the id for `DOCUMENT_START`.
            byte_lengths: bytes of text of each token [vocab_size]; None if those of a text's tokens may not add up to
                the length of the text.
        """
        self.splitting = splitting
        self._encode_batch = encode_batch
        self._eot_id = eot_id
        self._byte_lengths = byte_lengths
        self._clear()

    def _clear(self) -> None:
        # Ids are kept as bytes, which are joined faster than lists or arrays.
        self._ids = {DOCUMENT_START: np.int32(self._eot_id).tobytes()}
        self.n_bytes = 0

    def lookup(self, words: Sequence[str]) -> bytes:
        """The ids of words in a row, int32.

        Raises:
            UserError: a word holds a lone surrogate.
        """
        if self.n_bytes > CACHE_BYTES:
            self._clear()
        ids = self._ids  # another thread may replace it
        new = [word for word in dict.fromkeys(words) if word not in ids]
        if new:
            self._learn(new, ids)
        return b"".join(map(ids.__getitem__, words))

    def _learn(self, words: Sequence[str], known: dict[str, bytes]) -> None:
        together: list[str] = []
        alone: list[str] = []
        for word in words:
            (together if self._may_join(word) else alone).append(word)
        lengths = {word: len(utf8(word)) for word in words}
        starts = range(0, len(together), WORDS_PER_TEXT)
        texts = ["".join(together[start : start + WORDS_PER_TEXT]) for start in starts]
        encoded = self._encode_batch(texts + alone)
        ids = np.fromiter(chain.from_iterable(encoded), np.int32)
        ends = [0]
        if self._byte_lengths is not None and together:
            n_ids = sum(map(len, encoded[: len(texts)]))
            token_ends = np.cumsum(self._byte_lengths[ids[:n_ids]])
            word_ends = np.cumsum([lengths[word] for word in together])
            ends += (np.searchsorted(token_ends, word_ends) + 1).tolist()
        for alone_ids in encoded[len(texts) :]:
            ends.append(ends[-1] + len(alone_ids))
        packed = ids.tobytes()
        for word, (begin, end) in zip([*together, *alone], pairwise(ends), strict=True):
            known[word] = packed[begin * ids.itemsize : end * ids.itemsize]
        self.n_bytes += sum(lengths.values())

    def _may_join(self, word: str) -> bool:
        """Whether a word may be encoded in one text with others: the text can be cut before it, and the lengths of the
        tokens show where."""
        return (
            self._byte_lengths is not None
            and word[0] in self.splitting.cut_before
            and not word[-1].isspace()
        )
