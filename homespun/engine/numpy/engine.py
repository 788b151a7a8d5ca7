"""A trained model, read with NumPy alone: tokens flow in, logits and losses flow out, in float32 on the CPU.

The weights may have 16 or 8 bits; keys and values then have 16. Where there is a C compiler, the products and other
parts of a decoding step are compiled (`products.py`). It cannot train. It loads no framework, so generation starts at
once, and it generates faster than PyTorch (benchmarks/generation.py). The other engines are checked against it.
"""

import copy
import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from homespun.architectures.families import parameters
from homespun.config import ModelConfig
from homespun.data.batch import IGNORED, Batch, Tokens
from homespun.engine.base import (
    HEAD_ROWS,
    Draw,
    Floats,
    checked,
    weights_were_rounded,
    within_memory,
)
from homespun.engine.inside import Experts, Inside
from homespun.engine.numpy.layers import Matrix, Watch, Weights, allocate, linear
from homespun.engine.numpy.models import Model, ModelFile
from homespun.engine.numpy.narrow import Cache, NarrowPrecision
from homespun.engine.numpy.products import Products
from homespun.engine.numpy.threads import ProductThreads
from homespun.named_array import NamedArray

SLICE_LENGTH = 256
"""Positions that are read at a time: bounds the memory of the attention weights."""


