"""The settings of a run flow in; the figure by which its trials are compared comes out, as its records hold it.

Inside a tune, the lower figure is always the better one: a reward counts with the other sign.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from homespun.records.reading import is_number


@dataclass(frozen=True)
class Objective:
    """A figure of the evaluations of a run."""

    entry: str
    """Of a record, and of a row of the table."""
    title: str
    """In few words."""
    words: str
    unit: str = ""
    sign: int = 1
    """-1: the highest is the best."""

    @property
    def described(self) -> str:
        """With its unit."""
        return f"{self.words}, {self.unit}" if self.unit else self.words

    def of(self, record: Mapping[str, Any]) -> float | None:
        """The figure of a record as trials are compared by it, infinite where it is no number; None where there is
        none."""
        if self.entry not in record:
            return None
        value = record[self.entry]
        return self.sign * float(value) if is_number(value) else math.inf

    def value(self, compared: float | None) -> float | None:
        """The figure as it was measured; None where it is not finite."""
        return self.sign * compared if compared is not None and math.isfinite(compared) else None

    def shown(self, compared: float) -> str:
        """The figure as it was measured, in words of a table."""
        return f"{self.sign * compared:.4f}"


LOSS = Objective("val_loss", "val loss", "validation loss", "nats per token")
PAIRS = Objective("val_loss", "val loss", "validation loss of the pairs", "nats per pair")
REWARD = Objective("val_reward", "val reward", "reward of held-out prompts", sign=-1)


def objective_of(settings: Mapping[str, Any]) -> Objective:
    """The figure that a run is about."""
    if settings.get("reward") is not None:
        return REWARD
    return PAIRS if settings.get("preferences") is not None else LOSS
