"""Rewards: built-in ones, those of the user, and everything that the user's code may do wrong."""

import math
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from homespun.errors import UserError
from homespun.stories import stories
from homespun.stories.judge import judge
from homespun.training.reinforcement.rewards import (
    BUILT_IN,
    Reward,
    distinguished_by,
    reward_named,
    scores,
)

PROMPT = {
    "messages": [{"role": "user", "content": "A story.\n\nWho has the kite?"}],
    "answer": "Mia",
}
ANSWERS = ["Mia", "Tom"]


def scored(reward: Reward, seconds: float = 30) -> list[float]:
    return scores(reward, "mine:reward", PROMPT, ANSWERS, seconds)


def test_the_exact_answer_is_worth_one() -> None:
    given = ["Mia", " mia. ", "Mia has it", "Mi", ""]
    assert BUILT_IN["questions"](PROMPT, given) == [1, 1, 0, 0, 0]


def test_a_story_without_a_contradiction_is_worth_one() -> None:
    [story] = stories(1, seed=4)
    broken = story.replace(".", "", 1)
    given = [story, broken, "Once."]
    for name in ("stories", "consistency"):
        found = BUILT_IN[name]({}, given)
        assert found == [1 / (1 + len(judge(text).problems)) for text in given]
        assert found[0] == 1 > max(found[1:])


def test_stories_with_the_same_course_share_their_reward() -> None:
    story, other = stories(2, seed=4)
    broken = story.replace(".", "", 1)
    given = [story, other, story, broken, story]
    least = 1 / (1 + len(judge(broken).problems))
    assert BUILT_IN["stories"]({}, given) == [1 / 3, 1, 1 / 3, least, 1 / 3]
    assert BUILT_IN["consistency"]({}, given) == [1, 1, 1, least, 1]


def test_a_story_that_goes_on_from_a_beginning_is_judged_as_a_whole() -> None:
    [story] = stories(1, seed=4)
    place = story.index(" ", 60)
    prompt = {"messages": [], "text": story[:place]}
    for name in ("stories", "consistency"):
        assert BUILT_IN[name](prompt, [story[place:]]) == [1]
        assert BUILT_IN[name]({}, [story[place:]]) < [1]


def test_stories_are_told_apart_by_their_courses_and_answers_by_their_words() -> None:
    story, other = stories(2, seed=4)
    again = story.replace("happy", "glad")
    for name in ("stories", "consistency"):
        kind = distinguished_by(name)
        assert kind({}, story) == kind({}, again)
        assert kind({}, story) != kind({}, other)
    for name in ("questions", "mine.py:reward"):
        kind = distinguished_by(name)
        assert kind({}, "in the  barn ") == kind({}, "in the barn")
        assert kind({}, "in the barn") != kind({}, "in the mill")


def test_a_reward_of_the_user_from_a_file_and_from_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    code = "def length(prompt, answers):\n    return [len(a) for a in answers]\n"
    Path("by_length.py").write_text(code)
    for name in ("by_length.py:length", f"{tmp_path}/by_length.py:length", "by_length:length"):
        assert scored(reward_named(name)) == [3, 3]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "quality",
            "questions, stories, consistency, FILE.py:FUNCTION or MODULE:FUNCTION is expected",
        ),
        ("missing.py:reward", "there is no file missing.py"),
        ("no_such_module:reward", "cannot be imported: ModuleNotFoundError"),
        ("math:reward", "math has no function reward"),
        ("math:pi", "math has no function pi"),
        ("broken.py:reward", "broken.py cannot be loaded: ZeroDivisionError"),
    ],
)
def test_a_reward_that_is_not_there(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match=message):
        reward_named(name)


def raises(prompt: Any, answers: Sequence[str]) -> list[float]:
    raise KeyError("colour")


def leaves(prompt: Any, answers: Sequence[str]) -> list[float]:
    sys.exit(3)


def returns(value: Any) -> Reward:
    return lambda prompt, answers: value


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (raises, "raised KeyError: 'colour', for 'Who has the kite"),
        (leaves, "raised SystemExit: 3"),
        (returns([1.0]), "returned 1 scores for"),
        (returns([1.0, math.nan]), "returned nan as a score"),
        (returns([-math.inf, 0]), "returned -inf as a score"),
        (returns(None), "returned 'None' for 'Who has the kite"),
        (returns(["good", "bad"]), "a list of 2 finite numbers is expected, one for each answer"),
        (returns(7), "returned '7'"),
    ],
)
def test_a_reward_that_fails_is_named_with_its_reason(reward: Reward, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        scored(reward)
    assert "the reward mine:reward" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reward_that_never_returns_is_left() -> None:
    never = threading.Event()

    def waits(prompt: Any, answers: Sequence[str]) -> list[float]:
        never.wait()
        return [0.0, 0.0]

    with pytest.raises(UserError, match=r"took more than 0\.05 s for 2 answers .*--reward-seconds"):
        scored(waits, seconds=0.05)
    never.set()


def test_a_reward_can_change_neither_the_answers_nor_the_prompt() -> None:
    def empties(prompt: Any, answers: Any) -> list[float]:
        n = len(answers)
        answers.clear()
        prompt["messages"].clear()
        return [0.5] * n

    given = list(ANSWERS)
    assert scores(empties, "e", PROMPT, given, 30) == [0.5, 0.5]
    assert given == ANSWERS
    assert len(PROMPT["messages"]) == 1
