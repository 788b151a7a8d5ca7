"""What a run watches itself for: the best validation loss, patience, and steps that had to be refused."""

import math
from dataclasses import dataclass

from homespun.errors import UserError

MAX_REFUSED_IN_A_ROW = 10


@dataclass
class Guard:
    """Plain numbers, stored with each checkpoint, so that a resumed run decides as the uninterrupted one would."""

    best_val_loss: float | None = None
    evaluations_without_better: int = 0
    refused: int = 0
    """Steps whose loss or gradients were not finite, and which changed nothing."""
    refused_in_a_row: int = 0

    def evaluated(self, val_loss: float) -> bool:
        """Take note of an evaluation; True if it is the best so far."""
        best = math.inf if self.best_val_loss is None else self.best_val_loss
        better = val_loss < best  # never, where the loss is not a number
        if better:
            self.best_val_loss = val_loss
            self.evaluations_without_better = 0
        else:
            self.evaluations_without_better += 1
        return better

    def stepped(self, step: int, applied: bool) -> None:
        """Take note of a step.

        Raises:
            UserError: too many in a row had to be refused: the run cannot go on from here.
        """
        self.refused += not applied
        self.refused_in_a_row = 0 if applied else self.refused_in_a_row + 1
        if self.refused_in_a_row >= MAX_REFUSED_IN_A_ROW:
            raise UserError(
                f"the loss or the gradients were not finite in {MAX_REFUSED_IN_A_ROW} steps in a row, the last "
                f"being step {step}: lower --learning-rate (and --muon-learning-rate); --resume goes on from the last "
                "checkpoint"
            )
