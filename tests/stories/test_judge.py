"""The judge accepts simulated stories, names the contradictions in others, and takes any text."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.corruptions import CORRUPTIONS
from homespun.stories import stories
from homespun.stories.judge import MAX_SENTENCES, _patterns, judge, split
from homespun.stories.teller import tell
from homespun.stories.world import simulate
from tests.stories.mutations import MUTATIONS

N_SPOILED = 20
"""Stories for each kind of nonsense."""

SOUND = (
    "Once upon a time, there was a careless girl named Mia. She had a red drum. "
    "Mia had a friend, a kind fox named Tom. One day, Mia and Tom went to the park.\n"
    "But Mia was careless and left her drum lying somewhere in the park. "
    "She began to cry. Tom was kind and put an arm around Mia. "
    '"Please help me," Mia said to Tom the fox. '
    '"I will help you look for your drum, Mia," said Tom. '
    "He looked under the bench, but the drum was not there. "
    "Then Mia saw the red drum beside the hedge and picked it up. "
    '"Thank you for your help, Tom!" she said.\n'
    "Mia learned to look after her things and never forgot it. "
    "Mia and Tom played with Mia's drum until the sun went down."
)


@pytest.fixture(scope="module")
def unseen() -> list[str]:
    return list(stories(1500, seed=77))


def test_accepts_what_the_world_has_played_out(unseen: list[str]) -> None:
    for story in unseen:
        assert judge(story).problems == ()


def test_a_sound_story() -> None:
    assert judge(SOUND).consistent


@pytest.mark.parametrize(
    ("sentence", "instead", "problem"),
    [
        ("Then Mia saw the red drum", "Then Mia saw the red kite", "there was no kite before"),
        ("Then Mia saw the red drum", "Then Mia saw the blue drum", "the drum is red"),
        ("Then Mia saw the red drum", "Then Mia saw Tom's drum", "the drum belongs to Mia"),
        ("Then Mia saw", "Then Lily saw", "nobody has met Lily before"),
        ("beside the hedge", "under the bench", "the drum was not there before"),
        ("beside the hedge", "down in the straw", "there is nothing like that at the park"),
        ("He looked under", "She looked under", "Tom is not 'she'"),
        ("saw the red drum", "saw his red drum", "Mia is not 'his'"),
        ("somewhere in the park", "somewhere at the beach", "Mia is not in this place"),
        ("left her drum", "left Tom's drum", "the drum belongs to Mia"),
        ("Tom the fox", "Tom the bear", "Tom is not a bear"),
        ("One day, Mia and Tom went", "One day, Mia went", "Tom is left behind"),
        ("a careless girl", "a brave girl", "Mia is not careless"),
        ("a careless girl", "a careless boy", "Mia is not a boy"),
        ("a kind fox", "a fox", "Tom is not kind"),
        ("for your help", "for mending my drum", "Mia has nothing of that kind to thank Tom for"),
        ("Mia learned to look after her things and never forgot it.",
         "Mia learned that the truth is always best.", "nothing taught Mia this lesson"),
        ("with Mia's drum until", "with Tom's drum until", "the drum belongs to Mia"),
        ("Please help me", "Please helped me", "not understood"),
        ("a red drum", "an red drum", "not understood"),
        ("She began to cry.", "She began to cry. She began to cry.", "this sentence occurs twice"),
        (" until the sun went down.", " until the", "unfinished: the sentence breaks off"),
        (" Mia and Tom played with Mia's drum until the sun went down.", "",
         "unfinished: the story has no ending"),
        ("Tom was kind and put an arm around Mia. ", "", "nothing shows that Tom is kind"),
    ],
)  # fmt: skip
def test_names_what_does_not_fit(sentence: str, instead: str, problem: str) -> None:
    assert sentence in SOUND
    text = SOUND.replace(sentence, instead)
    verdict = judge(text)
    assert not verdict.consistent
    assert problem in [found.what for found in verdict.problems]
    for found in verdict.problems:
        assert split(text)[found.sentence] == found.text


def test_the_first_problem_is_where_the_change_is() -> None:
    changed = SOUND.replace("Then Mia saw the red drum", "Then Mia saw the red kite")
    first = judge(changed).problems[0]
    assert (first.sentence, first.text) == (
        10,
        "Then Mia saw the red kite beside the hedge and picked it up.",
    )


@pytest.mark.parametrize("kind", MUTATIONS)
def test_rejects_nonsense_of_each_kind(kind: str) -> None:
    rng = np.random.default_rng(1)
    spoiled: list[str] = []
    while len(spoiled) < N_SPOILED:
        new = MUTATIONS[kind](simulate(rng), rng)
        if new is not None:
            spoiled.append(new if isinstance(new, str) else tell(new, rng))
    rejected = sum(not judge(text).consistent for text in spoiled)
    assert rejected >= 0.95 * len(spoiled)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_rejects_a_single_false_fact(kind: str, unseen: list[str]) -> None:
    rng = np.random.default_rng(1)
    pairs = ((story, CORRUPTIONS[kind](story, rng)) for story in unseen)
    changed = list(islice((new for old, new in pairs if new is not None and new != old), 60))
    assert len(changed) == 60
    rejected = sum(not judge(text).consistent for text in changed)
    assert rejected >= 0.95 * len(changed)


@pytest.mark.parametrize(
    ("words", "others"),
    [
        ("But Mia was careless", "Sadly, Mia was careless"),
        ("She began to cry", "She started to cry"),
        ("I will help you look", "I'll help you look"),
        ("One day, Mia", "One day Mia"),
        ('"I will help you look for your drum, Mia," said Tom.',
         'Tom said, "I will help you look for your drum, Mia."'),
        ("said Tom.", "Tom replied."),
        ("for your help, Tom!", "for your help, Tom,"),
        ("until the sun", "till the sun"),
        ("She began to cry", "She began to weep"),
        ("but the drum was not there", "but the drum wasn't there"),
    ],
)  # fmt: skip
def test_accepts_other_words_for_the_same(words: str, others: str) -> None:
    assert words in SOUND
    assert judge(SOUND.replace(words, others)).problems == ()


def test_every_sentence_has_one_reading(unseen: list[str]) -> None:
    for story in unseen[:100]:
        for sentence in split(story):
            forms = [form for form, _, pattern in _patterns() if pattern.fullmatch(sentence)]
            assert len({(form.kind, form.what) for form in forms}) == 1, sentence


@given(st.text(max_size=300))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_takes_any_text(text: str) -> None:
    verdict = judge(text)
    assert not verdict.consistent
    assert all("\n" not in problem.what for problem in verdict.problems)


SENTENCES = sorted({sentence for story in stories(150, seed=4) for sentence in split(story)})
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})


@given(st.lists(st.sampled_from(SENTENCES), max_size=25))
@settings(derandomize=True, deadline=None, max_examples=150)
def test_takes_sentences_in_any_order(sentences: list[str]) -> None:
    verdict = judge(" ".join(sentences))
    assert verdict.consistent == (not verdict.problems)


@given(st.lists(st.sampled_from(WORDS), max_size=60))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_takes_words_in_any_order(words: list[str]) -> None:
    assert not judge(" ".join(words)).consistent


def test_nothing_to_judge_is_unfinished() -> None:
    for text in ("", " \n ", "\x00", "."):
        assert any(
            problem.what.startswith(("unfinished", "not")) for problem in judge(text).problems
        )


def test_reads_only_so_much_of_a_huge_text() -> None:
    for text in ("She was sad. " * 200_000, '"' * 1_000_000, "a " * 500_000, SOUND * 5000):
        assert len(split(text)) <= MAX_SENTENCES
        assert not judge(text).consistent


def test_paragraphs() -> None:
    assert judge(SOUND.replace("\n", " ")).consistent
    assert judge(SOUND.replace("\n", "\n\n")).consistent
    assert not judge(SOUND.replace(". ", ".\n\n")).consistent
    assert not judge(SOUND.replace(" the ", "\nthe ")).consistent
