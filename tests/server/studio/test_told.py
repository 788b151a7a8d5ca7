"""The judge's verdict as the page shows it: the whole text, each sentence with its reasons."""

import pytest

from homespun.server.answers import FieldError
from homespun.server.limits import Limits
from homespun.server.studio.told import placed, verdict
from homespun.stories import stories
from homespun.stories.judge import MAX_CHARACTERS, judge, split
from tests.server.studio.asking import ask


def test_the_pieces_are_the_text(address: str) -> None:
    for text in stories(20, seed=4):
        story = "\n " + text.replace(". ", ".\n\n", 2) + "  "
        _, seen = ask(address, "/api/judge", {"text": story})
        assert "".join(piece["text"] for piece in seen["pieces"]) == story
        assert seen["consistent"] is judge(story).consistent


def test_a_good_story_is_consistent_and_a_broken_one_is_marked() -> None:
    [story] = stories(1, seed=4)
    assert verdict(story, Limits())["consistent"]
    sentences = split(story)
    broken = story.replace(sentences[-1], "The moon ate the green robot.")
    seen = verdict(broken, Limits())
    assert not seen["consistent"]
    marked = [piece for piece in seen["pieces"] if piece["problems"]]
    assert "The moon ate the green robot." in [piece["text"] for piece in marked]
    expected = {(problem.sentence, problem.what) for problem in judge(broken).problems}
    assert sum(len(piece["problems"]) for piece in marked) == len(expected)
    assert seen["understood"] == seen["sentences"] - 1


@pytest.mark.parametrize(
    "text", ["x", "One two", '"Hello! "', 'A.  B!\n\n"C?" said Tom. D', "…\u2028. A"]
)
def test_any_text_is_judged_as_a_whole(text: str) -> None:
    assert "".join(piece["text"] for piece in verdict(text, Limits())["pieces"]) == text


def test_sentences_are_found_in_order() -> None:
    text = ' A b.\n"C!"\n said Tom.  A b.'
    places = placed(text, ["A b.", '"C!" said Tom.', "A b."])
    assert [text[start:end] for start, end in places] == ["A b.", '"C!"\n said Tom.', "A b."]


def test_a_story_has_a_largest_size() -> None:
    text = "Tom was sad. "
    assert verdict(text, Limits(story_characters=len(text)))["sentences"] == 1
    with pytest.raises(FieldError, match=f"at most {len(text) - 1} characters"):
        verdict(text, Limits(story_characters=len(text) - 1))


@pytest.mark.parametrize("text", ["", "  \n", "a" * (MAX_CHARACTERS + 1), 5])
def test_no_text_and_too_much_are_explained(address: str, text: object) -> None:
    status, refused = ask(address, "/api/judge", {"text": text})
    assert (status, refused["error"]["param"]) == (400, "text")
