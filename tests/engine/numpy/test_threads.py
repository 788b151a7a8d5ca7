"""Several threads compute the steps of a text as long as they are faster than one."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from homespun.config import ModelConfig
from homespun.engine.base import Floats
from homespun.engine.numpy import threads
from homespun.engine.numpy.engine import NumpyEngine
from homespun.engine.numpy.threads import (
    BACKOFF_FACTOR,
    MIN_BACKOFF,
    SINGLE_THREAD_STEPS,
    ProductThreads,
)
from tests.reference import (
    GPT2,
    LLAMA,
    QWEN3,
    QWEN3_MOE,
    random_batch,
    random_weights,
    relative_error,
)

BLAS = ThreadpoolController().select(user_api="blas").lib_controllers
pytestmark = pytest.mark.skipif(
    not BLAS,
    reason="the threads of this NumPy's products cannot be counted",
)


def blas_threads() -> int:
    [count] = {library.get_num_threads() for library in BLAS}
    return int(count)


class Clock:
    """A clock that advances only when a step adds its time."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "usable_cpus", lambda: 2)
    with threadpool_limits(3):
        yield
        assert blas_threads() == 3, "not those of the process again"


def steps(product: ProductThreads, clock: Clock, n: int, with_one: float, with_two: float) -> str:
    """Run `n` steps of these durations; returns the number of threads of each step, as digits."""
    counts = ""
    for _ in range(n):
        with product.step():
            counts += str(blas_threads())
            clock.now += with_one if blas_threads() == 1 else with_two
    return counts


def test_two_threads_are_tried_and_kept_while_they_are_faster() -> None:
    clock = Clock()
    product = ProductThreads(clock=clock)
    assert steps(product, clock, 50, 1.0, 0.6) == "1" * SINGLE_THREAD_STEPS + "2" * (
        50 - SINGLE_THREAD_STEPS
    )
    product.begin(3)  # a larger batch has slower steps, which must not end the trial
    assert steps(product, clock, 50, 9.0, 6.0) == "1" * SINGLE_THREAD_STEPS + "2" * (
        50 - SINGLE_THREAD_STEPS
    )
    product.begin(3)
    assert steps(product, clock, 50, 9.0, 6.0) == "2" * 50


def test_while_a_processor_is_busy_trials_become_rare() -> None:
    clock = Clock()
    product = ProductThreads(clock=clock)
    start, counts = clock.now, steps(product, clock, 10_000, 0.002, 0.1)
    rests = [len(rest) * 0.002 for rest in counts.split("2")[1:-1]]
    assert len(rests) > 3
    assert rests == sorted(rests)
    assert rests[0] == pytest.approx(BACKOFF_FACTOR * 0.1, rel=0.1)
    assert 0.1 * counts.count("2") < 0.5 / BACKOFF_FACTOR * (clock.now - start)


def test_a_hiccup_costs_a_short_rest_however_often_it_comes() -> None:
    clock = Clock()
    product = ProductThreads(clock=clock)
    for _ in range(5):
        assert set(steps(product, clock, 200, 0.002, 0.001)[-50:]) == {"2"}
        steps(product, clock, 1, 0.002, 0.02)
        counts = steps(product, clock, 200, 0.002, 0.001)
        assert counts.index("2") * 0.002 == pytest.approx(MIN_BACKOFF, rel=0.05)


def test_threads_that_gain_nothing_mostly_rest() -> None:
    clock = Clock()
    product = ProductThreads(clock=clock)
    counts = steps(product, clock, 10_000, 0.001, 0.001)
    assert 1 < counts.count("2") < 0.1 * 10_000


def test_one_slow_step_among_fast_ones_is_forgiven() -> None:
    clock = Clock()
    product = ProductThreads(clock=clock)
    steps(product, clock, SINGLE_THREAD_STEPS + 5, 1.0, 0.6)
    assert steps(product, clock, 1, 1.0, 2.5) == "2"
    assert steps(product, clock, 10, 1.0, 0.6) == "2" * 10


@pytest.mark.parametrize("wanted", [1, 2])
def test_as_many_as_are_asked_for_stay(wanted: int) -> None:
    clock = Clock()
    product = ProductThreads(wanted, clock)
    assert steps(product, clock, 50, 1.0, 5.0) == str(wanted) * 50
    with product.default():
        assert blas_threads() == wanted


def test_an_engine_computes_its_steps_so_and_all_else_with_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = NumpyEngine(QWEN3)
    engine.load(random_weights(QWEN3).items())
    seen: list[int] = []
    hidden = NumpyEngine.hidden

    def watched(*args: Any, **named: Any) -> object:
        seen.append(blas_threads())
        return hidden(*args, **named)

    monkeypatch.setattr(NumpyEngine, "hidden", watched)
    engine.threads = ProductThreads(clock=Clock())
    batch = random_batch(QWEN3)
    engine.logits(batch.inputs)
    engine.loss(batch)
    decoder = engine.decoder(len(batch.inputs), QWEN3.seq_len)
    decoder.prefill(batch.inputs[:, :4])
    for i in range(4, 10):
        decoder.step(batch.inputs[:, i])
    assert seen == [1] * (3 + SINGLE_THREAD_STEPS) + [2] * (6 - SINGLE_THREAD_STEPS)


@pytest.mark.parametrize(
    "config", [GPT2, LLAMA, QWEN3, QWEN3_MOE], ids=["gpt2", "llama", "qwen3", "qwen3_moe"]
)
def test_the_number_of_threads_changes_no_logits(config: ModelConfig) -> None:
    # Large enough for BLAS to divide a product among threads.
    large = {"d_model": 512, "d_ff": 2048, "n_heads": 8, "n_kv_heads": 8, "head_dim": 64}
    config = dataclasses.replace(config, vocab_size=2000, **large)
    inputs = random_batch(config, rows=1).inputs

    def logits(n_threads: int) -> Floats:
        engine = NumpyEngine(config, n_threads)
        engine.load(random_weights(config).items())
        decoder = engine.decoder(1, config.seq_len)
        decoder.prefill(inputs[:, :4])
        return decoder.step(inputs[:, 4])

    assert relative_error(logits(2), logits(1)) < 1e-5
