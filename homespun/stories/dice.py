"""Random choices, equal on every machine."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")


class Variety(NamedTuple):
    """How many different things the stories tell; None: all that there are."""

    words: int | None = None
    """Names, creatures, things, places and so on: the first so many of each kind."""
    wordings: int | None = None
    """Sentences for one kind of event: the first so many."""
    mishaps: frozenset[str] | None = None
    """Kinds of mishaps with which trouble begins."""
    goes_on: bool = True
    """Whether the characters may go to another place after a mishap."""


WHOLE = Variety()
PLAIN = Variety(
    words=8,
    wordings=3,
    mishaps=frozenset(
        {"fall", "thirst", "weather", "lose", "drop", "toss", "ask_borrow", "hide"},
    ),
    goes_on=False,
)
"""Plain stories, which a small model learns sooner. They are stories of the same world, by the same laws."""


class Dice:
    """Random choices from uniform numbers only, which are drawn in blocks."""

    def __init__(self, rng: np.random.Generator, variety: Variety = WHOLE) -> None:
        self.variety = variety
        self._rng = rng
        self._block: list[float] = []

    def uniform(self) -> float:
        if not self._block:
            self._block = self._rng.random(64).tolist()
        return self._block.pop()

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def choose(self, options: Sequence[T]) -> T:
        return options[int(self.uniform() * len(options))]

    def word(self, options: Sequence[T]) -> T:
        """Choose a name, a creature, a thing, a place and so on."""
        return self.choose(options[: self.variety.words])

    def wording(self, options: Sequence[T]) -> T:
        return self.choose(options[: self.variety.wordings])
