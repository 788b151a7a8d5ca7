"""Narrow weights: rounding, and models with them, compiled or not, against the same in float32."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from homespun.architectures.families import parameters
from homespun.bfloat16 import from_bfloat16, to_bfloat16
from homespun.config import ModelConfig, ReaderConfig
from homespun.data.batch import Tokens
from homespun.engine import hardware, select
from homespun.engine.base import Decoder, EngineOptions, Floats
from homespun.engine.numpy import products as products_module
from homespun.engine.numpy.engine import NumpyEngine
from homespun.engine.numpy.narrow import Narrow, NarrowPrecision
from homespun.engine.numpy.panels import Panels
from homespun.engine.numpy.products import Products
from homespun.engine.torch.engine import TorchEngine
from homespun.errors import UserError
from tests.engine.numpy.test_engine import ALL
from tests.reference import GPT2, QWEN3, Arrays, random_batch, random_weights, relative_error

PRECISIONS: tuple[NarrowPrecision, ...] = ("bfloat16", "int8")
EACH = pytest.mark.parametrize("precision", PRECISIONS)
FARTHEST = {"bfloat16": 0.012, "int8": 0.04}
"""Relative error of the logits of a dense model with random weights, as far as the rounding of the weights explains it:
2 ** -9 of each weight in 16 bits, and 1 / 254 of the largest of its row in 8 bits."""

ROUNDED_INPUTS = {"bfloat16": 0.012, "int8": 0.006}
"""Relative error of the logits of a dense model, where keys and values are rounded, too, and in bfloat16 the vectors:
2 ** -9 of each number."""


def tolerance(config: ModelConfig, precision: NarrowPrecision, products: Products | None) -> float:
    """How far logits may be from those of the same weights in float32."""
    if products is None:
        return 1e-5
    return 0.15 if config.experts else ROUNDED_INPUTS[precision]  # some tokens get other experts


def rounded(weights: Floats, precision: NarrowPrecision) -> Floats:
    """The expected weights."""
    if precision == "bfloat16":
        return from_bfloat16(to_bfloat16(weights))
    scale = np.abs(weights).max(-1, keepdims=True) / np.float32(127)
    with np.errstate(invalid="ignore"):
        return np.where(scale > 0, np.rint(weights / scale) * scale, np.float32(0))


def rounded_weights(config: ModelConfig, precision: NarrowPrecision) -> Arrays:
    """The weights of a model of which all but vectors and routers are rounded."""
    kept = {p.name for p in parameters(config) if p.group == "vector" or p.is_router}
    return {
        name: weight if name in kept else rounded(weight, precision)
        for name, weight in random_weights(config).items()
    }


def reader(
    config: ModelConfig,
    precision: NarrowPrecision | None,
    products: Products | None = None,
    threads: int = 1,
    weights: Arrays | None = None,
) -> NumpyEngine:
    made = NumpyEngine(config, threads, narrow=precision, products=products)
    made.load((weights or random_weights(config)).items())
    return made


def decoded(decoder: Decoder, tokens: Tokens) -> Floats:
    return np.stack([decoder.step(tokens[:, i]) for i in range(tokens.shape[1])], axis=1)


Empty = Callable[[tuple[int, ...], NarrowPrecision], Any]


@pytest.fixture(params=["plain", "compiled"])
def empty(request: pytest.FixtureRequest, own: Products) -> Empty:
    """Makes a matrix that computes with NumPy alone, or with the compiled products."""
    if request.param == "plain":
        return Narrow.empty
    return lambda shape, precision: Panels.empty(shape, precision, own)


@EACH
def test_weights_are_the_nearest_ones(precision: NarrowPrecision, empty: Empty) -> None:
    weights = np.random.default_rng(0).standard_normal((4, 70, 50)).astype(np.float32)
    weights[2, 3] = 0
    matrix = empty(weights.shape, precision)
    matrix.fill(weights)
    for found, expected in zip([matrix[i] for i in range(4)], weights, strict=True):
        np.testing.assert_allclose(found.widened(), rounded(expected, precision), rtol=1e-6)
    again = empty(weights.shape, precision)
    again.fill(np.stack([matrix[i].widened() for i in range(4)]))
    np.testing.assert_array_equal(again.values, matrix.values)
    places = np.array([[69, 0], [1, 1]])
    np.testing.assert_array_equal(matrix[1].rows(places), matrix[1].widened()[places])


@EACH
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_stays_so(
    precision: NarrowPrecision, bad: float, empty: Empty
) -> None:
    weights = np.ones((3, 8), np.float32)
    weights[1, 2] = bad
    matrix = empty(weights.shape, precision)
    matrix.fill(weights)
    with np.errstate(invalid="ignore"):
        y = matrix.product(np.ones((1, 8), np.float32))[0]
    assert np.isfinite(y[[0, 2]]).all()
    assert not np.isfinite(y[1])


@ALL
@EACH
def test_a_model_is_the_one_with_rounded_weights(
    any_own: Products, config: ModelConfig, precision: NarrowPrecision
) -> None:
    batch = random_batch(config)
    exact = reader(config, None, weights=rounded_weights(config, precision))
    expected = exact.logits(batch.inputs)
    for products in (any_own, None):
        ours, near = reader(config, precision, products), tolerance(config, precision, products)
        assert relative_error(ours.logits(batch.inputs), expected) < near
        assert ours.loss(batch)[0] == pytest.approx(exact.loss(batch)[0], rel=near)
    if not config.experts:  # rounding changes which experts some tokens get
        error = relative_error(expected, reader(config, None).logits(batch.inputs))
        assert 0 < error < FARTHEST[precision]


@ALL
@EACH
@pytest.mark.parametrize("threads", [1, 2])
def test_a_cached_model_gives_the_logits_of_the_whole_text(
    own: Products, config: ModelConfig, precision: NarrowPrecision, threads: int
) -> None:
    ours, inputs = reader(config, precision, own, threads), random_batch(config).inputs
    near = tolerance(config, precision, own)
    whole = ours.logits(inputs)
    decoder = ours.decoder(3, config.seq_len)
    lengths = (7, 2, 5)
    first = decoder.prefill(inputs[:, :7], lengths)
    for row, length in enumerate(lengths):
        assert relative_error(first[row], whole[row, length - 1]) < near
    decoder.rewind(0)
    assert relative_error(decoder.prefill(inputs[:, :7]), whole[:, 6]) < near
    assert relative_error(decoded(decoder, inputs[:, 7:]), whole[:, 7:]) < near
    alone = ours.decoder(1, config.seq_len)
    alone.prefill(inputs[:1, :3])
    many = alone.repeated(20)
    repeated = np.repeat(inputs[:1, 3:9], 20, axis=0)
    assert relative_error(decoded(many, repeated)[7], whole[0, 3:9]) < near


@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
def test_bfloat16_is_that_of_pytorch_up_to_rounding(own: Products, config: ModelConfig) -> None:
    inputs = random_batch(config).inputs
    theirs = TorchEngine(config, EngineOptions(precision="bfloat16", threads=2, seed=None))
    theirs.load(random_weights(config).items())
    found = reader(config, "bfloat16", own).logits(inputs)
    assert relative_error(theirs.logits(inputs), found) < 0.02


@EACH
def test_narrow_weights_take_less_memory(own: Products, precision: NarrowPrecision) -> None:
    def size(engine: NumpyEngine) -> int:
        arrays: dict[int, npt.NDArray[Any]] = {}
        for weight in engine.weights.values():
            parts = (weight,) if isinstance(weight, np.ndarray) else (weight.values, weight.scales)
            for part in parts:
                while part is not None and part.base is not None:
                    part = part.base
                if part is not None:
                    arrays[id(part)] = part
        return sum(array.nbytes for array in arrays.values())

    wide = dataclasses.replace(QWEN3, d_model=128, d_ff=256)
    share = {"bfloat16": 0.5, "int8": 0.25}[precision]
    whole = size(reader(wide, None))
    assert size(reader(wide, None, own)) < 1.1 * whole
    assert size(reader(wide, precision, own)) < (share + 0.06) * whole


@EACH
def test_rounded_weights_are_not_given_as_the_weights(precision: NarrowPrecision) -> None:
    ours = reader(GPT2, precision)
    assert ours.rounds_weights
    with pytest.raises(RuntimeError, match="were rounded"):
        next(ours.state())


def test_numpy_generates_in_narrow_precisions_where_it_can_compile(
    own: Products, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = dataclasses.replace(GPT2, vocab_size=4_000_000)

    def chosen(config: ModelConfig, precision: Any = "auto", **options: Any) -> str | None:
        found = select.reader(config, ReaderConfig(precision=precision), **options)
        return found.narrow if isinstance(found, NumpyEngine) else "not NumPy"

    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    assert chosen(GPT2) is None
    assert chosen(large) == "bfloat16"
    for precision in PRECISIONS:
        assert chosen(GPT2, precision) == chosen(large, precision) == precision
    assert chosen(GPT2, "bfloat16", generates=False) == "not NumPy"
    for generates in (True, False):
        found = select.reader(GPT2, ReaderConfig(), generates=generates)
        assert isinstance(found, NumpyEngine)
        assert (found.products is not None) == generates
    assert chosen(large, generates=False) == "not NumPy"
    assert chosen(large, "int8", generates=False) == "int8"

    monkeypatch.setattr(products_module, "compiled", lambda: None)
    assert chosen(GPT2) is None
    assert chosen(large) == chosen(GPT2, "int8") == chosen(GPT2, "bfloat16") == "not NumPy"
    with pytest.raises(UserError, match="finds none: install gcc, or leave --engine out"):
        select.reader(GPT2, ReaderConfig(engine="numpy", precision="int8"))
    monkeypatch.undo()

    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    assert chosen(GPT2, "bfloat16") == "not NumPy"