class NumpyEngine:
    """Reads one model; `load` gives it its weights."""

    model: Model
    weights: Weights

    def __init__(
        self,
        config: ModelConfig,
        threads: int | None = None,
        document_mark: int | None = None,
        narrow: NarrowPrecision | None = None,
        products: Products | None = None,
    ) -> None:
        """
        Args:
            document_mark: as in `EngineOptions`.
            narrow: the precision of matrices and embeddings; None: float32. Sums are in float32 in any case.
            products: the compiled functions; without them NumPy computes the same, more slowly.
        """
        self.config = config
        self.document_mark = document_mark
        self.narrow = narrow
        self.products = products
        self.threads = ProductThreads(threads, own=products)
        file = importlib.import_module(f"homespun.engine.numpy.models.{config.architecture}")
        self.model_file = cast(ModelFile, file)

    @within_memory()
    def load(self, tensors: Iterable[NamedArray]) -> None:
        """Weights by name.

        Raises:
            ValueError: a name is missing, unknown or given twice, or a shape or dtype differs.
        """
        shapes = {p.name: p.shape for p in parameters(self.config)}
        weights = allocate(self.config, self.model_file.FUSED, self.narrow, self.products)
        for name, array in checked(tensors, shapes, shapes):
            if isinstance(weights[name], np.ndarray):
                weights[name][...] = array
            else:
                weights[name].fill(array)
        self.weights = weights
        self.model = self.model_file.Model(self.config, weights, self.products)

    @property
    def rounds_weights(self) -> bool:
        return self.narrow is not None

    @property
    def draw(self) -> Draw | None:
        """See `Drawer`."""
        return self.products.draw if self.products else None

    def state(self) -> Iterator[NamedArray]:
        """The weights, one at a time.

        Raises:
            RuntimeError: they were rounded.
        """
        if self.narrow is not None:
            raise weights_were_rounded()
        for p in parameters(self.config):
            weight = self.weights[p.name]
            values = weight if isinstance(weight, np.ndarray) else weight.widened()
            yield p.name, np.ascontiguousarray(values)

    @within_memory()
    def logits(self, tokens: Tokens) -> Floats:
        """[B, T] -> [B, T, V]."""
        with self.threads.default():
            hidden = self.hidden_apart(tokens).reshape(-1, self.config.d_model)
            return linear(hidden, self.head).reshape(*tokens.shape, -1)

    @within_memory()
    def loss(self, batch: Batch) -> tuple[float, int]:
        """Summed loss in nats, and the number of valid targets."""
        with self.threads.default():
            return -float(self._log_probabilities(batch).sum()), batch.n_targets

    @within_memory()
    def log_probabilities(self, batch: Batch) -> Floats:
        """The log-probability of each target in nats, [B, T]; 0 where there is none."""
        with self.threads.default():
            return self._log_probabilities(batch).astype(np.float32)

    def _log_probabilities(self, batch: Batch) -> npt.NDArray[np.float64]:
        hidden = self.hidden_apart(batch.inputs, batch.documents)
        hidden = hidden.reshape(-1, self.config.d_model)
        targets = batch.targets.reshape(-1)
        found = np.zeros(len(targets))
        for start in range(0, len(hidden), HEAD_ROWS):
            expected = targets[start : start + HEAD_ROWS]
            valid = np.flatnonzero(expected != IGNORED)
            logits = linear(hidden[start : start + HEAD_ROWS], self.head)[valid].astype(np.float64)
            logits -= logits.max(-1, keepdims=True)
            chosen = logits[np.arange(len(valid)), expected[valid]]
            found[start + valid] = chosen - np.log(np.exp(logits).sum(-1))
        return found.reshape(batch.targets.shape)

    @within_memory()
    def decoder(self, batch_size: int, max_len: int) -> "NumpyDecoder":
        """A decoder for `batch_size` sequences of at most `max_len` positions.

        Raises:
            ValueError: the model has fewer positions.
        """
        if max_len > self.config.seq_len:
            raise ValueError(f"{max_len} positions are more than the model's {self.config.seq_len}")
        # A copy refers to the weights of this moment, which `load` replaces.
        return NumpyDecoder(copy.copy(self), self.empty_cache(batch_size, max_len))

    @within_memory()
    def inspect(self, tokens: Tokens) -> Inside:
        """See `Inspector.inspect`. A document does not see another one, as in `logits`."""
        batch, watch = tokens[None], Watch()
        documents = self._documents(batch)
        apart = None
        if documents is not None:
            apart = documents[:, None, :, None] != documents[:, None, None, :]
        with self.threads.default():
            self.model(batch, slice(0, len(tokens)), self.empty_cache(1, len(tokens)), apart, watch)
        experts: list[Experts | None] = watch.experts or [None] * self.config.n_layers
        return Inside(np.stack(watch.hidden), np.stack(watch.attention), tuple(experts))

    @within_memory()
    def lens(self, hidden: Floats) -> Floats:
        """See `Inspector.lens`."""
        with self.threads.default():
            return linear(self.model.normed(hidden), self.head)

    @property
    def head(self) -> Matrix:
        """[V, D]"""
        if self.config.tie_embeddings:
            return self.model.embedding
        head: Matrix = self.weights["lm_head.weight"]
        return head

    def empty_cache(self, batch_size: int, max_len: int) -> Cache:
        """For the keys and values of each layer, [layers, B, 2 * K, positions, C]. Beside narrow weights they are in
        bfloat16, where this is faster: those of many texts take more memory than the weights."""
        c = self.config
        shape = c.n_layers, batch_size, 2 * c.n_kv_heads, max_len, c.head_dim
        if self.narrow and self.products:
            return np.zeros(shape, np.uint16)
        return np.zeros(shape, np.float32)

    def hidden_apart(self, tokens: Tokens, documents: Tokens | None = None) -> Floats:
        """Tokens [B, T] from position 0 on -> the normed hidden states [B, T, D], in which no document sees another.
        `documents` as in `Batch`."""
        documents = self._documents(tokens) if documents is None else documents
        return self.hidden(tokens, documents=documents)

    def _documents(self, tokens: Tokens) -> Tokens | None:
        """The number of the document of each token, [B, T]; None where all tokens of a sequence are of one."""
        mark = self.document_mark
        if mark is None or not (tokens[:, 1:] == mark).any():
            return None
        numbers: Tokens = (tokens == mark).cumsum(1, dtype=np.int32)
        return numbers

    def hidden(
        self,
        tokens: Tokens,
        cache: Cache | None = None,
        start: int = 0,
        documents: Tokens | None = None,
    ) -> Floats:
        """Tokens [B, T] from position `start` on -> the normed hidden states [B, T, D].

        `documents` [B, T] has the number of the document of each token, where `start` is 0; without it, all see all.
        """
        batch, n = tokens.shape
        cache = self.empty_cache(batch, n) if cache is None else cache
        parts = []
        for first in range(0, n, SLICE_LENGTH):
            end = min(n, first + SLICE_LENGTH)
            apart = None
            if documents is not None:
                apart = documents[:, None, first:end, None] != documents[:, None, None, :end]
            positions = slice(start + first, start + end)
            parts.append(self.model(tokens[:, first:end], positions, cache, apart))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class NumpyDecoder:
    """Runs the model one token at a time and keeps keys and values in a cache [layers, B, 2 * K, positions, C].

    Each sequence begins at position 0 of the cache. After the end of a shorter one the cache may hold the keys of
    padding. Attention does not see these, and the next tokens of the sequence overwrite them.
    """

    def __init__(self, engine: NumpyEngine, cache: Cache, length: int = 0) -> None:
        self.engine = engine
        self.storage = cache  # the cache, and rows and positions for sequences that join
        self.cache = cache
        self.length = length
        # How many positions each sequence is shorter than the longest; None where all are equally long.
        self._shorter_by: npt.NDArray[np.int64] | None = None
        engine.threads.begin(cache.shape[1])

    @within_memory()
    def prefill(self, tokens: Tokens, lengths: Sequence[int] | None = None) -> Floats:
        """See `Decoder.prefill`.

        Raises:
            ValueError: `lengths` differ and the cache is not empty, or it holds sequences of different length.
        """
        with self.engine.threads.prefill():
            if lengths is not None:
                tokens = tokens[:, : max(lengths)]
            if lengths is None or len(set(lengths)) == 1:
                if self._shorter_by is not None:
                    raise ValueError("the sequences in the cache differ in length: rewind it first")
                return self._append(tokens)
            if self.length:
                raise ValueError("sequences of different length need an empty cache")
            ends = np.asarray(lengths)
            hidden = self.engine.hidden(tokens, self.cache)
            self._set_lengths(ends)
            return linear(hidden[np.arange(len(ends)), ends - 1], self.engine.head)

    @within_memory()
    def step(self, tokens: Tokens) -> Floats:
        """See `Decoder.step`."""
        with self.engine.threads.step():
            if self._shorter_by is None:
                return self._append(tokens[:, None])
            positions = self.length - self._shorter_by
            hidden = self.engine.model(tokens[:, None], positions[:, None], self.cache)
            self.length += 1
            return linear(hidden[:, -1], self.engine.head)

    def rewind(self, length: int) -> None:
        """See `Decoder.rewind`."""
        if self._shorter_by is None:
            self.length = length
        else:
            self._set_lengths(np.minimum(self.length - self._shorter_by, length))

    @within_memory()
    def repeated(self, n: int) -> "NumpyDecoder":
        """See `Decoder.repeated`.

        Raises:
            ValueError: this decoder has more than one sequence.
        """
        if self.cache.shape[1] != 1:
            raise ValueError(f"only one sequence can be repeated, not {self.cache.shape[1]}")
        cache = self.engine.empty_cache(n, self.cache.shape[3])
        cache[...] = self.cache
        return NumpyDecoder(self.engine, cache, self.length)

    @within_memory()
    def join(self, other: "NumpyDecoder") -> None:
        """See `Decoder.join`.

        Raises:
            ValueError: the other decoder has more than one sequence.
        """
        if other.cache.shape[1] != 1:
            raise ValueError(f"only one sequence can join, not {other.cache.shape[1]}")
        n, max_len = self.cache.shape[1], max(self.cache.shape[3], other.cache.shape[3])
        if n == self.storage.shape[1] or max_len > self.storage.shape[3]:
            room = 2 * n if n == self.storage.shape[1] else self.storage.shape[1]
            grown = self.engine.empty_cache(room, max_len)
            grown[:, :n, :, : self.length] = self.cache[:, :, :, : self.length]
            self.storage = grown
        self.storage[:, n, :, : other.length] = other.cache[:, 0, :, : other.length]
        self._take_rows([*self._lengths, other.length])

    def drop(self, row: int) -> None:
        """See `Decoder.drop`.

        Raises:
            ValueError: it is the only sequence.
        """
        lengths = self._lengths
        last = len(lengths) - 1
        if not last:
            raise ValueError("the only sequence cannot be dropped")
        self.cache[:, row, :, : lengths[last]] = self.cache[:, last, :, : lengths[last]]
        lengths[row] = lengths[last]
        self._take_rows(lengths[:last])

    @property
    def _lengths(self) -> list[int]:
        """The number of positions of each sequence."""
        n = self.cache.shape[1]
        return (
            [self.length] * n
            if self._shorter_by is None
            else (self.length - self._shorter_by).tolist()
        )

    def _take_rows(self, lengths: Sequence[int]) -> None:
        """Go on with the first rows of the storage, which have these lengths."""
        self.cache = self.storage[:, : len(lengths)]
        self._set_lengths(np.asarray(lengths))
        self.engine.threads.begin(len(lengths))

    def _append(self, tokens: Tokens) -> Floats:
        """Read tokens [B, T] into sequences of equal length; the logits [B, V] after the last one."""
        hidden = self.engine.hidden(tokens, self.cache, self.length)
        self.length += tokens.shape[1]
        return linear(hidden[:, -1], self.engine.head)

    def _set_lengths(self, lengths: npt.NDArray[np.int64]) -> None:
        self.length = int(lengths.max())
        self._shorter_by = self.length - lengths if (lengths < self.length).any() else None
