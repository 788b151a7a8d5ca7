"""A trained model, read with NumPy alone: tokens flow in, logits and losses flow out, in float32 on the CPU.

It cannot train. It loads no framework, so generation starts at once, and it generates from small models faster than
PyTorch (benchmarks/generation.py). The other engines are checked against it.
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
from homespun.engine.base import HEAD_ROWS, Floats, checked, within_memory
from homespun.engine.numpy.layers import Weights, allocate, linear
from homespun.engine.numpy.models import Model, ModelFile
from homespun.engine.numpy.threads import ProductThreads
from homespun.named_array import NamedArray

SLICE_LENGTH = 256
"""Positions that are read at a time: bounds the memory of the attention weights."""


class NumpyEngine:
    """Reads one model; `load` gives it its weights."""

    model: Model
    weights: Weights

    def __init__(
        self, config: ModelConfig, threads: int | None = None, document_mark: int | None = None
    ) -> None:
        """`document_mark` as in `EngineOptions`."""
        self.config = config
        self.document_mark = document_mark
        self.threads = ProductThreads(threads)
        file = importlib.import_module(f"homespun.engine.numpy.models.{config.architecture}")
        self.model_file = cast(ModelFile, file)

    @within_memory()
    def load(self, tensors: Iterable[NamedArray]) -> None:
        """Weights by name.

        Raises:
            ValueError: a name is missing, unknown or given twice, or a shape or dtype differs.
        """
        shapes = {p.name: p.shape for p in parameters(self.config)}
        weights = allocate(self.config, self.model_file.FUSED)
        for name, array in checked(tensors, shapes, shapes):
            weights[name][...] = array
        self.weights = weights
        self.model = self.model_file.Model(self.config, weights)

    def state(self) -> Iterator[NamedArray]:
        """The weights, one at a time."""
        for p in parameters(self.config):
            yield p.name, np.ascontiguousarray(self.weights[p.name])

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

    @property
    def head(self) -> Floats:
        """[V, D]"""
        return (
            self.model.embedding if self.config.tie_embeddings else self.weights["lm_head.weight"]
        )

    def empty_cache(self, batch_size: int, max_len: int) -> Floats:
        """For the keys and values of each layer, [layers, B, 2 * K, positions, C]."""
        c = self.config
        return np.zeros((c.n_layers, batch_size, 2 * c.n_kv_heads, max_len, c.head_dim), np.float32)

    def hidden_apart(self, tokens: Tokens, documents: Tokens | None = None) -> Floats:
        """Tokens [B, T] from position 0 on -> the normed hidden states [B, T, D], in which no document sees another.
        `documents` as in `Batch`."""
        mark = self.document_mark
        if documents is None and mark is not None and (tokens[:, 1:] == mark).any():
            documents = (tokens == mark).cumsum(1, dtype=np.int32)
        return self.hidden(tokens, documents=documents)

    def hidden(
        self,
        tokens: Tokens,
        cache: Floats | None = None,
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

    def __init__(self, engine: NumpyEngine, cache: Floats, length: int = 0) -> None:
        self.engine = engine
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
        return NumpyDecoder(self.engine, np.repeat(self.cache, n, axis=1), self.length)

    def _append(self, tokens: Tokens) -> Floats:
        """Read tokens [B, T] into sequences of equal length; the logits [B, V] after the last one."""
        hidden = self.engine.hidden(tokens, self.cache, self.length)
        self.length += tokens.shape[1]
        return linear(hidden[:, -1], self.engine.head)

    def _set_lengths(self, lengths: npt.NDArray[np.int64]) -> None:
        self.length = int(lengths.max())
        self._shorter_by = self.length - lengths if (lengths < self.length).any() else None
