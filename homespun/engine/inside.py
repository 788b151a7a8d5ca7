"""The inside of a forward pass: the states between the layers, the attention, and the experts of each token.

An engine that can show it is an `Inspector`. Arrays are float32; T tokens, L layers, H heads, D width of the model, V
tokens in the vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from homespun.data.batch import Tokens
from homespun.engine.base import Floats


@dataclass(frozen=True)
class Experts:
    """The experts that a layer with a mixture chose, k for each token, the one with the most weight first."""

    ids: npt.NDArray[np.intp]
    """[T, k]"""
    weights: Floats
    """[T, k]; those of a token sum to 1."""


@dataclass(frozen=True)
class Inside:
    """The inside of one forward pass over T tokens."""

    hidden: Floats
    """[L + 1, T, D]: the embeddings, then the sum after each layer; the last norm is not applied."""
    attention: Floats
    """[L, H, T, T]: how much each token (a row, which sums to 1) takes from itself and from each token before it."""
    experts: tuple[Experts | None, ...]
    """For each of the L layers; None where it has no mixture."""


@runtime_checkable
class Inspector(Protocol):
    """An engine that shows the inside of its model."""

    def inspect(self, tokens: Tokens) -> Inside:
        """Read tokens [T]. Memory grows with L * H * T * T.

        Raises:
            OutOfMemory: there is not enough.
        """

    def lens(self, hidden: Floats) -> Floats:
        """States [N, D] from `Inside.hidden` -> logits [N, V], through the last norm and the head.

        After the last layer these are the model's logits. Before, they show what the model would say if it ended there
        (logit lens: nostalgebraist, "interpreting GPT: the logit lens", 2020).
        """
