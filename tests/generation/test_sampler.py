"""Drawing a token: tests compare exact sets of tokens and exact probabilities, without statistics."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from homespun.config import SamplingConfig
from homespun.errors import UserError
from homespun.generation.sampler import BLOCK, Sampler, candidates, drawn

plain = partial(SamplingConfig, min_p=0.0)
"""Only the filters that a test names: min-p is on by default."""

properties = settings(derandomize=True, deadline=None, max_examples=200)

any_logits = arrays.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.one_of(
        st.sampled_from([-1.0, 0.0, 1.0]),
        st.floats(-30, 30, width=32),
        st.floats(allow_nan=False, allow_infinity=False, width=32),
    ),
)
any_config = st.builds(
    SamplingConfig,
    temperature=st.one_of(st.sampled_from([0.0, 5e-324, 1e-300, 1.0, 1e300]), st.floats(0.1, 3)),
    top_k=st.none() | st.integers(1, 50),
    top_p=st.sampled_from([5e-324, 1e-9, 0.5, 1 - 1e-16, 1.0]) | st.floats(0.01, 1),
    min_p=st.sampled_from([0.0, 5e-324, 0.5, 1.0]) | st.floats(0, 1),
    repetition_penalty=st.sampled_from([1e-300, 0.5, 1.0, 1.3, 1e300]),
)


def logits_of(*probabilities):
    return np.log(np.array(probabilities)).astype(np.float32)


def support(logits, history=(), **config):
    config.setdefault("temperature", 1.0)
    return candidates(logits, history, plain(**config))[0].tolist()


FIVE = logits_of(0.1, 0.4, 0.05, 0.25, 0.2)


class Fixed:
    """A random generator that always returns the same number."""

    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 2.0, 100.0])
def test_the_probabilities_are_the_softmax_of_the_scaled_logits(temperature):
    logits = np.array([0.5, -1.25, 3.0, 2.75], dtype=np.float32)
    ids, probabilities = candidates(logits, (), plain(temperature=temperature))
    weights = np.exp(logits.astype(np.float64) / temperature)
    assert ids.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(probabilities, weights / weights.sum(), rtol=1e-14)


def test_temperature_0_is_the_likeliest_token_the_first_of_equals():
    logits = np.array([1, 3, 2, 3], dtype=np.float32)
    assert Sampler(plain(temperature=0, top_k=3), seed=0)(logits) == 1


@pytest.mark.parametrize(
    ("k", "kept"),
    [(1, [1]), (2, [1, 3]), (3, [1, 3, 4]), (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4])],
)
def test_top_k(k, kept):
    assert support(FIVE, top_k=k) == kept


def test_top_k_keeps_exactly_k_of_equals_the_lower_ids():
    assert support(np.float32([0, 1, 1, 1, 2]), top_k=3) == [1, 2, 4]


@pytest.mark.parametrize(
    ("p", "kept"),
    [
        (0.01, [1]),
        (0.39, [1]),
        (0.41, [1, 3]),
        (0.64, [1, 3]),
        (0.66, [1, 3, 4]),
        (0.86, [0, 1, 3, 4]),
        (0.96, [0, 1, 2, 3, 4]),
    ],
)
def test_top_p_is_the_smallest_set_that_reaches_p(p, kept):
    assert support(FIVE, top_p=p) == kept


@pytest.mark.parametrize(
    ("share", "kept"), [(0.12, [0, 1, 2, 3, 4]), (0.13, [0, 1, 3, 4]), (0.3, [1, 3, 4]), (1, [1])]
)
def test_min_p_is_a_share_of_the_likeliest(share, kept):
    assert support(FIVE, min_p=share) == kept


def test_temperature_comes_before_top_p_and_min_p():
    assert support(FIVE, top_p=0.5) == [1, 3]
    assert support(FIVE, top_p=0.5, temperature=0.25) == [1]
    assert support(FIVE, min_p=0.3, temperature=4.0) == [0, 1, 2, 3, 4]


def test_top_p_sees_what_top_k_has_left():
    assert support(FIVE, top_p=0.6, top_k=2) == [1]
    assert support(FIVE, top_p=0.6) == [1, 3]


def test_the_penalty_makes_both_signs_less_likely_and_leaves_others_alone():
    logits = np.array([2, -2, 0, 1], dtype=np.float32)
    config = plain(temperature=1, repetition_penalty=2.0)
    _, probabilities = candidates(logits, [0, 1, 1, 2], config)
    weights = np.exp([1.0, -4.0, 0.0, 1.0])
    np.testing.assert_allclose(probabilities, weights / weights.sum(), rtol=1e-14)
    assert support(logits, [0, 1], top_k=1, repetition_penalty=3.0) == [3]
    assert logits.tolist() == [2, -2, 0, 1]


@pytest.mark.parametrize(
    ("logits", "history", "penalty", "expected"),
    [
        ([1e30, 5], [0], 1e-300, [1, 0]),
        ([-1e30, 5], [0], 1e300, [0, 1]),
        ([1e30, 1e30], [0], 1e300, [0, 1]),
        ([1e30, 1e30], [0, 1], 1e-300, [0.5, 0.5]),
        ([-1e30, -1e30], [0, 1], 1e300, [0.5, 0.5]),
    ],
)
def test_a_penalty_beyond_all_numbers_gives_a_distribution(logits, history, penalty, expected):
    config = plain(temperature=1, repetition_penalty=penalty)
    ids, probabilities = candidates(np.float32(logits), history, config)
    assert ids.tolist() == [0, 1]
    assert probabilities.tolist() == expected


def test_the_order_is_that_of_transformers():
    """A chain of the library's own processors keeps the same tokens with the same probabilities."""
    import torch
    from transformers.generation import logits_process as hf

    random = np.random.default_rng(0)
    for _ in range(50):
        logits = (random.normal(size=60) * 3).astype(np.float32)
        history = random.integers(0, 60, size=10).tolist()
        config = plain(
            temperature=float(random.uniform(0.3, 2)),
            top_k=int(random.integers(1, 60)),
            top_p=float(random.uniform(0.3, 1)),
            min_p=float(random.uniform(0, 0.3)),
            repetition_penalty=float(random.uniform(0.8, 1.5)),
        )
        scores = torch.from_numpy(logits.astype(np.float64))[None]
        for process in (
            hf.RepetitionPenaltyLogitsProcessor(config.repetition_penalty),
            hf.TemperatureLogitsWarper(config.temperature),
            hf.TopKLogitsWarper(config.top_k),
            hf.TopPLogitsWarper(config.top_p),
            hf.MinPLogitsWarper(config.min_p),
        ):
            scores = process(torch.tensor([history]), scores)
        expected = scores.softmax(-1)[0].numpy()
        ids, probabilities = candidates(logits, history, config)
        assert ids.tolist() == np.flatnonzero(expected).tolist()
        np.testing.assert_allclose(probabilities, expected[ids], rtol=1e-12)


