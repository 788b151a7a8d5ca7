"""A text flows in, a verdict flows out: whether the story is consistent, and the reason for each sentence that is not.

The judge sees only the text. It turns each sentence back into an event by the forms of the teller, and applies the laws
of the world to it. For example, a found thing was lost before, pronouns fit, only characters who are present act, a
thing keeps its owner until it is given away, thanks and lessons have a reason, and the story has an ending.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from homespun.stories import lexicon
from homespun.stories.laws import Event, Facts
from homespun.stories.lexicon import HE, HIM, HIS
from homespun.stories.teller import ACTS, FORMS, PRONOUNS, WHATS, Focus, Form

MAX_SENTENCES = 200
MAX_CHARACTERS = 50_000
"""The judge stops reading here, which bounds its time. No story is nearly as long."""

SENTENCE_END = re.compile(r'(?<=[.!?])\s+(?=["A-Z])|(?<=[.!?]")\s+(?=["A-Z])')


@dataclass(frozen=True)
class Problem:
    """A sentence that is inconsistent with the story."""

    sentence: int
    """Number of the sentence, from 0."""
    text: str
    """The sentence."""
    what: str
    """The problem. Begins with 'unfinished' or 'not understood' in these cases."""


@dataclass(frozen=True)
class Verdict:
    """The result of judging a text."""

    consistent: bool
    problems: tuple[Problem, ...]


def judge(text: str) -> Verdict:
    """Find the sentences where a story contradicts itself, breaks off or cannot be understood.

    Accepts any text and never raises an exception.
    """
    facts = Facts()
    problems: list[Problem] = []
    number, sentence = 0, ""
    for number, (sentence, reading) in enumerate(events(text)):
        if reading is None:
            complaints = ["not understood"]
        else:
            complaints = list(reading.complaints)
            if reading.event:
                complaints += facts.happen(reading.event)
        problems += [Problem(number, sentence, what) for what in complaints]
    if sentence and (not sentence.endswith((".", "!", "?")) or sentence.count('"') % 2):
        # Such a sentence is never understood, because every form is a whole sentence. Give the real reason instead.
        problems[-1] = Problem(number, sentence, "unfinished: the sentence breaks off")
    if not facts.ended:
        problems.append(Problem(number, sentence, "unfinished: the story has no ending"))
    return Verdict(not problems, tuple(problems))


def events(text: str) -> Iterator[tuple[str, "Reading | None"]]:
    """Stream each sentence with its reading; None if it is not understood."""
    focus = Focus()
    for sentence in split(text):
        reading = read(sentence, focus)
        focus = reading.focus if reading else Focus()
        yield sentence, reading


def split(text: str) -> list[str]:
    """Split a text into sentences. A quotation is part of the sentence that names the speaker."""
    sentences = SENTENCE_END.split(text[:MAX_CHARACTERS].strip())
    return [sentence for sentence in sentences if sentence][:MAX_SENTENCES]


@dataclass(frozen=True)
class Reading:
    """A sentence that is understood."""

    form: Form
    event: Event | None
    """None if a pronoun refers to nobody."""
    complaints: tuple[str, ...]
    """Pronouns that do not fit."""
    focus: Focus


def read(sentence: str, focus: Focus) -> Reading | None:
    """Read a sentence; None if it is not understood.

    Args:
        sentence: the sentence.
        focus: the characters that pronouns can refer to after the sentence before.
    """
    for form, key, pattern in _patterns():
        if key in sentence:
            match = pattern.fullmatch(sentence)
            if match:
                return _Reader(form, match.groupdict(), focus).reading()
    return None


def _any(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(words)})"


def _slots(the: str, his: str, he: str, they: str) -> dict[str, str]:
    """The pattern for the words in each slot. The arguments are patterns that depend on capitalization."""
    name = _any(lexicon.NAMES)
    called = f"{name}(?: the {_any(lexicon.ANIMALS)})?"
    toy = f"(?:{_any(lexicon.COLOURS)} )?{_any(lexicon.TOYS)}"
    food = f"(?:{_any(lexicon.TASTES)} )?{_any(lexicon.FOODS)}"
    thing = f"(?:{toy}|{food})"
    new_toy = f"{_any(lexicon.COLOURS)} {_any(lexicon.TOYS)}"
    new_food = f"{_any(lexicon.TASTES)} {_any(lexicon.FOODS)}"
    return {
        "N": name,
        "a": f"{called}|{he}",
        "g": f"{name} and {name}|{called}|{he}|{they}",
        "both": f"{name} and {name}|{they}",
        "said": f"said {called}|(?:he|she) said",
        "asked": f"asked {called}|(?:he|she) asked",
        "he": "he|she",
        "him": "him|her",
        "his": "his|her",
        "b": f"{called}|him|her",
        "B": name,
        "t": f"(?:{the}|{his}|{name}'s) {thing}",
        "o": f"(?:{the}|{name}'s) {thing}",
        "T": f"(?:the|my|your) {thing}",
        "n": _any(lexicon.TOYS + lexicon.FOODS),
        "new": f"a (?:{new_toy}|{new_food})",
        "in": _any(lexicon.PLACES.values()),
        "to": f"to the {_any(lexicon.PLACES)}",
        "s": _any(lexicon.SPOTS),
        "h": _any(lexicon.HEIGHTS),
        "q": _any(lexicon.TRAITS),
        "k": _any((*lexicon.ANIMALS, "girl", "boy")),
        "w": _any(lexicon.WEATHER),
        "limb": _any(lexicon.LIMBS),
        "chore": _any(lexicon.CHORES),
    }


@cache
def _patterns() -> tuple[tuple[Form, str, re.Pattern[str]], ...]:
    """Each form with its longest literal, for a quick test, and its pattern."""
    first = _slots(the="The", his="His|Her", he="He|She", they="They")
    later = _slots(the="the", his="his|her", he="he|she", they="they")
    patterns = []
    for form in FORMS:
        pattern = re.escape(form.literals[0])
        for slot, literal in zip(form.slots, form.literals[1:], strict=True):
            words = later[slot] if pattern else first[slot]
            pattern += f"(?P<{slot}>{words}){re.escape(literal)}"
        longest = max((text[1:] for text in form.literals), key=len)
        patterns.append((form, longest, re.compile(pattern)))
    return tuple(patterns)


class _Unclear(Exception):
    """A pronoun could refer to nobody, or to more than one character."""


class _Reader:
    """Turns the words in the slots of one sentence into an event."""

    def __init__(self, form: Form, words: dict[str, str], focus: Focus) -> None:
        self.form = form
        self.words = words
        self.focus = focus
        self.complaints: list[str] = []

    def reading(self) -> Reading:
        try:
            event = self._event()
        except _Unclear as unclear:
            complaint = f"it is not clear whom '{unclear}' means"
            return Reading(self.form, None, (*self.complaints, complaint), Focus())
        focus = Focus.after(self.form, event.who, event.whom)
        return Reading(self.form, event, tuple(self.complaints), focus)

    def _event(self) -> Event:
        words, form = self.words, self.form
        who = self._who()
        whom = words.get("B") or self._whom(who)
        for slot, pronouns in (("he", HE), ("him", HIM), ("his", HIS)):
            if slot in words:
                self._agrees(words[slot], pronouns, who)
        owner, colour, thing = self._thing(who, whom)
        what = next((words[slot] for slot in WHATS if slot in words), form.what)
        place = (words.get("to") or words.get("in") or "").rpartition(" ")[2]
        spot = words.get("s") or words.get("h") or ""
        trait = words.get("q", "")
        called = self._called()
        return Event(form.kind, who, whom, thing, colour, owner, place, spot, what, trait, called)

    def _who(self) -> tuple[str, ...]:
        phrase = next((self.words[slot] for slot in ACTS if slot in self.words), "")
        names = tuple(word for word in phrase.split(" ") if word in HE)
        pronoun = next((word for word in phrase.split(" ") if word.lower() in PRONOUNS), "")
        if pronoun.lower() == "they":
            names = self.focus.they()
        elif pronoun:
            names = self.focus.acted if len(self.focus.acted) == 1 else ()
            self._agrees(pronoun.lower(), HE, names)
        if phrase and not names:
            raise _Unclear(pronoun)
        return names

    def _called(self) -> tuple[tuple[str, str], ...]:
        """The pairs of name and creature in phrases such as "Lily the pig"."""
        phrases = [phrase for slot, phrase in self.words.items() if slot in ACTS or slot == "b"]
        pairs = [phrase.split(" ")[-3:] for phrase in phrases if " the " in phrase]
        return tuple((name, creature) for name, _, creature in pairs)

    def _whom(self, who: tuple[str, ...]) -> str:
        phrase = self.words.get("b", "")
        if phrase not in ("him", "her"):
            return next((word for word in phrase.split(" ") if word in HE), "")
        other = self.focus.other(who)
        if not other:
            raise _Unclear(phrase)
        self._agrees(phrase, HIM, (other,))
        return other

    def _thing(self, who: tuple[str, ...], whom: str) -> tuple[str, str, str]:
        """Owner, colour and noun, each empty if the sentence does not state it."""
        words = self.words
        if "n" in words:
            return "", "", words["n"]
        phrase = next((words[slot] for slot in ("t", "o", "T", "new") if slot in words), "")
        if not phrase:
            return "", "", ""
        whose, *colour, noun = phrase.split(" ")
        if whose.lower() in ("his", "her"):
            if len(who) != 1:
                raise _Unclear(whose)
            self._agrees(whose.lower(), HIS, who)
            owner = who[0]
        else:
            owners = {"my": "".join(who), "a": "".join(who), "your": whom, "the": "", "The": ""}
            owner = owners.get(whose, whose.removesuffix("'s"))
        return owner, "".join(colour), noun

    def _agrees(self, pronoun: str, pronouns: dict[str, str], who: tuple[str, ...]) -> None:
        for name in who:
            if pronouns[name] != pronoun:
                self.complaints.append(f"{name} is not '{pronoun}'")
