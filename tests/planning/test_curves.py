"""The expected loss follows the measured runs, and is the less certain the less like them a run is."""

import dataclasses
import math

import pytest

from homespun.planning import curves
from homespun.planning.curves import Point, expected_loss, law


def measured(text: str, compressed: float, floor: float) -> list[Point]:
    """Points of an exact law."""
    found = []
    for parameters in (1_000_000, 2_000_000):
        for tokens in (1_000_000, 2_000_000, 4_000_000):
            point = Point(text, "", compressed, parameters, 10**9, tokens, 0.0, 4.0)
            value = floor + 0.2 * (parameters / 1e6) ** -0.34 + 0.5 * (tokens / 1e6) ** -0.3
            found.append(dataclasses.replace(point, bits_per_byte=value))
    return found


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> tuple[Point, ...]:
    found = (*measured("plain", 1.0, 0.1), *measured("rich", 2.0, 1.0))
    monkeypatch.setattr(curves, "points", lambda: found)
    return found


def test_a_law_gives_its_own_points_back(known: tuple[Point, ...]) -> None:
    for point in known:
        assert law(point.text).bits_per_byte(point) == pytest.approx(point.bits_per_byte)
    without = known[2]
    assert law("plain", without).bits_per_byte(without) == pytest.approx(without.bits_per_byte)


def test_where_one_size_was_measured_its_term_is_left_out(
    monkeypatch: pytest.MonkeyPatch, known: tuple[Point, ...]
) -> None:
    one_size = tuple(point for point in known if point.parameters == 1_000_000)
    monkeypatch.setattr(curves, "points", lambda: one_size)
    assert law("plain").by_size == 0


def expected(compressed: float, parameters: int, tokens: int, text: int = 10**9) -> float:
    found = expected_loss(compressed, parameters, text, tokens)
    assert found
    assert found.least < found.bits_per_byte < found.most
    return found.bits_per_byte


def width(compressed: float, parameters: int, tokens: int) -> float:
    found = expected_loss(compressed, parameters, 10**9, tokens)
    assert found
    return (found.most - found.least) / found.bits_per_byte


def test_more_text_and_more_parameters_help_and_reading_again_helps_less() -> None:
    assert expected(1.0, 10**6, 4 * 10**6) < expected(1.0, 10**6, 10**6)
    assert expected(1.0, 4 * 10**6, 10**6) < expected(1.0, 10**6, 10**6)
    assert expected(1.0, 10**6, 8 * 10**6, text=10**6) > expected(1.0, 10**6, 8 * 10**6)


def test_a_text_between_the_measured_ones_is_expected_between_them_and_less_certain() -> None:
    size = 10**6, 2 * 10**6
    assert expected(1.0, *size) < expected(1.5, *size) < expected(2.0, *size)
    assert expected(0.5, *size) == expected(1.0, *size)
    assert 1.1 * width(1.0, *size) < width(1.5, *size)
    assert 1.1 * width(1.0, 10**6, 2 * 10**6) < width(1.0, 10**6, 16 * 10**6)
    assert 1.1 * width(1.0, 10**6, 2 * 10**6) < width(1.0, 8 * 10**6, 2 * 10**6)


def test_of_a_run_far_from_all_measured_ones_nothing_is_expected() -> None:
    assert expected_loss(1.0, 10**6, 10**9, 10**5) is None
    assert expected_loss(1.0, 10**8, 10**9, 10**6) is None


def test_nats_follow_the_tokenizer() -> None:
    found = expected_loss(1.0, 10**6, 10**9, 10**6)
    assert found
    assert found.nats(4.0)[0] == pytest.approx(found.bits_per_byte * 4 * math.log(2))


def test_without_measurements_nothing_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "points", lambda: ())
    assert expected_loss(1.0, 10**6, 10**9, 10**6) is None


def test_the_measured_points_are_in_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert {point.text for point in curves.points()} >= {"stories", "prose"}
    for point in curves.points():
        assert law(point.text).bits_per_byte(point) == pytest.approx(point.bits_per_byte, rel=0.1)