def test_a_uniform_number_picks_the_token_whose_interval_it_falls_into():
    sampler = Sampler(plain(temperature=1, top_k=3), seed=0)
    shares = {1: 0.4 / 0.85, 3: 0.25 / 0.85, 4: 0.2 / 0.85}
    low = 0.0
    for token, share in shares.items():
        for number in (low + 1e-6, low + share - 1e-6):
            sampler.random = Fixed(number)
            assert sampler(FIVE) == token
        low += share


def test_the_largest_uniform_number_never_draws_an_impossible_token():
    logits = np.array([0.0, 0.1, -1e30], dtype=np.float32)
    sampler = Sampler(plain(temperature=1), seed=0)
    for number in (np.nextafter(1, 0), 1.0):
        sampler.random = Fixed(number)
        assert sampler(logits) == 1
    sampler.random = Fixed(0.0)
    assert sampler(logits[::-1]) == 1


def test_draws_follow_the_probabilities_exactly_over_a_grid_of_uniform_numbers():
    config = plain(temperature=0.7, top_p=0.9)
    ids, probabilities = candidates(FIVE, (), config)
    sampler, n = Sampler(config, seed=0), 1000
    counts = dict.fromkeys(ids.tolist(), 0)
    for i in range(n):
        sampler.random = Fixed((i + 0.5) / n)
        counts[sampler(FIVE)] += 1
    for token, probability in zip(ids, probabilities, strict=True):
        assert abs(counts[token] - probability * n) <= 1


def test_seeds_and_samples_have_streams_of_their_own():
    def draw(seed, sample):
        sampler = Sampler(plain(temperature=1), seed, sample)
        return tuple(sampler(np.zeros(1000, dtype=np.float32)) for _ in range(5))

    streams = [(seed, sample) for seed in (0, 1, 2**32, 2**64) for sample in range(4)]
    assert len({draw(*stream) for stream in streams}) == len(streams)
    assert draw(2**64, 3) == draw(2**64, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_an_error(bad):
    logits = np.array([0, bad, 1], dtype=np.float32)
    for temperature in (0.0, 1.0):
        with pytest.raises(UserError, match="not finite"):
            Sampler(plain(temperature=temperature), seed=0)(logits)


@properties
@given(any_logits, any_config, st.data())
def test_whatever_the_settings_a_token_is_drawn_from_a_distribution(logits, config, data):
    history = data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=5))
    ids, probabilities = candidates(logits, history, config)
    assert len(ids) >= 1
    assert (np.diff(ids) > 0).all()
    assert np.isfinite(probabilities).all()
    assert abs(probabilities.sum() - 1) < 1e-12
    assert len(ids) <= (config.top_k or len(logits))
    token = Sampler(config, seed=0, prompt=history)(logits)
    assert probabilities[ids.tolist().index(token)] > 0


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_each_token_is_drawn_as_with_the_whole_text_before_it(penalty):
    """The sampler remembers the tokens that a text has; the distribution is the one of the text."""
    config, random = plain(temperature=1, repetition_penalty=penalty), np.random.default_rng(0)
    text = [3, 3, 17]
    sampler = Sampler(config, seed=5, prompt=tuple(text))
    points = Sampler(config, seed=5).random
    for _ in range(60):
        logits = random.normal(scale=3, size=40).astype(np.float32)
        ids, probabilities = candidates(logits, text, config)
        cumulative = probabilities.cumsum()
        expected = ids[cumulative.searchsorted(points.random() * cumulative[-1], side="right")]
        text.append(sampler(logits))
        assert text[-1] == expected


