"""Exact answers by skill: the count, its table, and files of the user."""

import json
from pathlib import Path
from typing import Any

import pytest

from homespun.errors import UserError
from homespun.evaluation.questions import Item, built_in, read, scored
from homespun.stories.questions import SKILLS, is_right


def item(answer: str, skill: str = "who", difficulty: str = "easy") -> Item:
    return Item(({"role": "user", "content": f"A story.\n\n{skill}?"},), answer, skill, difficulty)


def test_answers_are_counted_by_skill_and_difficulty() -> None:
    items = [item("Mia"), item("Mia"), item("Tom"), item("red", "colour", "hard")]
    result = scored("model", "file", items, ["Mia", "Tom", "tom.", "blue"])
    assert (result.overall.n_questions, result.overall.right, result.overall.share) == (4, 2, 0.5)
    assert [(one.of, one.right, one.n_questions) for one in result.skills] == [
        ("who", 2, 3),
        ("colour", 0, 1),
    ]
    assert [(one.of, one.share) for one in result.difficulties] == [("easy", 2 / 3), ("hard", 0)]
    assert result.skills[0].constant == pytest.approx(2 / 3)  # always Mia
    assert result.overall.low < 0.5 < result.overall.high
    assert [(w.question, w.given, w.right) for w in result.wrong] == [
        ("who?", "Tom", "Mia"),
        ("colour?", "blue", "red"),
    ]


@pytest.mark.parametrize(
    ("given", "right"),
    [("Mia", True), (" mia.\n", True), ("to  the barn", False), ("Mia!", False), ("", False)],
)
def test_only_spaces_capitals_and_a_full_stop_do_not_count(given: str, right: bool) -> None:
    assert is_right(given, "Mia") is right
    assert is_right("To the  barn.", "to the barn")


def test_the_built_in_questions_have_each_skill() -> None:
    items = built_in(1)
    assert [one.skill for one in items] == list(SKILLS)
    assert all(one.answer and one.messages[-1]["role"] == "user" for one in items)


def test_a_file_is_read_up_to_its_last_answers(tmp_path: Path) -> None:
    def turn(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    records: list[dict[str, Any]] = [
        {"messages": [turn("user", "a?"), turn("assistant", "b")], "skill": "letters"},
        {
            "messages": [
                turn("user", "a?"),
                turn("assistant", "b"),
                turn("user", "c?"),
                turn("assistant", "d"),
            ],
            "skill": ["one", "two"],
            "difficulty": ["easy", "hard"],
        },
    ]
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    first, second = read(file)
    assert (first.answer, first.skill, first.difficulty) == ("b", "letters", "")
    assert (second.answer, second.skill, second.difficulty) == ("d", "two", "hard")
    assert [message["content"] for message in second.messages] == ["a?", "b", "c?"]


@pytest.mark.parametrize("name", ["asked.txt", "asked", "missing.csv"])
def test_a_file_of_another_kind_is_refused_with_the_form_of_questions(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "asked.txt").write_text("Who has the ball? Anna.\n")
    with pytest.raises(
        UserError, match=rf"{name}: questions are in .* files, each with its answer"
    ):
        read(tmp_path / name)


def test_a_file_without_an_answer_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "a?"}]}\n')
    with pytest.raises(UserError, match="there is no conversation with an answer in it"):
        read(file)
