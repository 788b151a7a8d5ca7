"""A small model and tokenizer with known behaviour."""

import codecs
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from homespun.data.batch import Tokens
from homespun.engine.base import Floats

VOCAB_SIZE = 257


class ByteTokenizer:
    """Token 0 ends a text; token 1 + b is the byte b."""

    eot_id = 0
    vocab_size = VOCAB_SIZE
    chunk = 1
    """Number of characters that a stream returns at a time, to imitate longer tokens."""

    def encode(self, text: str) -> list[int]:
        return [1 + byte for byte in text.encode("utf-8")]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i - 1 for i in ids if i).decode("utf-8", errors="replace")

    def stream(self, *, continued: bool = False) -> "ByteStream":
        return ByteStream(self.chunk)


class ByteStream:
    def __init__(self, chunk: int) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._chunk = chunk
        self._text = ""

    def push(self, token: int) -> str:
        self._text += self._decoder.decode(bytes([token - 1]))
        return self._take() if len(self._text) >= self._chunk else ""

    def flush(self) -> str:
        self._text += self._decoder.decode(b"", final=True)
        return self._take()

    def _take(self) -> str:
        text, self._text = self._text, ""
        return text


Model = Callable[[tuple[int, ...]], Floats]
"""Tokens of the visible text -> logits [V]."""


def hash_model(seed: int = 0, eot: float = 0.0) -> Model:
    """Random logits that depend on every visible token and its position; `eot` is added to the end-of-text logit."""

    def logits(prefix: tuple[int, ...]) -> Floats:
        digest = hashlib.sha256(repr((seed, prefix)).encode()).digest()
        values = np.random.default_rng(list(digest)).normal(size=VOCAB_SIZE).astype(np.float32) * 3
        values[0] += eot
        return values

    return logits


def script_model(text: bytes, prompt_length: int = 1) -> Model:
    """A model that writes `text` and then ends, independent of the sampling settings."""

    def logits(prefix: tuple[int, ...]) -> Floats:
        n = len(prefix) - prompt_length
        values = np.full(VOCAB_SIZE, -1e4, dtype=np.float32)
        values[1 + text[n] if n < len(text) else 0] = 0
        return values

    return logits


class CachingDecoder:
    """A decoder that sees only the tokens in its cache, and refuses calls that a real decoder could not serve."""

    def __init__(self, model: Model, batch_size: int, max_len: int) -> None:
        self.model = model
        self.max_len = max_len
        self.rewinds = 0
        self.tokens_read = 0
        self.copies: list[CachingDecoder] = []
        self.cache: list[list[int]] = [[] for _ in range(batch_size)]

    @property
    def length(self) -> int:
        return max(map(len, self.cache))

    def prefill(self, tokens: Tokens, lengths: Sequence[int] | None = None) -> Floats:
        assert tokens.dtype == np.int32
        assert tokens.shape[0] == len(self.cache)
        assert tokens.shape[1] >= 1
        assert tokens.min() >= 0
        if lengths is not None:
            assert self.length == 0, "rows of different length begin with an empty cache"
            assert max(lengths) == tokens.shape[1]
        counts = lengths or [tokens.shape[1]] * len(tokens)
        for row, new, count in zip(self.cache, tokens.tolist(), counts, strict=True):
            row.extend(new[:count])
            self.tokens_read += count
        assert self.length <= self.max_len, "more positions than the cache has"
        return np.stack([self.model(tuple(row)) for row in self.cache])

    def step(self, tokens: Tokens) -> Floats:
        return self.prefill(tokens[:, None])

    def rewind(self, length: int) -> None:
        self.rewinds += 1
        self.cache = [row[:length] for row in self.cache]

    def repeated(self, n: int) -> "CachingDecoder":
        assert len(self.cache) == 1
        copies = CachingDecoder(self.model, n, self.max_len)
        copies.cache = [list(self.cache[0]) for _ in range(n)]
        self.copies.append(copies)
        return copies

    def join(self, other: "CachingDecoder") -> None:
        [row] = other.cache
        self.max_len = max(self.max_len, other.max_len)
        self.cache.append(list(row))

    def drop(self, row: int) -> None:
        assert len(self.cache) > 1
        last = self.cache.pop()
        if row < len(self.cache):
            self.cache[row] = last


class Factory:
    """Takes the place of `Engine.decoder` and keeps a list of the decoders that it made."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.made: list[CachingDecoder] = []

    def __call__(self, batch_size: int, max_len: int) -> CachingDecoder:
        self.made.append(CachingDecoder(self.model, batch_size, max_len))
        return self.made[-1]

    @property
    def decoders(self) -> list[CachingDecoder]:
        """The decoders that were made, and their copies."""
        return [*self.made, *(copy for decoder in self.made for copy in decoder.copies)]


@pytest.fixture(scope="session")
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture(scope="session")
def decoders() -> Callable[..., Factory]:
    """`decoders(eot=...)`: decoders of a model with random logits."""
    return lambda **options: Factory(hash_model(**options))


@pytest.fixture(scope="session")
def scripted() -> Callable[..., Factory]:
    """`scripted(b"...")`: decoders of a model that writes exactly this text after its prompt."""
    return lambda text, prompt_length=1: Factory(script_model(text, prompt_length))