@properties
@given(any_logits, any_config, st.floats(0.01, 1), st.floats(0.01, 1), st.integers(1, 40))
def test_a_tighter_limit_never_lets_more_tokens_through(logits, config, p, q, k):
    def kept(**changes):
        return set(candidates(logits, (), dataclasses.replace(config, **changes))[0].tolist())

    low, high = sorted([p, q])
    assert kept(top_p=low) <= kept(top_p=high)
    assert kept(min_p=high) <= kept(min_p=low)
    assert kept(top_k=k) <= kept(top_k=k + 1)


@np.errstate(over="ignore")
def by_sorting(logits, history, config):
    """The ids that may be drawn, and their probabilities, by the plain definition: a sort of the whole vocabulary."""
    scores = logits.astype(np.float64)
    for token in set(history):
        penalty = config.repetition_penalty
        score = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
        scores[token] = np.clip(score, np.finfo(np.float64).min, np.finfo(np.float64).max)
    order = np.argsort(-scores, kind="stable")
    if config.temperature == 0:
        return order[:1], np.ones(1)
    floor = -np.inf
    if config.min_p:
        floor = scores.max() + config.temperature * np.log(config.min_p)
    weights = np.exp((scores - scores.max()) / config.temperature)
    order = order[: config.top_k]
    if config.top_p < 1:
        cumulative = np.cumsum(weights[order] / weights[np.sort(order)].sum())
        order = order[: np.count_nonzero(cumulative < config.top_p) + 1]
    kept = np.sort(order[scores[order] >= floor])
    return kept, weights[kept] / weights[kept].sum()


def check_equals_sorting(logits, history, config):
    ids, probabilities = candidates(logits, history, config)
    expected_ids, expected = by_sorting(logits, history, config)
    assert ids.tolist() == expected_ids.tolist()
    assert probabilities.tolist() == expected.tolist()


@properties
@given(any_logits, any_config, st.data())
def test_whatever_the_settings_the_tokens_are_those_of_a_whole_sort(logits, config, data):
    history = data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=5))
    check_equals_sorting(logits, history, config)


@pytest.mark.parametrize("size", [100, 2003])
@pytest.mark.parametrize("scale", [0.01, 1, 8])
@pytest.mark.parametrize("step", [0, 0.5], ids=["few ties", "many ties"])
def test_a_large_vocabulary_has_the_tokens_of_a_whole_sort(size, scale, step):
    random = np.random.default_rng(size)
    logits = random.normal(size=size).astype(np.float32) * np.float32(scale)
    if step:
        logits = (logits / step).round() * np.float32(step)
    for order in (logits, np.sort(logits)):  # in the second one, the likeliest tokens are together
        for changes in (
            *({"top_k": k} for k in (1, 7, 40, size - 1, size + 1)),
            *({"top_p": p} for p in (1e-9, 0.5, 0.9, 0.999, 1 - 1e-16)),
            {"top_p": 0.5, "temperature": 1e300},
            {"top_p": 0.9, "temperature": 0.3, "top_k": 60, "min_p": 0.02},
        ):
            check_equals_sorting(order, (), plain(**{"temperature": 1.0} | changes))


@pytest.mark.parametrize("n", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 1000])
def test_an_index_is_drawn_as_often_as_its_weight_says(n):
    """Whole numbers have exact sums, so the points between two indices are known."""
    weights = np.random.default_rng(n).integers(0, 4, n).astype(np.float64)
    weights[n // 2] = 5
    expected = np.repeat(np.arange(n), weights.astype(int))
    total = len(expected)
    for point in range(total):
        for inside in (0.01, 0.99):
            assert drawn(weights, Fixed((point + inside) / total)) == expected[point]


@pytest.mark.parametrize("n", [2, BLOCK, 5 * BLOCK, 1000])
def test_the_last_point_is_the_last_index_that_has_a_weight(n):
    weights = np.random.default_rng(n).random(n)
    weights[n // 2 :] = 0
    weights[n // 2 - 1] = 1e-300
    last = drawn(weights, Fixed(np.nextafter(1, 0)))
    assert last < n // 2
    weights[: n // 2] = 0
    weights[n // 3] = 1
    assert drawn(weights, Fixed(0.0)) == drawn(weights, Fixed(np.nextafter(1, 0))) == n // 3
