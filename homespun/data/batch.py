"""Tokens in, and the tokens that a model has to predict after each of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]

IGNORED = -1
"""A target with this value counts neither in the loss nor in the number of tokens."""


@dataclass(frozen=True)
class Batch:
    """Sequences and what follows each of their positions."""

    inputs: Tokens
    """[B, T]"""
    targets: Tokens
    """[B, T], already shifted by one; `IGNORED` where nothing is to be learned."""

    @property
    def n_targets(self) -> int:
        return int(np.count_nonzero(self.targets != IGNORED))
