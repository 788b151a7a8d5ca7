"""A batch: input tokens, and the token that a model has to predict after each of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
Weights = npt.NDArray[np.float32]

IGNORED = -1
"""A target with this value is left out of the loss and of the number of targets."""
PADDING = -1
"""The document of the positions that fill a row up."""


@dataclass(frozen=True)
class Batch:
    """B sequences of T tokens, and the next token at each position."""

    inputs: Tokens
    """[B, T]"""
    targets: Tokens
    """[B, T], already shifted by one; `IGNORED` at positions without a target."""
    documents: Tokens | None = None
    """[B, T] The number of the document of each position; no document sees another. Without it, the engine finds the
    documents by their mark."""
    weights: Weights | None = None
    """[B, T] The factor of each target's loss in a training step and its gradients, which may be negative; None: 1. The
    sum is still divided by the number of targets."""

    @property
    def is_target(self) -> npt.NDArray[np.bool_]:
        """[B, T] Whether a target counts in the loss."""
        return np.not_equal(self.targets, IGNORED)

    @property
    def n_targets(self) -> int:
        """Number of targets that count in the loss."""
        return int(np.count_nonzero(self.is_target))
