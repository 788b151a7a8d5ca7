"""A model and validation text flow in; loss and bits per byte come out. The tokens are always the same, so that values
can be compared.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from homespun.data.batch import IGNORED, Batch
from homespun.data.samples import TokenSource
from homespun.engine.base import Reader
from homespun.training.run import Run


class Measured(NamedTuple):
    """The prediction of a text by a model."""

    loss: float
    """Nats per token."""
    bits_per_byte: float
    """Comparable between tokenizers."""


class Evaluator:
    """The first `max_tokens` of a validation text, cut into windows of `seq_len` that do not overlap."""

    @classmethod
    def of(cls, run: Run) -> "Evaluator":
        """The evaluation of a run."""
        c = run.config
        return cls(
            run.tokens.validation,
            run.tokenizer.byte_lengths,
            seq_len=c.seq_len,
            batch_size=c.batch_size,
            max_tokens=c.eval_tokens,
        )

    def __init__(
        self,
        tokens: TokenSource,
        byte_lengths: npt.NDArray[np.int32],
        *,
        seq_len: int,
        batch_size: int,
        max_tokens: int,
    ) -> None:
        n_targets = min(len(tokens) - 1, max_tokens)
        # A text shorter than one window is one window whose padding does not count.
        n_windows = max(1, n_targets // seq_len)
        taken = np.asarray(tokens[: min(n_targets, n_windows * seq_len) + 1], dtype=np.int32)
        self.inputs = _windows(taken[:-1], n_windows, seq_len, fill=0)
        self.targets = _windows(taken[1:], n_windows, seq_len, fill=IGNORED)
        self.n_bytes = int(byte_lengths[taken[1:]].sum())
        self.n_tokens = len(taken) - 1
        self.batch_size = batch_size

    def __call__(self, engine: Reader) -> Measured:
        measured = self.measure(engine, lambda: False)
        assert measured
        return measured

    def measure(self, engine: Reader, stopped: Callable[[], object]) -> Measured | None:
        """Measure a model; None if `stopped()` becomes true before that is done."""
        total, n_tokens = 0.0, 0
        for start in range(0, len(self.inputs), self.batch_size):
            if stopped():
                return None
            rows = slice(start, start + self.batch_size)
            loss, count = engine.loss(Batch(self.inputs[rows], self.targets[rows]))
            total += loss
            n_tokens += count
        return Measured(total / n_tokens, total / math.log(2) / max(1, self.n_bytes))


def _windows(
    tokens: npt.NDArray[np.int32], n: int, seq_len: int, fill: int
) -> npt.NDArray[np.int32]:
    """[at most n * seq_len] -> [n, seq_len], padded with `fill`."""
    padded = np.full(n * seq_len, fill, dtype=np.int32)
    padded[: len(tokens)] = tokens
    return padded.reshape(n, seq_len)
