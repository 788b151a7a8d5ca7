"""Stretches of a text that teach nothing are found, and ordinary text is not accused."""

import base64
import random
from pathlib import Path

import pytest

from homespun.data.quality import LEAST_SHARE, faults
from homespun.stories import stories

MARK = "\n<|endoftext|>\n"
TOLD = list(stories(300, seed=5))
RNG = random.Random(0)
NOISE = base64.b64encode(RNG.randbytes(30_000)).decode()


def text_of(folder: Path, documents: list[str]) -> Path:
    path = folder / "text.txt"
    path.write_text(MARK.join(documents), encoding="utf-8")
    return path


@pytest.mark.parametrize("n_stories", [1, 300])
def test_stories_have_no_fault(tmp_path: Path, n_stories: int) -> None:
    assert faults(text_of(tmp_path, TOLD[:n_stories])) == []


@pytest.mark.parametrize("alphabet", ["абвгдежзиклмнопрст", "的一是不了人我在有他这中大来上"])
def test_other_scripts_are_no_noise(tmp_path: Path, alphabet: str) -> None:
    words = ["".join(RNG.choices(alphabet, k=RNG.randint(2, 6))) for _ in range(2000)]
    documents = [" ".join(RNG.choices(words, k=800)) for _ in range(20)]
    assert faults(text_of(tmp_path, documents)) == []


def test_noise_is_found_with_its_place(tmp_path: Path) -> None:
    [found] = faults(text_of(tmp_path, [*TOLD[:100], NOISE, *TOLD[100:]]))
    assert found.kind == "noise"
    assert 95 <= found.first_document <= 101 <= found.last_document <= 125
    assert found.share == pytest.approx(len(NOISE) / len(MARK.join([*TOLD, NOISE])), rel=0.5)
    assert found.bits_per_byte > found.usual_bits_per_byte


def test_a_repeated_line_is_found(tmp_path: Path) -> None:
    [found] = faults(
        text_of(tmp_path, [*TOLD[:50], "Click here to read more.\n" * 3000, *TOLD[50:]])
    )
    assert found.kind == "repetition"
    assert "Click here to read more." in found.excerpt


@pytest.mark.parametrize(
    ("text", "kind"), [(NOISE, "noise"), ("the same line\n" * 5000, "repetition")]
)
def test_a_text_of_nothing_else_is_found(tmp_path: Path, text: str, kind: str) -> None:
    [found] = faults(text_of(tmp_path, [text]))
    assert found.kind == kind
    assert found.share == 1


def test_a_little_noise_does_no_harm(tmp_path: Path) -> None:
    little = NOISE[: int(LEAST_SHARE * len(MARK.join(TOLD)) / 4)]
    assert faults(text_of(tmp_path, [*TOLD, little])) == []
