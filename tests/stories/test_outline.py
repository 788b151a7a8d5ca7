"""Outlines: of events and of their text they are the same, and a course is found in a text that has it."""

import pytest

from homespun.stories import stories
from homespun.stories.dice import PLAIN
from homespun.stories.judge import judge, split
from homespun.stories.outline import (
    beginning,
    courses_in,
    first_mishaps,
    generated,
    outline,
    outline_of_text,
    total_variation,
)


def test_a_text_has_the_outline_of_its_events() -> None:
    for events, text in generated(30, seed=1):
        assert outline_of_text(text) == outline(events)
        assert outline(events).plot
        assert outline(events).creatures


def test_generated_stories_are_those_of_the_corpus() -> None:
    assert [text for _, text in generated(20, seed=4)] == list(stories(20, seed=4))


def test_a_beginning_ends_with_the_first_mishap() -> None:
    for events, _ in generated(50, seed=2, variety=PLAIN):
        first = beginning(events)
        assert events[: len(first)] == first
        assert first[-1].kind in first_mishaps()
        assert outline(first).plot == outline(events).plot[:1]
        assert not outline(first[:-1]).plot


def test_courses_are_found_in_the_texts_that_have_them() -> None:
    made = list(generated(40, seed=3))
    courses = [outline(events).course for events, _ in made]
    elsewhere = ("intro", "end_home", "end_home")
    half = [text for _, text in made[:20]]
    assert courses_in(half, [*courses[:20], elsewhere]) == set(courses[:20])
    assert courses_in(half, courses) == set(courses[:20]) | (set(courses[:20]) & set(courses[20:]))
    assert courses_in(["No story at all."], courses) == set()


def test_total_variation() -> None:
    assert total_variation("aab", "aba") == 0
    assert total_variation("aa", "b") == 1
    assert total_variation("ab", "aaab") == pytest.approx(0.25)


def test_beginnings_alone_are_no_stories() -> None:
    from homespun.evaluation.storytelling import beginnings

    given = beginnings(2 * len(first_mishaps()))
    assert [one.mishap for one in given] == [
        kind for kind in sorted(first_mishaps()) for _ in range(2)
    ]
    assert len({one.text for one in given}) == len(given)
    for one in given:
        verdict = judge(one.text)
        last = len(split(one.text)) - 1
        assert {problem.sentence for problem in verdict.problems} == {last}
