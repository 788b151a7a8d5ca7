"""A small byte-level BPE tokenizer, and text for it."""

import random

import pytest

from homespun.tokenizer import Tokenizer, train


def story_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of invented words, with letters and signs of several bytes."""
    rng = random.Random(seed)
    syllables = ["ka", "lo", "mi", "ren", "tas", "ul", "vé", "😀", "der", "chen"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(300)]
    return [" ".join(rng.choices(words, k=60)) + ".\n" for _ in range(count)]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """500 tokens, trained on `story_texts`."""
    return train(story_texts(200), 500)
