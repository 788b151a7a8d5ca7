"""Questions about stories: one right answer each, which a reader of the words alone finds too; tests are unseen."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice

import pytest

from homespun.stories.dice import PLAIN, WHOLE, Variety
from homespun.stories.events import Event
from homespun.stories.judge import events as read_events
from homespun.stories.judge import judge
from homespun.stories.outline import generated, outline
from homespun.stories.questions import (
    DIFFICULTIES,
    SKILLS,
    Question,
    asked,
    conversations,
    part_of,
    questions,
    unseen,
)

LOST = """Once upon a time, there was a small girl named Mia. Mia had a red kite. Mia's best friend was a young bear \
named Tom. One day, Mia and Tom went to the garden.
Mia looked left and right, but her kite had vanished. Mia was very sad. "We will find your kite, Mia," said Tom. \
Then they looked for the kite among the daisies, but did not find it. Then Tom saw the kite beyond the bushes and \
picked it up. So he gave the kite back to Mia.
Suddenly, it began to rain. Mia and Tom hid from the rain under a hedge. Soon the rain was over.
Mia learned that with a friend everything is easier. Then Mia and Tom went home with a smile."""


def read(text: str) -> Iterable[Event]:
    """The events of a text, as the judge understands its words."""
    return [reading.event for _, reading in read_events(text) if reading and reading.event]


def answers(found: Iterable[Question]) -> dict[str, str]:
    return {question.text: question.answer for question in found}


def test_a_story_by_hand_has_the_answers_that_a_person_gives() -> None:
    assert judge(LOST).consistent, judge(LOST)
    found = answers(questions(read(LOST)))
    assert found == {
        "What kind of child was Mia?": "a girl",
        "What kind of animal was Tom?": "a bear",
        "Who had the kite at the beginning?": "Mia",
        "What colour was the kite?": "red",
        "Where did they go first?": "to the garden",
        "Where were they when Mia lost the kite?": "in the garden",
        "Who had the kite when it got lost?": "Mia",
        "Why was Mia sad?": "because the kite was lost",
        "Who found the kite?": "Tom",
        "Where was the kite found?": "beyond the bushes",
        "How many characters are in the story?": "two",
        "How many things did Mia have at the beginning?": "one",
        "Who helped Mia?": "Tom",
        "How many times did somebody look for the kite in the wrong place?": "one",
        "Who had the kite at the end?": "Mia",
        "Mia lost the kite. Was that before or after the rain came?": "before",
        "The rain came. Was that before or after Mia lost the kite?": "after",
    }


@pytest.mark.parametrize(
    ("before", "after", "question", "answer"),
    [
        ("red kite", "blue kite", "What colour was the kite?", "blue"),
        ("beyond the bushes", "beside the molehill", "Where was the kite found?", "beside the molehill"),
        ("Then Tom saw the kite", "Then Mia saw the kite", "Who found the kite?", "Mia"),
        ("went to the garden", "went to the park", "Where did they go first?", "to the park"),
    ],
)  # fmt: skip
def test_another_story_has_another_answer(
    before: str, after: str, question: str, answer: str
) -> None:
    assert before in LOST
    assert answers(questions(read(LOST.replace(before, after))))[question] == answer


@pytest.mark.parametrize("variety", [PLAIN, WHOLE], ids=["plain", "whole"])
def test_a_reader_of_the_words_comes_to_the_same_questions_and_answers(variety: Variety) -> None:
    asked_of_each = Counter[str]()
    for events, text in generated(40, seed=31, variety=variety):
        told = questions(events)
        assert answers(questions(read(text))) == answers(told), text
        asked_of_each.update(question.skill for question in told)
    assert set(SKILLS) - set(asked_of_each) <= {"what will he never do again"}


def test_a_question_with_two_possible_answers_is_not_asked() -> None:
    found = answers(questions(read(LOST)))
    assert "Why was Mia sad?" in found
    twice = LOST.replace(
        "Soon the rain was over.",
        "Soon the rain was over. Mia ran too fast, fell and hurt her knee. She hung her head. "
        'Tom held still. "Sit still, Mia, I will take care of your knee," said Tom.',
    )
    assert "Why was Mia sad?" not in answers(questions(read(twice)))


def test_each_question_is_asked_once_and_has_a_known_skill() -> None:
    for _, found, _ in islice(asked("training", 5, WHOLE), 60):
        assert len({question.text for question in found}) == len(found)
        assert all(question.skill in SKILLS and question.answer for question in found)
        assert all(question.difficulty in DIFFICULTIES for question in found)


def test_training_and_test_share_no_course_of_events() -> None:
    courses = {
        part: {course for _, _, course in islice(asked(part, seed, PLAIN), 150)}
        for part, seed in (("training", 0), ("test", 0), ("test", 9))
    }
    assert not courses["training"] & courses["test"]
    for part, found in courses.items():
        assert {part_of(course) for course in found} == {part}


def test_the_records_of_the_test_are_of_unseen_courses_too() -> None:
    for record in unseen(2):
        story = record["messages"][0]["content"].rpartition("\n\n")[0]
        assert part_of(outline(read(story)).course) == "test"
    for record in conversations(20, plain=True):
        story = record["messages"][0]["content"].rpartition("\n\n")[0]
        assert part_of(outline(read(story)).course) == "training"


def test_a_conversation_goes_from_easy_to_hard_and_names_each_skill() -> None:
    for record in conversations(20, seed=3):
        roles = [message["role"] for message in record["messages"]]
        assert roles == ["user", "assistant"] * 6
        replies = [m["content"] for m in record["messages"] if m["role"] == "assistant"]
        assert replies == record["answer"]
        levels = list(map(DIFFICULTIES.index, record["difficulty"]))
        assert levels == sorted(levels)
        assert len(set(record["skill"])) >= 5


def test_the_test_has_as_many_questions_of_each_skill_as_are_asked_for() -> None:
    made = unseen(3, seed=8)
    assert Counter(record["skill"] for record in made) == dict.fromkeys(SKILLS, 3)
    stories = [record["messages"][0]["content"].rpartition("\n\n")[0] for record in made]
    assert len(set(stories)) == len(stories)
    assert unseen(3, seed=8) == made


def test_the_seed_and_the_number_of_questions_decide() -> None:
    first = list(conversations(5, seed=2, per_story=1))
    assert first == list(conversations(5, seed=2, per_story=1))
    assert first != list(conversations(5, seed=3, per_story=1))
    assert all(isinstance(record["skill"], str) for record in first)
    assert [len(record["messages"]) for record in first] == [2] * 5


def test_each_story_has_questions_of_one_of_the_difficulties() -> None:
    harder = list(conversations(60, seed=4, per_story=2, difficulties=("medium", "hard")))
    assert len(harder) == 60
    levels = Counter(level for record in harder for level in set(one_or_all(record["difficulty"])))
    assert sum(levels.values()) == 60
    assert levels.keys() == {"medium", "hard"}
    assert min(levels.values()) > 15
    assert harder == list(conversations(60, seed=4, per_story=2, difficulties=("medium", "hard")))
    [hard] = conversations(1, seed=4, per_story=1, difficulties=("hard",))
    assert hard["difficulty"] == "hard"


def one_or_all(labels: str | list[str]) -> list[str]:
    """A conversation with one question has a label, with more it has a list of them."""
    return [labels] if isinstance(labels, str) else labels
