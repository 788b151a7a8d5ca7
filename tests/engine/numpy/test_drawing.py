"""Tokens that are drawn by compiled functions: those that NumPy draws, with the same random numbers."""

import math

import numpy as np
import pytest

from homespun.config import SamplingConfig
from homespun.engine.base import Floats
from homespun.engine.numpy import products
from homespun.engine.numpy.products import Products
from homespun.errors import UserError
from homespun.generation import sampler
from homespun.generation.sampler import Sampler, draw_each

SIZES = [1, 2, 7, 63, 64, 65, 200, 1031]
NO_FILTER = -math.inf
LARGEST = float(np.nextafter(1, 0))
N_TOKENS = 20


def settings_of(number: int) -> SamplingConfig:
    """Those of one of many texts. Every fifth text has a filter that NumPy alone knows."""
    return SamplingConfig(
        temperature=(0.0, 1.0, 0.3, 0.01, 5.0, 1e-9)[number % 6],
        min_p=(0.0, 0.1, 0.9, 1.0, 1e-12)[number // 6 % 5],
        top_k=3 if number % 5 == 4 else None,
    )


def written(n: int, size: int, own: Products | None) -> list[list[int | UserError]]:
    """Tokens of n texts, step by step."""
    random = np.random.default_rng(size)
    samplers = [Sampler(settings_of(number), number) for number in range(n)]
    steps = []
    for _ in range(N_TOKENS):
        logits = random.standard_normal((n, size), dtype=np.float32)
        logits *= random.choice([0.1, 1, 10, 300], (n, 1)).astype(np.float32)
        steps.append(draw_each(samplers, list(logits), own and own.draw))
    return steps


def drawn(own: Products, logits: Floats, *settings: float) -> int:
    [token], _ = own.draw([logits], np.array([settings]))
    return token


@pytest.mark.parametrize("size", SIZES)
def test_tokens_are_those_of_numpy(any_own: Products, size: int) -> None:
    """Also the later ones, so no random number is skipped or used twice."""
    found = written(60, size, any_own)
    assert found == written(60, size, None)
    assert size < 65 or len(set(map(str, found))) == N_TOKENS


def test_a_text_has_the_same_tokens_alone(own: Products) -> None:
    random = np.random.default_rng(0)
    logits = [random.standard_normal(500, dtype=np.float32) for _ in range(9)]
    settings = np.array([(0.8, NO_FILTER, random.random()) for _ in logits])
    together, _ = own.draw(logits, settings)
    alone = [
        own.draw([row], each[None].copy())[0][0] for row, each in zip(logits, settings, strict=True)
    ]
    assert together == alone
    assert len(set(alone)) > 5


@pytest.mark.parametrize("size", SIZES)
def test_each_token_is_drawn_as_often_as_its_probability_says(any_own: Products, size: int) -> None:
    """The points between two tokens are those of exact sums."""
    logits = np.random.default_rng(1).standard_normal(size, dtype=np.float32)
    weights = np.exp(logits.astype(np.float64) / 0.7)
    ends = weights.cumsum() / weights.sum()
    for token in range(0, size, 1 + size // 50):
        start = ends[token - 1] if token else 0.0
        margin = 1e-9 * (ends[token] - start)
        assert drawn(any_own, logits, 0.7, NO_FILTER, start + margin) == token
        assert drawn(any_own, logits, 0.7, NO_FILTER, ends[token] - margin) == token


@pytest.mark.parametrize("number", [0.0, 0.5, LARGEST])
def test_no_number_draws_an_impossible_token(any_own: Products, number: float) -> None:
    for place in (0, 1, 63, 64, 100, 129):
        logits = np.full(130, -1e30, np.float32)
        logits[place] = 1e30
        assert drawn(any_own, logits, 1.0, NO_FILTER, number) == place
    logits = np.array([-2.0, 0.0, -1.0], np.float32)
    assert drawn(any_own, logits, 1.0, math.log(0.9), number) == 1


def test_of_the_likeliest_tokens_the_first_is_taken(any_own: Products) -> None:
    logits = np.zeros(100, np.float32)
    logits[[30, 70]] = 2.0
    assert drawn(any_own, logits, 0.0, NO_FILTER, 0.0) == 30
    assert drawn(any_own, logits, 1.0, 0.0, LARGEST) == 70
    assert drawn(any_own, -logits, 0.0, NO_FILTER, 0.0) == 0


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 70, 99])
def test_a_number_that_is_not_finite_fails_its_text_alone(
    own: Products, bad: float, place: int
) -> None:
    logits = np.random.default_rng(0).standard_normal((3, 100), dtype=np.float32)
    logits[1, place] = bad
    for temperature in (0.0, 1.0):
        samplers = [Sampler(SamplingConfig(temperature=temperature), seed) for seed in range(3)]
        first, error, last = draw_each(samplers, list(logits), own.draw)
        assert isinstance(error, UserError)
        assert "not finite" in str(error)
        config = samplers[0].config
        assert first == Sampler(config, 0)(logits[0])
        assert last == Sampler(config, 2)(logits[2])


def test_blocks_are_as_long_as_those_of_numpy() -> None:
    assert products.DRAWING_BLOCK == sampler.BLOCK
