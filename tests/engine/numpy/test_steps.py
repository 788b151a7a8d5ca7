"""The compiled parts of a decoding step beside the products: those of NumPy, and for each text the same bits in any
company."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from homespun.bfloat16 import to_bfloat16
from homespun.config import ModelConfig
from homespun.engine.base import Floats
from homespun.engine.hardware import usable_cpus
from homespun.engine.numpy.engine import NumpyEngine
from homespun.engine.numpy.layers import (
    RotaryTables,
    attention,
    combine,
    gelu,
    layer_norm,
    rms_norm,
    route,
    swiglu,
)
from homespun.engine.numpy.narrow import Cache
from homespun.engine.numpy.products import Products
from tests.engine.numpy.test_engine import ALL
from tests.reference import QWEN3, random_batch, random_weights

SIZES = [1, 7, 8, 15, 16, 17, 100]


def random(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.fixture(autouse=True)
def one_thread_again(own: Products) -> Iterator[None]:
    yield
    own.set_num_threads(1)


@pytest.mark.parametrize("channels", [2, 8, 24, 64, 80])
@pytest.mark.parametrize("heads", [(1, 1), (4, 2), (6, 6)])
@pytest.mark.parametrize("differ", [False, True])
@pytest.mark.parametrize("is_narrow", [False, True])
def test_attention_is_that_of_numpy_and_of_each_text_alone(
    any_own: Products, channels: int, heads: tuple[int, int], differ: bool, is_narrow: bool
) -> None:
    (n_heads, n_kv), batch, max_len = heads, 5, 40
    new = 3 * random(batch, n_heads + 2 * n_kv, 1, channels)
    cache: Cache = random(batch, 2 * n_kv, max_len, channels, seed=1)
    if is_narrow:
        cache = to_bfloat16(cache)
    ends = np.array([0, 39, 3, 16, 30]) if differ else np.full(batch, 33)
    positions = ends[:, None] if differ else slice(33, 34)
    theirs, ours = cache.copy(), cache.copy()
    expected = attention(new, theirs, positions)
    found = attention(new, ours, positions, own=any_own)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours, theirs)
    any_own.set_num_threads(3)
    np.testing.assert_array_equal(attention(new, cache.copy(), positions, own=any_own), found)
    any_own.set_num_threads(1)
    for text in range(batch):
        one, at = slice(text, text + 1), slice(int(ends[text]), int(ends[text]) + 1)
        alone = attention(new[one], cache[one].copy(), at, own=any_own)
        np.testing.assert_array_equal(alone[0], found[text])


BETWEEN = [0x3F808000, 0x3F818000, 0xBF808000, 0x3F808001, 0x3F817FFF, 0x00008000, 0x00018000]
"""Numbers halfway between two bfloat16 numbers, and beside these."""
NOT_FINITE = [0x7F800001, 0xFFFFFFFF, 0x7F800000, 0xFF800000]


@pytest.mark.parametrize("bits", BETWEEN + NOT_FINITE)
def test_a_narrow_cache_takes_the_nearest_number(own: Products, bits: int) -> None:
    new = random(1, 3, 1, 16)
    new.view(np.uint32)[0, 2, 0, 3] = bits
    cache = np.zeros((1, 2, 40, 16), np.uint16)
    found = attention(new, cache, slice(20, 21), own=own)
    np.testing.assert_array_equal(cache[0, :, 20], to_bfloat16(new[0, 1:, 0]))
    assert np.isfinite(found[0, 3]) == (bits not in NOT_FINITE)
    assert np.isfinite(np.delete(found, 3)).all()


def test_scores_far_apart_and_numbers_that_are_not_finite(any_own: Products) -> None:
    new = random(1, 3, 1, 16) * 1e4
    cache = random(1, 2, 40, 16, seed=1)
    expected = attention(new, cache.copy(), slice(20, 21))
    found = attention(new, cache.copy(), slice(20, 21), own=any_own)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for kind in (0, 1):  # keys, values
        damaged = cache.copy()
        damaged[0, kind, 3, 5] = np.nan
        assert np.isnan(attention(new, damaged, slice(20, 21), own=any_own)).any()


@pytest.mark.parametrize("width", SIZES)
def test_activations_are_those_of_numpy(any_own: Products, width: int) -> None:
    x = np.concatenate((random(5, width), 40 * random(4, width), np.zeros((1, width), np.float32)))
    np.testing.assert_allclose(gelu(x.copy(), any_own), gelu(x), rtol=1e-5, atol=1e-6)
    both = np.concatenate((x, random(10, width, seed=1)), axis=1)
    np.testing.assert_allclose(swiglu(both, any_own), swiglu(both), rtol=1e-5, atol=1e-6)
    alone = swiglu(both[3:4].copy(), any_own)
    np.testing.assert_array_equal(swiglu(both, any_own)[3:4], alone)
    for threads in (2, 7):
        any_own.set_num_threads(threads)
        np.testing.assert_array_equal(swiglu(both, any_own)[3:4], alone)
    any_own.set_num_threads(1)
    x[0, 0] = np.nan
    assert np.isnan(gelu(x.copy(), any_own)).sum() == 1


@pytest.mark.parametrize("width", SIZES[1:])
def test_norms_are_those_of_numpy(any_own: Products, width: int) -> None:
    x, weight, bias = random(5, width) + 3, random(width, seed=1), random(width, seed=2)
    expected = layer_norm(x, weight, bias, 1e-5)
    np.testing.assert_allclose(
        layer_norm(x, weight, bias, 1e-5, any_own), expected, rtol=1e-4, atol=1e-5
    )
    expected = rms_norm(x, weight, 1e-6)
    found = rms_norm(x, weight, 1e-6, any_own)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rms_norm(x[2:3], weight, 1e-6, any_own), found[2:3])


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 2), (3, 5, 1), (20, 16, 3), (5, 128, 8)])
def test_routes_to_experts_are_those_of_numpy(
    any_own: Products, shape: tuple[int, int, int]
) -> None:
    n, n_experts, k = shape
    logits, outputs = random(n, n_experts), random(n * k, 37)
    logits[0] = 0.5  # equal logits
    expected, found = route(logits, k), route(logits, k, any_own)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-6)
    for name in ("chosen", "ends", "places", "tokens"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(found.chosen[0], np.arange(k))
    sums = combine(outputs, found, any_own)
    np.testing.assert_allclose(sums, combine(outputs, expected), rtol=1e-5, atol=1e-6)
    last = route(logits[-1:], k, any_own)
    np.testing.assert_array_equal(last.weights, found.weights[-1:])
    np.testing.assert_array_equal(combine(outputs[found.places[-1]], last, any_own), sums[-1:])


def test_logits_that_are_not_finite_choose_as_many_experts(any_own: Products) -> None:
    logits = random(4, 8)
    logits[1], logits[2, 3], logits[3, 4:] = np.nan, np.nan, -np.inf
    for own in (any_own, None):
        routes = route(logits, 3, own)
        assert routes.ends[-1] == 12
        assert (np.diff(routes.chosen) > 0).all()
        assert sorted(routes.places.reshape(-1)) == list(range(12))
        assert np.isnan(routes.weights[1:3]).any(-1).all()
        assert np.isfinite(routes.weights[[0, 3]]).all()


@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("channels", [2, 16, 24])
def test_rotations_are_those_of_numpy(any_own: Products, channels: int, has_norm: bool) -> None:
    config = dataclasses.replace(QWEN3, head_dim=channels)
    heads = random(3, config.n_heads + 2 * config.n_kv_heads, 1, channels)
    norm = random(config.n_heads + config.n_kv_heads, 1, channels, seed=1) if has_norm else None
    for positions in (slice(7, 8), np.array([[2], [0], [90]])):
        ours, theirs = heads.copy(), heads.copy()
        RotaryTables(config).turn(ours, positions, norm, 1e-6, any_own)
        RotaryTables(config).turn(theirs, positions, norm, 1e-6)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@ALL
@pytest.mark.parametrize("narrow", [None, "bfloat16", "int8"])
def test_a_text_has_the_same_bits_in_a_batch(
    own: Products, config: ModelConfig, narrow: str | None
) -> None:
    model = NumpyEngine(config, 1, narrow=narrow, products=own)  # type: ignore[arg-type]
    model.load(random_weights(config).items())
    tokens = random_batch(config, rows=9).inputs
    batch = model.decoder(9, config.seq_len)
    batch.prefill(tokens[:, :3])
    together = [batch.step(tokens[:, n]) for n in range(3, 12)]
    for row in (0, 8):
        alone = model.decoder(1, config.seq_len)
        alone.prefill(tokens[row : row + 1, :3])
        for n, logits in zip(range(3, 12), together, strict=True):
            np.testing.assert_array_equal(alone.step(tokens[row : row + 1, n])[0], logits[row])


@ALL
def test_no_step_writes_behind_its_cache(own: Products, config: ModelConfig) -> None:
    model = NumpyEngine(config, 1, products=own)
    model.load(random_weights(config).items())
    tokens = random_batch(config).inputs
    for lengths in (None, (4, 2, 3)):
        decoder = model.decoder(3, 4)
        decoder.prefill(tokens[:, :4], lengths)
        with pytest.raises(IndexError, match="position 4 is not in a cache of 4"):
            decoder.step(tokens[:, 4])


FORKED = """
import os
import numpy as np
from homespun.engine.numpy.products import compiled

own = compiled()
own._most = 2
own.set_num_threads(2)
x = np.ones(1 << 20, np.float32)
own.gelu(x)
child = os.fork()
if not child:
    own.set_num_threads(2)
    own.gelu(x)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_computes(own: Products) -> None:
    """It has no threads but its own."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED]
    subprocess.run(command, check=True, timeout=60)


def test_no_more_threads_than_processors(own: Products) -> None:
    own.set_num_threads(10**6)
    assert own.get_num_threads() <= usable_cpus()
