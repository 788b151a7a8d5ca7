"""Measured curves beside the curve of a run."""

import dataclasses
from pathlib import Path

import pytest

from homespun.data.corpus import survey
from homespun.reporting import reference
from homespun.reporting.reference import Comparison, Curve, compare, compressed, curves
from homespun.reporting.report import compare as compare_run
from homespun.reporting.run_record import read_run
from homespun.stories import stories
from tests.reporting.pages import write_run


def of(curve: Curve, factor: float = 1.0, **changes: float) -> Comparison | None:
    """The comparison of a run like a measured one, with a loss that is larger by a factor."""
    facts = {"compressed": curve.compressed, "parameters": curve.parameters} | changes
    return compare(
        compressed=facts["compressed"],
        parameters=int(facts["parameters"]),
        optimizer=curve.optimizer,
        planned_tokens=curve.tokens[-1],
        points=[
            (tokens, factor * bits)
            for tokens, bits in zip(curve.tokens, curve.bits_per_byte, strict=True)
        ],
    )


@pytest.mark.parametrize("curve", curves(), ids=lambda curve: curve.run)
def test_a_measured_run_is_usual(curve: Curve) -> None:
    assert curve.tokens == sorted(curve.tokens)
    assert min(curve.bits_per_byte) > 0
    found = of(curve)
    assert found
    assert found.verdict == "usual"
    assert found.expected == pytest.approx(curve.bits_per_byte[-1], rel=0.05)


@pytest.mark.parametrize("curve", curves(), ids=lambda curve: curve.run)
def test_other_losses_are_above_or_below(curve: Curve) -> None:
    for factor, verdict, words in (
        (1.5, "above", "above the usual"),
        (0.5, "below", "better than"),
    ):
        found = of(curve, factor)
        assert found
        assert found.verdict == verdict
        assert words in found.sentence


def test_another_kind_or_size_is_not_compared() -> None:
    curve = curves()[0]
    assert of(curve, compressed=10.0) is None
    assert of(curve, parameters=100 * curve.parameters) is None
    short = dataclasses.replace(curve, tokens=[1], bits_per_byte=[8.0])
    assert of(short) is None


def test_a_curve_is_read_between_its_points() -> None:
    curve = dataclasses.replace(curves()[0], tokens=[100, 10_000], bits_per_byte=[4.0, 2.0])
    found = [curve.at(tokens) for tokens in (1, 100, 1000, 10_000, 10**9)]
    assert found == pytest.approx([4.0, 4.0, 3.0, 2.0, 2.0])


def test_both_kinds_of_text_were_measured() -> None:
    assert {curve.text for curve in curves()} == {"prose", "stories"}


def test_the_kind_of_a_text_is_its_predictability(tmp_path: Path) -> None:
    text = tmp_path / "stories.txt"
    text.write_text("\n<|endoftext|>\n".join(stories(600, seed=1, plain=True)))
    measured = {curve.compressed for curve in curves() if curve.text == "stories"}
    assert compressed(text) == pytest.approx(measured.pop(), rel=reference.SAME_KIND)


def test_the_reason_for_no_comparison_is_told(tmp_path: Path) -> None:
    def reason(**changes: object) -> str:
        return compare_run(read_run(write_run(tmp_path / str(len(changes)), **changes)))[1]  # type: ignore[arg-type]

    assert "not at its place any more" in reason(data_file=str(tmp_path / "gone.txt"))
    assert "no checkpoint" in reason(checkpoint=False, steps=5)
    text = tmp_path / "text.txt"
    text.write_text("\n<|endoftext|>\n".join(f"text {number}" for number in range(200)))
    assert "has changed" in reason(data_file=str(text))
    data_sha256 = survey(text).sha256
    assert "no run of this size, with this optimizer" in reason(
        data_file=str(text), data_sha256=data_sha256, steps=5, every=1
    )
