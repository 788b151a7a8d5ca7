"""The key/value cache of a decoder: keys and values of new tokens flow in, those of all positions seen flow out.

B sequences, T new tokens of each, S positions of the longest sequence, K key/value heads, C channels of a head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from homespun.config import ModelConfig


class LayerCache:
    """Keys and values of one layer."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys = keys  # [rows, K, max_len, C]; rows from B on are room for sequences that join
        self.values = values
        self.positions: slice | Tensor = slice(0, 0)
        self.end = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v [B, K, T, C] at `positions`; returns the first `end` positions of all rows, [B, K, S, C]."""
        n = len(k)
        for stored, new in ((self.keys, k), (self.values, v)):
            if isinstance(self.positions, slice):
                stored[:n, :, self.positions] = new
            else:
                rows = torch.arange(len(new), device=new.device).unsqueeze(1)  # [B, 1]
                stored[rows, :, self.positions] = new.transpose(1, 2)  # [B, T, K, C]
        return self.keys[:n, :, : self.end], self.values[:n, :, : self.end]

    def grow(self, rows: int, max_len: int) -> None:
        """Make room for more rows or positions."""
        _, heads, positions, channels = self.keys.shape
        for name in ("keys", "values"):
            stored: Tensor = getattr(self, name)
            grown = stored.new_zeros((rows, heads, max_len, channels))
            grown[: len(stored), :, :positions] = stored
            setattr(self, name, grown)


class Cache:
    """Keys and values of all layers, and the number of positions that each sequence has filled."""

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_len: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (batch_size, config.n_kv_heads, max_len, config.head_dim)
        self.layers = [
            LayerCache(
                torch.zeros(shape, dtype=dtype, device=device),
                torch.zeros(shape, dtype=dtype, device=device),
            )
            for _ in range(config.n_layers)
        ]
        self.max_len = max_len
        self.device = device
        self.lengths = [0] * batch_size

    @property
    def length(self) -> int:
        """Positions of the longest sequence."""
        return max(self.lengths)

    def next_positions(self, n: int) -> tuple[slice | Tensor, Tensor | None]:
        """Where the next `n` tokens of each row are stored.

        Returns:
            Where all rows are equally long, one slice for all of them, and no mask. Otherwise the positions [B, T], and
            a mask [B, 1, T, S] with which each row sees its own positions only, True where it sees.

        Raises:
            ValueError: they do not fit.
        """
        end = self.length + n
        if end > self.max_len:
            raise ValueError(f"{end} positions do not fit into a cache of {self.max_len}")
        positions: slice | Tensor = slice(self.length, end)
        mask = None
        if min(self.lengths) < self.length:
            starts = torch.tensor(self.lengths, device=self.device).unsqueeze(1)  # [B, 1]
            positions = starts + torch.arange(n, device=self.device)  # [B, T]
            seen = torch.arange(end, device=self.device) <= positions.unsqueeze(-1)  # [B, T, S]
            mask = seen.unsqueeze(1)
        for layer in self.layers:
            layer.positions, layer.end = positions, end
        return positions, mask

    def advance(self, n: int) -> None:
        """Count the `n` tokens of each row that were stored."""
        self.lengths = [length + n for length in self.lengths]

    def truncate(self, lengths: Sequence[int]) -> None:
        """Keep at most so many positions of each row."""
        self.lengths = [min(pair) for pair in zip(self.lengths, lengths, strict=True)]

    def repeat_from(self, other: "Cache") -> None:
        """Copy the only sequence of `other` into each row."""
        end = other.length
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.keys[:, :, :end] = theirs.keys[:1, :, :end]
            mine.values[:, :, :end] = theirs.values[:1, :, :end]
        self.lengths = [end] * len(self.lengths)

    def join(self, other: "Cache") -> None:
        """Add the only sequence of `other` as the last row."""
        n, end = len(self.lengths), other.length
        self.max_len = max(self.max_len, other.max_len)
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            rows, _, positions, _ = mine.keys.shape
            if n == rows or self.max_len > positions:
                mine.grow(2 * n if n == rows else rows, self.max_len)
            mine.keys[n, :, :end] = theirs.keys[0, :, :end]
            mine.values[n, :, :end] = theirs.values[0, :, :end]
        self.lengths.append(end)

    def drop(self, row: int) -> None:
        """Move the last sequence into this row."""
        end = self.lengths.pop()
        last = len(self.lengths)
        if row == last:
            return
        for layer in self.layers:
            layer.keys[row, :, :end] = layer.keys[last, :, :end]
            layer.values[row, :, :end] = layer.values[last, :, :end]
        self.lengths[row] = end
