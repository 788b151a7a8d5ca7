"""Compiled products with matrices in panels: those of NumPy, and for each vector the same bits in any company."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from homespun.bfloat16 import from_bfloat16, to_bfloat16
from homespun.engine.base import Floats
from homespun.engine.numpy.layers import grouped_linear
from homespun.engine.numpy.narrow import Narrow, NarrowPrecision
from homespun.engine.numpy.panels import DTYPES, Memory, Panels
from homespun.engine.numpy.products import PANEL, Products

EACH = pytest.mark.parametrize("precision", [None, "bfloat16", "int8"])
SHAPES = [(1, 1), (5, 63), (31, 7), (32, 64), (33, 65), (64, 3), (100, 130), (300, 20)]
EACH_SHAPE = pytest.mark.parametrize("shape", SHAPES)
MOST = 19


def random(*shape: int) -> Floats:
    return np.random.default_rng(shape).standard_normal(shape, dtype=np.float32)


def panels(shape: tuple[int, ...], precision: NarrowPrecision | None, own: Products) -> Panels:
    matrix = Panels.empty(shape, precision, own)
    matrix.fill(random(*shape))
    return matrix


def plain(shape: tuple[int, ...], precision: NarrowPrecision | None) -> Floats:
    """The weights of the same matrix."""
    if precision is None:
        return random(*shape)
    matrix = Narrow.empty(shape, precision)
    matrix.fill(random(*shape))
    return matrix.widened()


def as_multiplied(x: Floats, precision: NarrowPrecision | None, own: Products) -> Floats:
    """The vectors as the processor multiplies them with such weights."""
    group = own.groups[np.dtype(DTYPES[precision])]
    if group == 1:
        return x
    if precision == "bfloat16":
        return from_bfloat16(to_bfloat16(x))
    factors = (127 * 257) / np.abs(x).max(-1, keepdims=True)
    found: Floats = np.rint(x * factors) / factors
    return found


@pytest.fixture(autouse=True)
def one_thread_again(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"own", "any_own"} & set(request.fixturenames):
        request.getfixturevalue(name).set_num_threads(1)


@EACH
@EACH_SHAPE
def test_products_are_those_of_numpy_and_each_vector_is_as_alone(
    any_own: Products, precision: NarrowPrecision | None, shape: tuple[int, int]
) -> None:
    matrix, x = panels(shape, precision, any_own), random(MOST, shape[1])
    weights = plain(shape, precision)
    np.testing.assert_array_equal(matrix.widened(), weights)
    used = as_multiplied(x, precision, any_own)
    np.testing.assert_allclose(used, x, rtol=4e-3, atol=1e-4)
    expected = used.astype(np.float64) @ weights.astype(np.float64).T
    alone = np.concatenate([matrix.product(x[i : i + 1]) for i in range(MOST)])
    np.testing.assert_allclose(alone, expected, rtol=1e-5, atol=1e-4)
    for n in range(2, MOST + 1):
        np.testing.assert_array_equal(matrix.product(x[:n]), alone[:n])
    np.testing.assert_array_equal(matrix.product(np.asfortranarray(x)), alone)
    bias = random(shape[0])
    more = np.concatenate([matrix.product(x[i : i + 1], bias) for i in range(MOST)])
    np.testing.assert_allclose(more, alone + bias, rtol=1e-5, atol=1e-5)
    for n in range(2, MOST + 1):
        np.testing.assert_array_equal(matrix.product(x[:n], bias), more[:n])


@EACH
@EACH_SHAPE
def test_the_number_of_threads_changes_no_bit(
    own: Products,
    precision: NarrowPrecision | None,
    shape: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own, "_most", 5)  # also where there are fewer processors
    matrix = panels(shape, precision, own)
    for n in (1, 3):
        x, found = random(n, shape[1]), []
        for threads in (1, 2, 5):
            own.set_num_threads(threads)
            found.append(matrix.product(x))
        np.testing.assert_array_equal(found[1], found[0])
        np.testing.assert_array_equal(found[2], found[0])


@EACH
def test_a_vector_that_is_not_finite_spoils_no_other(
    own: Products, precision: NarrowPrecision | None
) -> None:
    matrix, x = panels((40, 50), precision, own), random(5, 50)
    expected = matrix.product(x)
    x[1, 3], x[3, 49] = np.nan, -np.inf
    found = matrix.product(x)
    np.testing.assert_array_equal(found[::2], expected[::2])
    assert not np.isfinite(found[1::2]).any()


@EACH
def test_vectors_of_any_size(own: Products, precision: NarrowPrecision | None) -> None:
    matrix, x = panels((40, 50), precision, own), random(1, 50)
    np.testing.assert_array_equal(matrix.product(0 * x), 0)
    np.testing.assert_allclose(matrix.product(1e-40 * x), 0, atol=1e-30)
    for size in (2.0**-80, 2.0**80):
        expected = matrix.product(x) * np.float32(size)
        np.testing.assert_array_equal(matrix.product(x * np.float32(size)), expected)


@EACH
def test_parts_fill_one_matrix(own: Products, precision: NarrowPrecision | None) -> None:
    weights = random(77, 12)
    whole, filled = (Panels.empty((77, 12), precision, own) for _ in range(2))
    whole.fill(weights)
    for first, end in ((40, 77), (0, 1), (1, 40)):
        part = filled.part(first, end)
        assert part.shape == (end - first, 12)
        part.fill(weights[first:end])
        np.testing.assert_array_equal(part.widened(), whole.widened()[first:end])
        np.testing.assert_array_equal(part.rows(np.array([0])), whole.rows(np.array([first])))
    np.testing.assert_array_equal(filled.values, whole.values)
    np.testing.assert_array_equal(filled.product(weights[:2]), whole.product(weights[:2]))


@EACH
@pytest.mark.parametrize("ends", [(2, 2, 7), (0, 0, 1), (1, 2, 3), (0, 19, 19), (17, 18, 19)])
@EACH_SHAPE
def test_each_of_several_matrices_multiplies_its_own_vectors(
    any_own: Products,
    precision: NarrowPrecision | None,
    shape: tuple[int, int],
    ends: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(any_own, "_most", 5)  # also where there are fewer processors
    several, x = panels((3, *shape), precision, any_own), random(ends[-1], shape[1])
    expected = np.empty((len(x), shape[0]), np.float32)
    for number, (start, end) in enumerate(itertools.pairwise((0, *ends))):
        for i in range(start, end):
            expected[i] = several[number].product(x[i : i + 1])
    for threads in (1, 2, 5):
        any_own.set_num_threads(threads)
        found = grouped_linear(x, several, np.array(ends))
        np.testing.assert_array_equal(found, expected)


@EACH
def test_one_of_several_matrices_is_multiplied(
    own: Products, precision: NarrowPrecision | None
) -> None:
    several, x = panels((3, 45, 20), precision, own), random(2, 20)
    assert several.shape == (3, 45, 20)
    np.testing.assert_array_equal(several.widened(), plain((3, 45, 20), precision))
    for number in range(3):
        alone = Panels.empty((45, 20), precision, own)
        alone.fill(random(3, 45, 20)[number])
        np.testing.assert_array_equal(several[number].product(x), alone.product(x))


@EACH
def test_matrices_fill_the_memory_that_they_ask_for(
    own: Products, precision: NarrowPrecision | None
) -> None:
    shapes = [(5, 63), (2, 33, 7), (32, 1)]
    memory = Memory(sum(Panels.size(shape, precision, own) for shape in shapes))
    made = [Panels.empty(shape, precision, own, memory) for shape in shapes]
    for matrix, shape in zip(made, shapes, strict=True):
        matrix.fill(random(*shape))
        assert matrix.values.ctypes.data % 64 == 0
    for matrix, shape in zip(made, shapes, strict=True):
        np.testing.assert_array_equal(matrix.widened(), plain(shape, precision))
        group = matrix.values.shape[-1]
        assert not matrix.values[..., -1, :, shape[-2] % PANEL or PANEL :, :].any()
        assert not matrix.values[..., -1, :, shape[-1] % group or group :].any()
    assert memory.array((0,), np.uint8).size == 0
