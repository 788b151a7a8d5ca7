"""Sequences of symbols flow in, probabilities flow out: an n-gram model with modified Kneser-Ney smoothing.

It is the best classical model of text that needs no tuning: a neural model that has learned something beats it.

Source: Chen and Goodman 1998, An empirical study of smoothing techniques for language modeling, section 3.5 and
equations 25 and 26.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

Symbols = tuple[int, ...]
Counts = dict[Symbols, Counter[int]]
"""For each context, the symbols that follow it and their counts."""

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where a text is too small to estimate them."""


class KneserNey:
    """Interpolated, with three discounts for each order. A sequence begins and ends with a mark."""

    def __init__(
        self,
        sequences: Iterable[Sequence[int]],
        *,
        order: int,
        vocab_size: int,
        mark: int,
        discounts: Sequence[float] | None = None,
    ) -> None:
        """Count.

        Args:
            sequences: symbols from 0 to `vocab_size - 1`, without marks.
            order: symbols of an n-gram; each is predicted from at most `order - 1` before it.
            vocab_size: number of symbols, with the mark. An unseen symbol gets its share of a uniform distribution.
            mark: the symbol before and after each sequence.
            discounts: of all orders, for counts of one, two, and three or more; by default estimated for each order.
        """
        self.order, self.vocab_size, self.mark = order, vocab_size, mark
        raw: list[Counts] = [defaultdict(Counter) for _ in range(order)]
        for sequence in sequences:
            for context, symbol in self._positions(sequence):
                # A context that is cut short by the beginning of the sequence has no continuation to the left.
                raw[len(context)][context][symbol] += 1
        self.counts = raw
        """By the length of the context. Below the longest, a count is the number of different symbols before it."""
        for length in range(order - 1, 0, -1):
            for context, following in raw[length].items():
                for symbol in following:
                    self.counts[length - 1][context[1:]][symbol] += 1
        self.discounts = [discounts or estimated(counts) for counts in self.counts]
        self._mass = [
            {context: self._reserved(length, following) for context, following in counts.items()}
            for length, counts in enumerate(self.counts)
        ]

    def _positions(self, sequence: Sequence[int]) -> Iterator[tuple[Symbols, int]]:
        """Each symbol and the mark at the end, with the symbols before it, at most `order - 1`."""
        whole = (self.mark, *sequence, self.mark)
        for at in range(1, len(whole)):
            yield whole[max(0, at - self.order + 1) : at], whole[at]

    def _reserved(self, length: int, following: Counter[int]) -> tuple[int, float]:
        """The sum of the counts after a context, and the share that is left to shorter contexts."""
        discounted = sum(self.discounts[length][min(n, 3) - 1] for n in following.values())
        total = following.total()
        return total, discounted / total

    def probability(self, context: Symbols, symbol: int) -> float:
        """The probability that a symbol follows a context of at most `order - 1` symbols."""
        p = 1 / self.vocab_size
        for length in range(len(context) + 1):
            known = context[len(context) - length :]
            following = self.counts[length].get(known)
            if following is None:
                break  # no longer context is known either
            total, reserved = self._mass[length][known]
            n = following[symbol]
            discounted = n - self.discounts[length][min(n, 3) - 1] if n else 0.0
            p = discounted / total + reserved * p
        return p

    def nats(self, sequence: Sequence[int]) -> float:
        """The surprise of a sequence and its end."""
        return -sum(math.log(self.probability(*position)) for position in self._positions(sequence))


def estimated(counts: Counts) -> tuple[float, ...]:
    """The three discounts of an order, from the numbers of n-grams that occur once, twice, three and four times."""
    n = Counter(min(count, 5) for following in counts.values() for count in following.values())
    if not all(n[times] for times in (1, 2, 3)):
        return FALLBACK
    y = n[1] / (n[1] + 2 * n[2])
    return tuple(max(0.0, times - (times + 1) * y * n[times + 1] / n[times]) for times in (1, 2, 3))
