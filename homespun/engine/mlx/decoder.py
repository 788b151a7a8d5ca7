"""Decoding with a key/value cache: new tokens of each sequence flow in, the logits after them flow out."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from homespun.data.batch import Tokens
from homespun.engine.base import Floats, within_memory
from homespun.engine.mlx import machine
from homespun.engine.mlx.cache import Cache
from homespun.engine.mlx.model import DecoderModel


class MlxDecoder:
    """A model and a cache of `max_len` positions for each of `batch_size` sequences."""

    def __init__(self, model: DecoderModel, batch_size: int, max_len: int) -> None:
        """`model` comes from `DecoderModel.for_decoding`.

        Raises:
            ValueError: `max_len` is more than the model's context.
        """
        if max_len > model.config.seq_len:
            raise ValueError(
                f"{max_len} positions are more than the model's {model.config.seq_len}"
            )
        self.model = model
        self.cache = Cache(model.config, batch_size, max_len, model.dtype)

    @property
    def length(self) -> int:
        return self.cache.length

    @within_memory(*machine.OUT_OF_MEMORY)
    def prefill(self, tokens: Tokens, lengths: Sequence[int] | None = None) -> Floats:
        """
        Raises:
            ValueError: the cache is full, `lengths` do not fit the tokens, or the cache is not empty.
        """
        if lengths is not None:
            self._check_lengths(tokens, lengths)
            longest, shortest = max(lengths), min(lengths)
            tokens = tokens[:, :longest]
            if shortest < longest:
                return self._prefill_padded(tokens, lengths)
        hidden, _ = self.model.hidden(mx.array(tokens), self.cache)
        return machine.to_array(self.model.logits(hidden[:, -1]))

    def step(self, tokens: Tokens) -> Floats:
        return self.prefill(tokens[:, None])

    def rewind(self, length: int) -> None:
        self.cache.truncate([length] * len(self.cache.lengths))

    @within_memory(*machine.OUT_OF_MEMORY)
    def repeated(self, n: int) -> "MlxDecoder":
        """
        Raises:
            ValueError: this decoder has more than one sequence.
        """
        if len(self.cache.lengths) != 1:
            raise ValueError(f"only one sequence can be repeated, not {len(self.cache.lengths)}")
        copies = MlxDecoder(self.model, n, self.cache.max_len)
        copies.cache.repeat_from(self.cache)
        return copies

    @within_memory(*machine.OUT_OF_MEMORY)
    def join(self, other: "MlxDecoder") -> None:
        """
        Raises:
            ValueError: the other decoder has more than one sequence.
        """
        if len(other.cache.lengths) != 1:
            raise ValueError(f"only one sequence can join, not {len(other.cache.lengths)}")
        self.cache.join(other.cache)

    def drop(self, row: int) -> None:
        """
        Raises:
            ValueError: it is the only sequence.
        """
        if len(self.cache.lengths) == 1:
            raise ValueError("the only sequence cannot be dropped")
        self.cache.drop(row)

    def _prefill_padded(self, tokens: Tokens, lengths: Sequence[int]) -> Floats:
        """Rows that end with padding, which causal attention keeps from every token before it. Later tokens overwrite
        its keys and values, or a mask hides them."""
        ends = np.array(lengths)
        padding = np.arange(tokens.shape[1]) >= ends[:, None]  # [B, T]
        tokens = np.where(padding, 0, tokens)  # any token that has an embedding
        hidden, _ = self.model.hidden(mx.array(tokens), self.cache)
        self.cache.truncate(lengths)
        last = hidden[mx.arange(len(lengths)), mx.array(ends - 1)]  # [B, D]
        return machine.to_array(self.model.logits(last))

    def _check_lengths(self, tokens: Tokens, lengths: Sequence[int]) -> None:
        if self.length:
            raise ValueError("sequences of different length need an empty cache")
        if len(lengths) != len(tokens) or not 1 <= min(lengths) <= max(lengths) <= tokens.shape[1]:
            raise ValueError(f"tokens {list(tokens.shape)} do not have the lengths {list(lengths)}")
