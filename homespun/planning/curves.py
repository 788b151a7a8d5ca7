"""Measured runs of the recipe flow in; the loss that a planned run is expected to end with comes out, with its range.

The points are in `curves.json`, written by `benchmarks/curves.py`. Each is the end of a run whose learning rate had
decayed, so a law through the points predicts ends of runs, not curves of one run.
"""

import functools
import itertools
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("curves.json")

RATES_OF_TEXT = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0)
RATES_OF_SIZE = (0.2, 0.34, 0.5)
"""The exponents among which a law is fitted. With few points they cannot be told more exactly."""
REPEATS = 15.0
"""The value of text that is read again decays with this constant, in passes (Muennighoff et al., 2023)."""
LEAST_SPREAD = 0.01
"""Relative difference of two runs that differ in their seed only."""
SPREAD_OF_FEW = 0.1
"""Added relative uncertainty of a law that rests on one run; it shrinks with their number."""
LEAST_RUNS = 3
"""With fewer runs on a kind of text, nothing is expected from them."""
FARTHEST = 3.0
"""Nothing is expected of a run that is farther outside of the measured ones, in factors of two."""
SPREAD_PER_DOUBLING = 0.04
"""Added relative uncertainty for each factor of two that a run is outside of the measured ones."""


@dataclass(frozen=True)
class Point:
    """The end of a run."""

    text: str
    """Its kind."""
    run: str
    """The flags."""
    compressed: float
    """Bits per byte of the text after xz, see `data.sizing`."""
    parameters: int
    """Without the table of embeddings."""
    text_tokens: int
    """In the training text."""
    tokens: int
    """That the run has seen."""
    bits_per_byte: float
    """On validation text."""
    bytes_per_token: float
    """Of the validation text."""


@dataclass(frozen=True)
class ExpectedLoss:
    """The validation loss at the end of a run."""

    bits_per_byte: float
    least: float
    most: float
    """The range, in bits per byte."""
    rests_on: str
    """The measurements, in words."""

    def nats(self, bytes_per_token: float) -> tuple[float, float, float]:
        """The expected loss and its range, in nats per token."""
        expected, least, most = (
            nats(value, bytes_per_token) for value in (self.bits_per_byte, self.least, self.most)
        )
        return expected, least, most


@dataclass(frozen=True)
class Law:
    """floor + by_size * parameters ** -rate_of_size + by_text * tokens ** -rate_of_text, both in millions
    (Hoffmann et al., 2022)."""

    floor: float
    by_size: float
    by_text: float
    rate_of_size: float
    rate_of_text: float
    error: float
    """The largest relative error at a measured point."""

    def bits_per_byte(self, point: Point) -> float:
        """The prediction for a run."""
        size, text = _terms(point, self.rate_of_size, self.rate_of_text)
        return self.floor + self.by_size * size + self.by_text * text


def nats(bits_per_byte: float, bytes_per_token: float) -> float:
    """A loss in nats per token."""
    return bits_per_byte * math.log(2) * bytes_per_token


@functools.cache
def points() -> tuple[Point, ...]:
    """All measured runs."""
    if not FILE.exists():
        return ()
    return tuple(Point(**row) for row in json.loads(FILE.read_text(encoding="utf-8")))


def law(text: str, without: Point | None = None) -> Law:
    """The law that fits the runs on a kind of text best, `without` one of them."""
    measured = [point for point in points() if point.text == text and point != without]
    laws = (_fitted(measured, *rates) for rates in itertools.product(RATES_OF_SIZE, RATES_OF_TEXT))
    return min(laws, key=lambda law: law.error)


def expected_loss(
    compressed: float, parameters: int, text_tokens: int, tokens: int
) -> ExpectedLoss | None:
    """The loss at the end of a run of the recipe; None if no run like it was measured. Arguments as in `Point`."""
    counts = Counter(point.text for point in points())
    kinds = {p.text: p.compressed for p in points() if counts[p.text] >= LEAST_RUNS}
    if not kinds or min(parameters, text_tokens, tokens) < 1:
        return None
    found = {}
    for kind, of_kind in kinds.items():
        planned = Point(kind, "", of_kind, parameters, text_tokens, tokens, 0.0, 1.0)
        outside = _doublings_outside(planned)
        if outside > FARTHEST:
            return None
        spread = LEAST_SPREAD + law(kind).error + SPREAD_OF_FEW / counts[kind]
        spread += SPREAD_PER_DOUBLING * outside
        found[kind] = law(kind).bits_per_byte(planned), spread
    by_compression = sorted(kinds, key=lambda kind: kinds[kind])
    at = [kinds[kind] for kind in by_compression]
    value, spread = (
        float(np.interp(compressed, at, [found[kind][i] for kind in by_compression]))
        for i in (0, 1)
    )
    # Between the measured texts nothing is known; a text that compresses like one of them is taken to be like it.
    nearest = min(kinds, key=lambda kind: abs(kinds[kind] - compressed))
    if len(kinds) > 1:
        away = abs(kinds[nearest] - compressed) / (at[-1] - at[0])
        spread += away * 0.3
    rests_on = f"{len(points())} runs of this project with {' and '.join(by_compression)}"
    return ExpectedLoss(value, value * (1 - spread), value * (1 + spread), rests_on)


def _fitted(measured: list[Point], rate_of_size: float, rate_of_text: float) -> Law:
    """Least squares of the relative errors. A term that would be negative is left out, and so is that of the size where
    only one was measured."""
    goal = np.array([point.bits_per_byte for point in measured])
    terms = np.array([(1.0, *_terms(point, rate_of_size, rate_of_text)) for point in measured])
    used = [0, 1, 2] if len({point.parameters for point in measured}) > 1 else [0, 2]
    while True:
        found, *_ = np.linalg.lstsq(terms[:, used] / goal[:, None], np.ones(len(goal)), rcond=None)
        if found.min() >= 0 or len(used) == 1:
            break
        del used[int(found.argmin())]
    values = np.zeros(3)
    values[used] = found
    error = float(np.abs(terms @ values / goal - 1).max())
    floor, by_size, by_text = map(float, values)
    return Law(floor, by_size, by_text, rate_of_size, rate_of_text, error)


def _terms(point: Point, rate_of_size: float, rate_of_text: float) -> tuple[float, float]:
    return (
        (point.parameters / 1e6) ** -rate_of_size,
        (_worth(point.tokens, point.text_tokens) / 1e6) ** -rate_of_text,
    )


def _worth(tokens: int, text_tokens: int) -> float:
    """As many tokens of fresh text as `tokens` of a text of `text_tokens`, read again and again, are worth."""
    repeats = max(0.0, tokens / text_tokens - 1)
    return min(tokens, text_tokens) * (1 + REPEATS * (1 - math.exp(-repeats / REPEATS)))


def _doublings_outside(planned: Point) -> float:
    """How far a run is outside of the measured ones on its kind of text, in factors of two, all dimensions together."""
    measured = [point for point in points() if point.text == planned.text]
    away = 0.0
    for name in ("parameters", "tokens"):
        values, value = [getattr(point, name) for point in measured], getattr(planned, name)
        away += max(0.0, math.log2(value / max(values)), math.log2(min(values) / value))
    return away
