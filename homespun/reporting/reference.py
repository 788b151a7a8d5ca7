"""The facts of a run flow in; a measured healthy run like it comes out, and whether the loss is in the usual range.

The curves are in `reference.json`, written by `benchmarks/reference_curves.py`. They are validation losses in bits per
byte, which do not depend on the tokenizer.
"""

import functools
import json
import lzma
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from homespun.data.documents import documents

FILE = Path(__file__).with_name("reference.json")

COMPRESSED_BYTES = 1_000_000
"""Of the text: as much is compressed to see how predictable it is."""

MOST_DOUBLINGS = 2.0
"""A run that is smaller or larger than the nearest measured one by more factors of two has no comparable curve."""
MOST_LONGER = 4.0
"""Nor has one that has seen so many times more tokens than any measured run on its kind of text."""
SAME_KIND = 0.2
"""Texts are of one kind if what xz makes of them differs by less, relative to the measured one."""
SPREAD = 0.08
"""Relative half width of the usual range: about the difference that the choice of text within its kind, the tokenizer
and the seed make."""
SPREAD_PER_DOUBLING = 0.05
"""Added for each factor of two in size."""
SPREAD_OF_LENGTH = 0.05
"""Added for each factor of two between the lengths, since a measured run has decayed its rate at its own end."""
SPREAD_OF_TEXT = 0.5
"""Added for the relative difference of the texts, times this."""


@dataclass(frozen=True)
class Curve:
    """The validation loss of a healthy run over the tokens that it has seen."""

    text: str
    """Its kind."""
    run: str
    """The flags."""
    compressed: float
    """Bits per byte of the text after xz."""
    optimizer: str
    parameters: int
    """Without the table of embeddings."""
    text_tokens: int
    """In the training text."""
    tokens: list[int]
    bits_per_byte: list[float]

    @property
    def optimizer_name(self) -> str:
        return {"adamw": "AdamW", "muon": "Muon"}.get(self.optimizer, self.optimizer)

    def at(self, tokens: float) -> float:
        """The loss after so many tokens, on straight lines over the logarithm of the tokens."""
        return float(np.interp(math.log(max(1.0, tokens)), np.log(self.tokens), self.bits_per_byte))


@functools.cache
def curves() -> tuple[Curve, ...]:
    """All measured runs."""
    if not FILE.exists():
        return ()
    return tuple(Curve(**row) for row in json.loads(FILE.read_text(encoding="utf-8")))


def compressed(text: Path) -> float:
    """Bits per byte of the beginning of a text after xz: a measure of how predictable it is.

    Raises:
        UserError: the text cannot be read.
    """
    sample = bytearray()
    for document in documents(text):
        sample += document.encode()[: COMPRESSED_BYTES - len(sample)] + b"\n"
        if len(sample) >= COMPRESSED_BYTES:
            break
    return 8 * len(lzma.compress(sample, preset=6)) / max(1, len(sample))


@dataclass(frozen=True)
class Comparison:
    """A run beside the measured one that is nearest to it."""

    curve: Curve
    spread: float
    """Relative half width of the usual range."""
    tokens: float
    """Where the two are compared."""
    bits_per_byte: float
    """Of the run."""

    @property
    def expected(self) -> float:
        return self.curve.at(self.tokens)

    @property
    def range(self) -> tuple[float, float]:
        return self.expected * (1 - self.spread), self.expected * (1 + self.spread)

    @property
    def verdict(self) -> str:
        """`usual`, `above` or `below`."""
        least, most = self.range
        if self.bits_per_byte > most:
            return "above"
        return "below" if self.bits_per_byte < least else "usual"

    @property
    def sentence(self) -> str:
        """The comparison in one sentence."""
        least, most = self.range
        place = {
            "usual": "within the usual range",
            "above": "above the usual range",
            "below": "better than the usual range",
        }[self.verdict]
        return (
            f"At {self.tokens / 1e6:.3g} M tokens the validation loss is {self.bits_per_byte:.3g} bits per byte, "
            f"{place} of {least:.3g} to {most:.3g}: a healthy run on {self.curve.text} with "
            f"{self.curve.parameters / 1e6:.2g} M parameters and {self.curve.optimizer_name} had {self.expected:.3g}."
        )


def compare(
    *,
    compressed: float,
    parameters: int,
    optimizer: str,
    planned_tokens: float,
    points: list[tuple[float, float]],
) -> Comparison | None:
    """The measured run that is nearest; None if none is comparable.

    Args:
        compressed: bits per byte of the text after xz, see `compressed`.
        parameters: that a token uses, without the table of embeddings.
        optimizer: of the run.
        planned_tokens: at the end of the run; the learning rate has decayed there, and the loss with it.
        points: tokens and validation loss in bits per byte.
    """
    if not points or parameters < 1:
        return None
    tokens, bits_per_byte = points[-1]
    near = []
    for curve in curves():
        of_text = abs(compressed / curve.compressed - 1)
        of_size = abs(math.log2(parameters / curve.parameters))
        length = max(tokens, planned_tokens) / curve.tokens[-1]
        fits = of_text <= SAME_KIND and of_size <= MOST_DOUBLINGS and optimizer == curve.optimizer
        if not fits or tokens < curve.tokens[0] or tokens > MOST_LONGER * curve.tokens[-1]:
            continue
        of_length = abs(math.log2(length))
        spread = SPREAD + SPREAD_OF_TEXT * of_text
        spread += SPREAD_PER_DOUBLING * of_size + SPREAD_OF_LENGTH * of_length
        near.append((of_size + of_length, spread, curve))
    if not near:
        return None
    _, spread, curve = min(near, key=lambda found: found[:2])
    return Comparison(curve, min(spread, 0.5), tokens, bits_per_byte)
