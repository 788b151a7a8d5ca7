"""A stream of tokens flows in, batches flow out. The tokens of sample n follow from n by arithmetic:

    sample number -> (pass, index) -> the layout of that pass -> pieces of the text -> inputs, targets

There is no iterator with hidden state. A run stores only the number of its next sample and can resume anywhere: it
computes the layout of that pass again, see `packing`.
"""

import functools
from typing import Protocol

import numpy as np
import numpy.typing as npt

from homespun.data.batch import Batch, Tokens
from homespun.data.packing import Pass, Positions, mixed
from homespun.errors import UserError
from homespun.terminal import counted

ORDER = 2
"""The version of the order in which a run takes its samples. A run that began with another one continues with this."""

GOLDEN_RATIO = 0x9E3779B97F4A7C15
"""As a fraction of 2**64. The places at which passes begin are this far apart, around the text, so that any number of
passes has them evenly spread."""


class TokenSource(Protocol):
    """Any sequence of token ids: a list, an array or token shards."""

    def __len__(self) -> int: ...
    def __getitem__(self, window: slice) -> npt.ArrayLike: ...


class TextDataset:
    """Token ids as samples of `seq_len` inputs and `seq_len` targets, which are the inputs shifted by one.

    Samples taken by index do not overlap: each token is a target once.
    """

    def __init__(
        self,
        token_ids: TokenSource,
        seq_len: int,
        document_starts: Positions | None = None,
    ) -> None:
        """Divide a text into samples.

        Args:
            token_ids: the text.
            seq_len: number of inputs, and of targets, in a sample.
            document_starts: ascending positions of the end-of-text tokens that begin the documents; see `packing`.
                Tokens before the first of them, or all tokens without them, are one document.

        Raises:
            UserError: the text is shorter than a sample.
        """
        if len(token_ids) <= seq_len:
            raise UserError(
                f"the text has {counted(len(token_ids), 'token')}, too few for one sample of --seq-len {seq_len}: "
                "give more text or a shorter --seq-len"
            )
        self.token_ids = token_ids
        self.seq_len = seq_len
        starts = np.empty(0, dtype=np.int64) if document_starts is None else document_starts
        self.document_starts = starts if len(starts) and starts[0] == 0 else np.insert(starts, 0, 0)

    def __len__(self) -> int:
        return (len(self.token_ids) - 1) // self.seq_len

    def __getitem__(self, idx: int) -> tuple[Tokens, Tokens]:
        """Inputs and targets, [seq_len] each."""
        if not -len(self) <= idx < len(self):
            raise IndexError(f"sample {idx} of {len(self)}")
        tokens = self.tokens(idx % len(self) * self.seq_len, self.seq_len + 1)
        return tokens[:-1], tokens[1:]

    @property
    def samples_per_pass(self) -> int:
        """Number of samples in a pass over the text, in which the last token is followed by the first."""
        return len(self.token_ids) // self.seq_len

    def tokens(self, start: int, count: int) -> Tokens:
        """`count` tokens from `start` on, [count]. After the end of the text follows its beginning."""
        tokens = np.asarray(self.token_ids[start : start + count], dtype=np.int32)
        if missing := count - len(tokens):
            beginning = np.asarray(self.token_ids[:missing], dtype=np.int32)
            tokens = np.concatenate((tokens, beginning))
        return tokens


class Batches:
    """Shuffled samples by number, pass after pass. Each pass has its own order and its own cuts."""

    def __init__(self, dataset: TextDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self._pass = functools.lru_cache(1)(self._laid_out)

    def _laid_out(self, number: int) -> Pass:
        d, seed = self.dataset, np.array([self.seed], dtype=np.uint64)
        [key], [first] = mixed(seed, np.uint64(number)), mixed(seed, np.uint64(0))
        begin = (int(first) + number * GOLDEN_RATIO) % (1 << 64) * len(d.token_ids) >> 64
        return Pass(d.document_starts, len(d.token_ids), d.seq_len, begin, key)

    def batch(self, first: int, count: int) -> Batch:
        """The samples `first` to `first + count - 1`, [count, seq_len]."""
        seq_len, per_pass = self.dataset.seq_len, self.dataset.samples_per_pass
        tokens = np.empty(count * seq_len + 1, dtype=np.int32)
        # The last token of each piece is a target alone; in `tokens` the next piece takes its place.
        ends, after = [], []
        at = 0
        for number in range(first, first + count):
            for start, length in self._pass(number // per_pass).sample(number % per_pass):
                tokens[at : at + length + 1] = self.dataset.tokens(start, length + 1)
                at += length
                ends.append(at - 1)
                after.append(tokens[at])
        targets = tokens[1:].copy()
        targets[ends] = after
        return Batch(tokens[:-1].reshape(count, seq_len), targets.reshape(count, seq_len))

    def microbatches(self, first: int, batch_size: int, n: int) -> list[Batch]:
        """The next `n * batch_size` samples in `n` batches. The order does not depend on `n`."""
        return [self.batch(first + i * batch_size, batch_size) for i in range(n)]
