"""The learning rate over a run."""

import itertools
import math

import pytest

from homespun.config import Schedule
from homespun.training.schedule import RateCurve


def shares(kind: Schedule, total: int, warmup: int, minimum: float = 0.1) -> list[float]:
    curve = RateCurve(kind, minimum, warmup_steps=warmup, warmup_share=warmup / total)
    return [curve(step, (step + 1) / total) for step in range(total)]


def test_cosine_is_the_formula_of_the_guide_one_step_on() -> None:
    total, warmup = 1000, 100
    for step, share in enumerate(shares("cosine", total, warmup), start=1):
        if step < warmup:
            expected = step / warmup
        else:
            progress = (step - warmup) / (total - warmup)
            expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))
        assert share == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("warmup", [0, 1, 50])
def test_a_rate_rises_to_the_peak_and_falls_to_the_minimum(kind: Schedule, warmup: int) -> None:
    rates = shares(kind, 500, warmup)
    peak = max(range(500), key=rates.__getitem__)
    assert 0 < rates[0] <= rates[peak] <= 1
    assert rates[peak] == pytest.approx(1.0, abs=1e-4)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)


def test_linear_stays_at_the_peak_and_then_falls_evenly() -> None:
    rates = shares("linear", 1000, 0, minimum=0.0)
    assert rates[:299] == [1.0] * 299
    falls = [before - after for before, after in itertools.pairwise(rates[310:])]
    assert falls == pytest.approx([1 / 700] * len(falls))
    assert rates[-1] == pytest.approx(0.0)


def test_where_time_ends_the_run_the_warm_up_follows_the_clock() -> None:
    curve = RateCurve("linear", 0.0, warmup_steps=0, warmup_share=0.02)
    rates = [curve(7, progress) for progress in (0.001, 0.01, 0.02)]
    assert rates == pytest.approx([0.05, 0.5, 1.0])
