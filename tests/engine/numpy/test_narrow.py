"""Narrow weights: rounding, the compiled products against NumPy, and models with them against the same in float32."""

import dataclasses
import platform
import tempfile
from pathlib import Path
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
from homespun.engine.numpy.narrow import MOST_VECTORS, Narrow, NarrowPrecision
from homespun.engine.numpy.products import Products, compiled
from homespun.engine.torch.engine import TorchEngine
from homespun.errors import UserError
from tests.engine.numpy.test_engine import ALL
from tests.reference import GPT2, QWEN3, Arrays, random_batch, random_weights, relative_error

PRECISIONS: tuple[NarrowPrecision, ...] = ("bfloat16", "int8")
EACH = pytest.mark.parametrize("precision", PRECISIONS)
FARTHEST = {"bfloat16": 0.012, "int8": 0.04}
"""Relative error of the logits of a dense model with random weights, as far as the rounding of the weights explains it:
2 ** -9 of each weight in 16 bits, and 1 / 254 of the largest of its row in 8 bits."""


@pytest.fixture(scope="module")
def own() -> Products:
    found = compiled()
    assert found, "the tests need a C compiler"
    return found


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


def narrow(shape: tuple[int, ...], precision: NarrowPrecision, products: Products | None) -> Narrow:
    matrix = Narrow.empty(shape, precision, products)
    matrix.fill(np.random.default_rng(1).standard_normal(shape, dtype=np.float32))
    return matrix


def decoded(decoder: Decoder, tokens: Tokens) -> Floats:
    return np.stack([decoder.step(tokens[:, i]) for i in range(tokens.shape[1])], axis=1)


@EACH
@pytest.mark.parametrize("n_vectors", [1, 2, 3, 4, 7, MOST_VECTORS, MOST_VECTORS + 1])
@pytest.mark.parametrize("shape", [(1, 1), (5, 63), (3, 64), (8, 65), (13, 200), (2, 513)])
def test_compiled_products_are_those_of_numpy(
    own: Products, precision: NarrowPrecision, shape: tuple[int, int], n_vectors: int
) -> None:
    x = np.random.default_rng(0).standard_normal((n_vectors, shape[1]), dtype=np.float32)
    ours, plain = narrow(shape, precision, own), narrow(shape, precision, None)
    expected = x.astype(np.float64) @ plain.widened().astype(np.float64).T
    for found in (ours.product(x), plain.product(x), ours.product(np.asfortranarray(x))):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(ours.widened(), plain.widened())


