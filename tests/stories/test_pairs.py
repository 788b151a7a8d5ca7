"""Minimal pairs: the true text is true, the false one false, and the frequency of words decides nothing."""

import math
from collections import Counter

import pytest

from homespun.stories import stories
from homespun.stories.judge import judge
from homespun.stories.pairs import MOST_CHANGED, PIECE, SKILLS, Pair, pairs

N = 10


@pytest.fixture(scope="module")
def made() -> list[Pair]:
    return pairs(N, seed=5)


def test_each_skill_has_as_many_pairs_as_are_asked_for(made: list[Pair]) -> None:
    assert Counter(pair.skill for pair in made) == dict.fromkeys(SKILLS, N)
    assert len({pair.true + pair.false for pair in made}) == len(made)


def test_the_judge_accepts_the_true_and_refuses_the_false(made: list[Pair]) -> None:
    for pair in made:
        assert judge(pair.true).consistent, pair
        assert not judge(pair.false).consistent, pair


def test_a_pair_differs_in_a_few_words_in_one_place(made: list[Pair]) -> None:
    for pair in made:
        true, false = PIECE.findall(pair.true), PIECE.findall(pair.false)
        if pair.skill != "order":
            counts = Counter(true)
            counts.subtract(false)
            assert sum(map(abs, counts.values())) <= 2 * MOST_CHANGED
        assert abs(len(true) - len(false)) <= MOST_CHANGED


def test_a_unigram_model_is_right_in_exactly_half_of_the_pairs(made: list[Pair]) -> None:
    counts = Counter(piece for story in stories(300) for piece in PIECE.findall(story))
    total = sum(counts.values()) + len(counts)

    def log_probability(text: str) -> float:
        return math.fsum(math.log((counts[piece] + 1) / total) for piece in PIECE.findall(text))

    for skill in SKILLS:
        points = 0.0
        for pair in made:
            if pair.skill == skill:
                advantage = log_probability(pair.true) - log_probability(pair.false)
                points += 0.5 if abs(advantage) < 1e-9 else float(advantage > 0)
        assert points == N / 2, skill


def test_the_seed_decides(made: list[Pair]) -> None:
    few = pairs(2, seed=7)
    assert pairs(2, seed=7) == few
    assert not set(few) & set(made)


def test_no_true_story_stands_in_a_training_text_of_the_default_seed() -> None:
    learned = set(stories(2000))
    assert not learned & {pair.true for pair in pairs(2)}
