"""Decoding with a key/value cache: new tokens of each sequence flow in, the logits after them flow out."""

from collections.abc import Sequence

import torch

from homespun.data.batch import Tokens
from homespun.engine.base import Floats, within_memory
from homespun.engine.torch import machine
from homespun.engine.torch.cache import Cache
from homespun.engine.torch.model import DecoderModel


class TorchDecoder:
    """A model and a cache of `max_len` positions for each of `batch_size` sequences."""

    def __init__(
        self, model: DecoderModel, batch_size: int, max_len: int, threads: int | None = None
    ) -> None:
        """`model` comes from `DecoderModel.for_decoding`; `threads` as in `machine.use_threads`.

        Raises:
            ValueError: `max_len` is more than the model's context.
        """
        if max_len > model.config.seq_len:
            raise ValueError(
                f"{max_len} positions are more than the model's {model.config.seq_len}"
            )
        self.model = model
        self.device = model.embedding.device
        self.threads = threads
        self.cache = Cache(model.config, batch_size, max_len, model.dtype, self.device)

    @property
    def length(self) -> int:
        return self.cache.length

    @within_memory(*machine.OUT_OF_MEMORY)
    def prefill(self, tokens: Tokens, lengths: Sequence[int] | None = None) -> Floats:
        if lengths is not None:
            self._check_lengths(tokens, lengths)
            longest, shortest = max(lengths), min(lengths)
            tokens = tokens[:, :longest]
            if shortest < longest:
                return self._prefill_padded(tokens, lengths)
        return self._logits(tokens, slice(None), -1)

    def step(self, tokens: Tokens) -> Floats:
        return self.prefill(tokens[:, None])

    def rewind(self, length: int) -> None:
        self.cache.truncate([length] * len(self.cache.lengths))

    @within_memory(*machine.OUT_OF_MEMORY)
    def repeated(self, n: int) -> "TorchDecoder":
        """
        Raises:
            ValueError: this decoder has more than one sequence.
        """
        if len(self.cache.lengths) != 1:
            raise ValueError(f"only one sequence can be repeated, not {len(self.cache.lengths)}")
        copies = TorchDecoder(self.model, n, self.cache.max_len, self.threads)
        copies.cache.repeat_from(self.cache)
        return copies

    @within_memory(*machine.OUT_OF_MEMORY)
    def join(self, other: "TorchDecoder") -> None:
        """
        Raises:
            ValueError: the other decoder has more than one sequence.
        """
        if len(other.cache.lengths) != 1:
            raise ValueError(f"only one sequence can join, not {len(other.cache.lengths)}")
        with torch.inference_mode():
            self.cache.join(other.cache)

    def drop(self, row: int) -> None:
        """
        Raises:
            ValueError: it is the only sequence.
        """
        if len(self.cache.lengths) == 1:
            raise ValueError("the only sequence cannot be dropped")
        with torch.inference_mode():
            self.cache.drop(row)

    def _prefill_padded(self, tokens: Tokens, lengths: Sequence[int]) -> Floats:
        """Rows that end with padding, which causal attention keeps from every token before it. Later tokens overwrite
        its keys and values, or a mask hides them."""
        ends = torch.tensor(lengths, device=self.device)
        padding = torch.arange(tokens.shape[1]) >= torch.tensor(lengths).unsqueeze(1)  # [B, T]
        tokens = tokens.copy()
        tokens[padding.numpy()] = 0  # any token that has an embedding
        logits = self._logits(tokens, torch.arange(len(lengths), device=self.device), ends - 1)
        self.cache.truncate(lengths)
        return logits

    def _logits(
        self, tokens: Tokens, rows: slice | torch.Tensor, columns: int | torch.Tensor
    ) -> Floats:
        """Append tokens [B, T]; returns the logits [B, V] at one position of each row."""
        with torch.inference_mode(), machine.use_threads(self.threads):
            ids = machine.on_device(tokens, self.device).long()
            hidden, _ = self.model.hidden(ids, self.cache)
            return machine.to_array(self.model.logits(hidden[rows, columns]))

    def _check_lengths(self, tokens: Tokens, lengths: Sequence[int]) -> None:
        if self.length:
            raise ValueError("sequences of different length need an empty cache")
        if len(lengths) != len(tokens) or not 1 <= min(lengths) <= max(lengths) <= tokens.shape[1]:
            raise ValueError(f"tokens {list(tokens.shape)} do not have the lengths {list(lengths)}")