@EACH
@pytest.mark.parametrize("without", [(), ("-mno-avx512f",), ("-mno-avx2",)])
@pytest.mark.parametrize("shape", [(9, 63), (8, 64), (13, 200)])
def test_other_processors_compute_the_same_and_each_vector_as_alone(
    precision: NarrowPrecision,
    without: tuple[str, ...],
    shape: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if without and platform.machine() != "x86_64":
        pytest.skip("these flags are of other processors")
    monkeypatch.setattr(products_module, "FLAGS", (*products_module.FLAGS, *without))
    own = products_module._built("cc", tmp_path / "products.so")
    x = np.random.default_rng(0).standard_normal((MOST_VECTORS, shape[1]), dtype=np.float32)
    ours = narrow(shape, precision, own)
    expected = x.astype(np.float64) @ narrow(shape, precision, None).widened().astype(np.float64).T
    alone = [ours.product(x[i : i + 1])[0] for i in range(len(x))]
    np.testing.assert_allclose(alone, expected, rtol=1e-5, atol=1e-4)
    for n in range(1, len(x) + 1):
        np.testing.assert_array_equal(ours.product(x[:n]), alone[:n])


@EACH
def test_the_number_of_threads_changes_no_bit(own: Products, precision: NarrowPrecision) -> None:
    matrix = narrow((37, 150), precision, own)
    x = np.random.default_rng(0).standard_normal((3, 150), dtype=np.float32)
    found = []
    for threads in (1, 2, 5):
        own.set_num_threads(threads)
        found.append(matrix.product(x))
    own.set_num_threads(1)
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


@EACH
def test_weights_are_the_nearest_ones(precision: NarrowPrecision) -> None:
    weights = np.random.default_rng(0).standard_normal((4, 6, 50)).astype(np.float32)
    weights[2, 3] = 0
    matrix = Narrow.empty(weights.shape, precision, None)
    matrix.fill(weights)
    for found, expected in zip([matrix[i] for i in range(4)], weights, strict=True):
        np.testing.assert_allclose(found.widened(), rounded(expected, precision), rtol=1e-6)
    again = Narrow.empty(weights.shape, precision, None)
    again.fill(np.stack([matrix[i].widened() for i in range(4)]))
    np.testing.assert_array_equal(again.values, matrix.values)
    places = np.array([[5, 0], [1, 1]])
    np.testing.assert_array_equal(matrix[1].rows(places), matrix[1].widened()[places])


@EACH
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_stays_so(precision: NarrowPrecision, bad: float) -> None:
    weights = np.ones((3, 8), np.float32)
    weights[1, 2] = bad
    matrix = Narrow.empty(weights.shape, precision, None)
    matrix.fill(weights)
    with np.errstate(invalid="ignore"):
        y = matrix.product(np.ones((1, 8), np.float32))[0]
    assert np.isfinite(y[[0, 2]]).all()
    assert not np.isfinite(y[1])


@ALL
@EACH
def test_a_model_is_the_one_with_rounded_weights(
    own: Products, config: ModelConfig, precision: NarrowPrecision
) -> None:
    batch = random_batch(config)
    exact = reader(config, None, weights=rounded_weights(config, precision))
    expected = exact.logits(batch.inputs)
    for products in (own, None):
        ours = reader(config, precision, products)
        assert relative_error(ours.logits(batch.inputs), expected) < 1e-5
        assert ours.loss(batch)[0] == pytest.approx(exact.loss(batch)[0], rel=1e-5)
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
    whole = ours.logits(inputs)
    decoder = ours.decoder(3, config.seq_len)
    lengths = (7, 2, 5)
    first = decoder.prefill(inputs[:, :7], lengths)
    for row, length in enumerate(lengths):
        assert relative_error(first[row], whole[row, length - 1]) < 1e-5
    decoder.rewind(0)
    assert relative_error(decoder.prefill(inputs[:, :7]), whole[:, 6]) < 1e-5
    assert relative_error(decoded(decoder, inputs[:, 7:]), whole[:, 7:]) < 1e-5
    alone = ours.decoder(1, config.seq_len)
    alone.prefill(inputs[:1, :3])
    many = alone.repeated(20)  # more than the compiled products take at a time
    repeated = np.repeat(inputs[:1, 3:9], 20, axis=0)
    assert relative_error(decoded(many, repeated)[7], whole[0, 3:9]) < 1e-5


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
            parts = (weight.values, weight.scales) if isinstance(weight, Narrow) else (weight,)
            for part in parts:
                if part is not None:
                    whole = part if part.base is None else part.base
                    arrays[id(whole)] = whole
        return sum(array.nbytes for array in arrays.values())

    wide = dataclasses.replace(QWEN3, d_model=128, d_ff=256)
    share = {"bfloat16": 0.5, "int8": 0.25}[precision]
    assert size(reader(wide, precision, own)) < (share + 0.03) * size(reader(wide, None))


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
    assert chosen(large, generates=False) == "not NumPy"
    assert chosen(large, "int8", generates=False) == "int8"

    monkeypatch.setattr(products_module, "compiled", lambda: None)
    assert chosen(large) == chosen(GPT2, "int8") == chosen(GPT2, "bfloat16") == "not NumPy"
    with pytest.raises(UserError, match="finds none: install gcc, or leave --engine out"):
        select.reader(GPT2, ReaderConfig(engine="numpy", precision="int8"))
    monkeypatch.undo()

    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    assert chosen(GPT2, "bfloat16") == "not NumPy"


def test_without_a_compiler_that_works_there_are_no_products(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = compiled.__wrapped__
    for script in ("exit 1", 'for last; do :; done; echo "no library" > "$last"'):
        compiler = tmp_path / "cc"
        compiler.write_text(f"#!/bin/sh\n{script}\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
        assert attempt() is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert attempt() is None


def test_without_room_or_with_a_compiler_that_hangs_there_are_no_products(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = compiled.__wrapped__
    with monkeypatch.context() as at_the_moment:
        at_the_moment.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
        assert attempt() is None
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\necho started >> {tmp_path}/log\nexec /bin/sleep 60\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    monkeypatch.setattr(products_module, "COMPILE_SECONDS", 0.5)
    assert attempt() is None
    assert (tmp_path / "log").read_text() == "started\n"  # it is not tried again
