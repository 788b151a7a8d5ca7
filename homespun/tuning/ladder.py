"""The lengths at which trials are compared: successive halving over tokens (Jamieson and Talwalkar, 2016).

Every trial has the schedule of a whole run from its first step on. It stops at a rung, and if it is among the best
there it goes on from its checkpoint. So trials compare after equal numbers of tokens, and no token is trained on twice.
The recipe takes no part in the contest: it always runs to the end, because everything is measured against it.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ladder:
    """The rungs of a tune."""

    tokens: tuple[int, ...]
    """At each rung; the last one is the end of a run."""
    reduction: int

    @property
    def total(self) -> int:
        """Tokens of a whole run."""
        return self.tokens[-1]

    @property
    def prunes(self) -> bool:
        return len(self.tokens) > 1

    def counts(self, challengers: int) -> list[int]:
        """How many of the trials, without the recipe, reach each rung."""
        counts = [challengers]
        for _ in self.tokens[1:]:
            counts.append(max(min(1, counts[-1]), round(counts[-1] / self.reduction)))
        return counts

    def cost(self, challengers: int, recipes: int) -> int:
        """Tokens of all trials, and of so many whole runs of the recipe."""
        before = 0
        cost = recipes * self.total
        for tokens, count in zip(self.tokens, self.counts(challengers), strict=True):
            cost += count * (tokens - before)
            before = tokens
        return cost

    def steps(self, tokens_per_step: int) -> list[int]:
        """The step at each rung, see `steps_at`."""
        return steps_at(self.tokens, tokens_per_step)


def steps_at(tokens: Sequence[int], tokens_per_step: int) -> list[int]:
    """The steps after which about so many tokens are done. The first and the last, the end of the run, are to the
    nearest step. The others are multiples of the first, after which a trial evaluates."""
    first = max(1, round(tokens[0] / tokens_per_step))
    end = max(1, round(tokens[-1] / tokens_per_step))
    between = [first * round(n / tokens[0]) for n in tokens[:-1]]
    return [*(min(step, end) for step in between), end]


def ladder(total: int, unit: int, reduction: int, rungs: int) -> Ladder:
    """The rungs of runs of `total` tokens, or a little more or less.

    Args:
        unit: tokens of which all lengths are multiples. Trials whose steps divide it see exactly the same number of
            tokens.
        reduction: the ratio of two neighbouring lengths.
        rungs: the number of lengths, if the run is long enough for them.
    """
    total = max(1, round(total / unit)) * unit
    first = max(1, round(total / reduction ** (rungs - 1) / unit)) * unit
    lengths = [first * reduction**n for n in range(rungs - 1)]
    return Ladder((*(length for length in lengths if length < total), total), reduction)


def best(losses: dict[int, float], count: int) -> list[int]:
    """The `count` trials with the lowest loss, the earlier one of two that are equal; failed ones have no loss here."""
    return sorted(losses, key=lambda number: (losses[number], number))[:count]
