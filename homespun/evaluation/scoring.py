"""Tokens and a model flow in; loss and bits per byte come out. Training and `homespun eval` score with this module.

A window of `seq_len` tokens moves over the text by `stride` tokens. Each token is scored once, in the first window that
has it, so it sees at least `seq_len - stride` tokens before it, where the text has so many. With a stride of `seq_len`,
windows do not overlap.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from homespun.data.batch import IGNORED, Batch
from homespun.data.chat_samples import ChatDataset
from homespun.data.samples import TokenSource
from homespun.engine.base import Reader


class Measured(NamedTuple):
    """The prediction of a text by a model."""

    loss: float
    """Nats per token."""
    bits_per_byte: float
    """Comparable between tokenizers."""


class Evaluator:
    """The first `max_tokens` targets of a text, in windows."""

    def __init__(
        self,
        tokens: TokenSource,
        byte_lengths: npt.NDArray[np.int32],
        *,
        seq_len: int,
        batch_size: int,
        max_tokens: int | None = None,
        stride: int | None = None,
    ) -> None:
        """Take the tokens; nothing is computed yet.

        Args:
            tokens: the text, at least two tokens. The first one is only seen.
            byte_lengths: bytes of text of each token of the vocabulary.
            seq_len: length of a window.
            batch_size: windows that are computed together.
            max_tokens: tokens to score; None for all.
            stride: from 1 to `seq_len`; None for `seq_len`.
        """
        n_targets = len(tokens) - 1
        if max_tokens is not None:
            n_targets = min(n_targets, max_tokens)
        self._tokens = np.asarray(tokens[: n_targets + 1], dtype=np.int32)
        self._seq_len, self._stride = seq_len, stride or seq_len
        self.n_bytes = int(byte_lengths[self._tokens[1:]].sum())
        self.n_tokens = n_targets
        self.batch_size = batch_size

    def __call__(
        self, engine: Reader, advance: Callable[[int], object] = lambda n_tokens: None
    ) -> Measured:
        """Measure a model. `advance` is called with the number of tokens of each batch that is done."""
        measured = self.measure(engine, lambda: False, advance)
        assert measured
        return measured

    def measure(
        self,
        engine: Reader,
        stopped: Callable[[], object],
        advance: Callable[[int], object] = lambda n_tokens: None,
    ) -> Measured | None:
        """Measure a model; None if `stopped()` becomes true before that is done."""
        return measured(engine, self.batches(), self.n_bytes, stopped, advance)

    def batches(self) -> Iterator[Batch]:
        """The windows, in order. Each token is a target once."""
        beyond_first = max(0, self.n_tokens - self._seq_len)
        n_windows = 1 + -(-beyond_first // self._stride)
        for first in range(0, n_windows, self.batch_size):
            windows = range(first, min(first + self.batch_size, n_windows))
            inputs = np.zeros((len(windows), self._seq_len), np.int32)
            targets = np.full_like(inputs, IGNORED)
            for row, window in enumerate(windows):
                start = window * self._stride
                taken = self._tokens[start : start + self._seq_len + 1]
                n_scored_before = self._seq_len - self._stride if window else 0
                inputs[row, : len(taken) - 1] = taken[:-1]
                targets[row, n_scored_before : len(taken) - 1] = taken[n_scored_before + 1 :]
            yield Batch(inputs, targets)


class ChatEvaluator:
    """The answers of conversations, or of some of them, which are the same each time."""

    def __init__(
        self,
        dataset: ChatDataset,
        byte_lengths: npt.NDArray[np.int32],
        *,
        batch_size: int,
        max_tokens: int | None = None,
    ) -> None:
        """
        Args:
            dataset: the conversations.
            byte_lengths: bytes of text of each token of the vocabulary.
            batch_size: samples that are computed together.
            max_tokens: with so many tokens of answers, no more samples are taken; None for all.
        """
        self._batches: list[Batch] = []
        self.n_tokens = self.n_bytes = 0
        shuffled, n_samples = dataset.batches(0), dataset.samples_per_pass
        for first in range(0, n_samples, batch_size):
            if max_tokens is not None and self.n_tokens >= max_tokens:
                break
            batch = shuffled.batch(first, min(batch_size, n_samples - first))
            self._batches.append(batch)
            self.n_tokens += batch.n_targets
            self.n_bytes += int(byte_lengths[batch.targets[batch.targets != IGNORED]].sum())

    def measure(
        self,
        engine: Reader,
        stopped: Callable[[], object],
        advance: Callable[[int], object] = lambda n_tokens: None,
    ) -> Measured | None:
        """As `Evaluator.measure`."""
        return measured(engine, self._batches, self.n_bytes, stopped, advance)


def measured(
    engine: Reader,
    batches: Iterable[Batch],
    n_bytes: int,
    stopped: Callable[[], object],
    advance: Callable[[int], object],
) -> Measured | None:
    """Measure a model on batches whose targets are `n_bytes` of text; see `Evaluator.measure`."""
    total, n_tokens = 0.0, 0
    for batch in batches:
        if stopped():
            return None
        loss, count = engine.loss(batch)
        total += loss
        n_tokens += count
        advance(count)
    return Measured(total / n_tokens, total / math.log(2) / max(1, n_bytes))
