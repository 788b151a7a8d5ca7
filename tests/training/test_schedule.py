"""The learning rate over a run."""

import itertools
import math

import pytest

from homespun.config import Schedule, TrainConfig
from homespun.planning.recipe import plan, step_limits
from homespun.planning.resolved import ResolvedConfig
from homespun.training.schedule import RateCurve, rate_curve, unreached_peak


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


@pytest.mark.parametrize(
    ("warm_up", "steps", "said"),
    [(100, 30, "30% of its peak"), (30, 30, ""), (None, 30, ""), (100, None, "")],
)
def test_a_warm_up_that_is_longer_than_the_run_is_said(
    warm_up: int | None, steps: int | None, said: str
) -> None:
    line = unreached_peak(ResolvedConfig(warmup_steps=warm_up), steps)
    assert said in (line or "")
    assert bool(line) == bool(said)


def test_the_recipe_chooses_no_warm_up_that_is_longer_than_the_run() -> None:
    for max_steps in (1, 2, 5, 19, 20, 1000):
        planned = plan(
            TrainConfig(max_steps=max_steps), vocab_size=300, n_samples=1000, flops_per_second=1e10
        )
        curve = rate_curve(planned.config, step_limits(planned.config, 1000))
        rates = [curve(step, (step + 1) / max_steps) for step in range(max_steps)]
        assert max(rates) > 0.5
        assert planned.config.warmup_steps == min(10, max(1, max_steps // 2))
