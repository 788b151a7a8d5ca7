"""Is it consistent? A text flows in, a verdict flows out: each sentence that does not fit, and why.

The judge knows nothing but the text. It reads each sentence back into an event by the teller's own
forms, and lets the event happen under the world's own laws: the lost thing is the found thing,
pronouns fit, nobody acts who is not there, a thing stays somebody's until it is given away, thanks
and lessons have their reason, and the story has its ending.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from homespun.stories.laws import Event, Facts
from homespun.stories.lexicon import (
    ANIMALS,
    CHILD,
    CHORES,
    COLOURS,
    FOODS,
    HEIGHTS,
    LIMBS,
    NAMES,
    PLACES,
    PRONOUN,
    SPOTS,
    TASTES,
    TOYS,
    TRAITS,
    WEATHER,
)
from homespun.stories.teller import FORMS, OBJECT, POSSESSIVE, Focus, Form

MAX_SENTENCES = 200
MAX_CHARACTERS = 50_000
"""The judge reads no further: its time is bounded, and no story is nearly as long."""

SENTENCE_END = re.compile(r'(?<=[.!?])\s+(?=["A-Z])|(?<=[.!?]")\s+(?=["A-Z])')


@dataclass(frozen=True)
class Problem:
    """Something that does not fit."""

    sentence: int
    """Which one, from 0."""
    text: str
    """The sentence."""
    what: str
    """What is wrong with it; begins with 'unfinished' or 'not understood' if it is that."""


@dataclass(frozen=True)
class Verdict:
    """What the judge found."""

    consistent: bool
    problems: tuple[Problem, ...]


def judge(text: str) -> Verdict:
    """Read a story and say where it contradicts itself, breaks off or cannot be understood.

    Takes any text, and raises nothing.
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
    if sentence and not sentence.endswith((".", "!", "?", '"')):
        problems[-1] = Problem(number, sentence, "unfinished: the sentence breaks off")
    if not facts.ended:
        problems.append(Problem(number, sentence, "unfinished: the story has no ending"))
    return Verdict(not problems, tuple(problems))


def events(text: str) -> Iterator[tuple[str, "Reading | None"]]:
    """Each sentence with what it is understood to say; None where it is not understood."""
    focus = Focus()
    for sentence in split(text):
        reading = read(sentence, focus)
        focus = reading.focus if reading else Focus()
        yield sentence, reading


def split(text: str) -> list[str]:
    """The sentences of a text; a quotation is part of the sentence that says who speaks."""
    sentences = SENTENCE_END.split(text[:MAX_CHARACTERS].strip())
    return [sentence for sentence in sentences if sentence][:MAX_SENTENCES]


@dataclass(frozen=True)
class Reading:
    """A sentence understood."""

    form: Form
    event: Event | None
    """None where a pronoun means nobody."""
    complaints: tuple[str, ...]
    """Pronouns that do not fit."""
    focus: Focus


def read(sentence: str, focus: Focus) -> Reading | None:
    """What a sentence says after one that left `focus`; None where it is not understood."""
    for form, key, pattern in _patterns():
        if key in sentence:
            match = pattern.fullmatch(sentence)
            if match:
                return _Reader(form, match.groupdict(), focus).reading()
    return None


def _options(words: object) -> str:
    return "|".join(re.escape(str(word)) for word in words)  # type: ignore[attr-defined]


@cache
def _patterns() -> tuple[tuple[Form, str, re.Pattern[str]], ...]:
    """Each form as a pattern, with its longest literal as a quick test."""
    name = f"(?:{_options(NAMES)})"
    colour = f"(?:{_options(COLOURS + TASTES)})"
    noun = f"(?:{_options(TOYS + FOODS)})"
    slots = {
        "N": name,
        "a": f"{name}|he|she",
        "g": f"{name} and {name}|{name}|he|she|they",
        "both": f"{name} and {name}|they",
        "b": f"{name}|him|her",
        "B": name,
        "he": "he|she",
        "him": "him|her",
        "his": "his|her",
        "t": f"(?:the|his|her|{name}'s) (?:{colour} )?{noun}",
        "T": f"(?:the|my|your) (?:{colour} )?{noun}",
        "n": noun,
        "new": f"a {colour} {noun}",
        "in": _options(PLACES.values()),
        "to": _options(f"to the {place}" for place in PLACES),
        "s": _options(SPOTS + HEIGHTS),
        "q": _options(TRAITS),
        "w": _options((*CHILD.values(), *ANIMALS, *WEATHER, *LIMBS, *CHORES)),
        "said": f"said {name}|he said|she said",
        "asked": f"asked {name}|he asked|she asked",
    }
    patterns = []
    for form in FORMS:
        pattern = re.escape(form.literals[0])
        for slot, literal in zip(form.slots, form.literals[1:], strict=True):
            words = slots[slot]
            if not pattern:
                words = "|".join(
                    word[0].upper() + word[1:] if word[0].islower() else word
                    for word in words.split("|")
                )
                words = words.replace("(?:the|his|her", "(?:The|His|Her")
            pattern += f"(?P<{slot}>{words}){re.escape(literal)}"
        patterns.append((form, max(form.literals, key=len), re.compile(pattern)))
    return tuple(patterns)


class _Reader:
    """Reads one sentence: its form and the words in its slots become an event."""

    def __init__(self, form: Form, words: dict[str, str], focus: Focus) -> None:
        self.form = form
        self.words = words
        self.focus = focus
        self.complaints: list[str] = []

    def reading(self) -> Reading:
        words = self.words
        who = self._who()
        if who is None:
            return Reading(self.form, None, tuple(self.complaints), Focus())
        whom = words.get("B") or self._whom(who)
        if whom is None:
            return Reading(self.form, None, tuple(self.complaints), Focus())
        for slot, pronouns in (("he", None), ("him", OBJECT), ("his", POSSESSIVE)):
            if slot in words:
                self._agrees(words[slot], who, pronouns)
        owner, colour, thing = self._thing(who, whom)
        event = Event(
            self.form.kind,
            who,
            whom,
            thing,
            colour,
            owner,
            place=self._place(),
            spot=words.get("s", ""),
            what=words.get("w", "") or ("" if self.form.what == "food" else self.form.what),
            trait=words.get("q", ""),
        )
        focus = Focus.after(self.form, who, whom)
        return Reading(self.form, event, tuple(self.complaints), focus)

    def _who(self) -> tuple[str, ...] | None:
        said = self.words.get("said") or self.words.get("asked") or ""
        for verb in ("said", "asked"):
            said = said.removeprefix(verb).removesuffix(verb).strip()
        phrase = next((self.words[s] for s in ("N", "a", "g", "both") if s in self.words), said)
        if not phrase:
            return ()
        if phrase in ("They", "they"):
            if not self.focus.they():
                self.complaints.append("it is not clear who 'they' are")
                return None
            return self.focus.they()
        if phrase.lower() in ("he", "she"):
            if len(self.focus.subject) != 1:
                self.complaints.append(f"it is not clear who '{phrase}' is")
                return None
            self._agrees(phrase.lower(), self.focus.subject, None)
            return self.focus.subject
        return tuple(phrase.split(" and "))

    def _whom(self, who: tuple[str, ...]) -> str | None:
        phrase = self.words.get("b", "")
        if phrase not in ("him", "her"):
            return phrase
        other = self.focus.other(who)
        if not other:
            self.complaints.append(f"it is not clear who '{phrase}' is")
            return None
        self._agrees(phrase, (other,), OBJECT)
        return other

    def _agrees(self, pronoun: str, who: tuple[str, ...], table: dict[str, str] | None) -> None:
        right = PRONOUN[who[0]]
        if table:
            right = table[right]
        if pronoun != right:
            self.complaints.append(f"{who[0]} is not '{pronoun}'")

    def _thing(self, who: tuple[str, ...], whom: str) -> tuple[str, str, str]:
        """Whose thing, of what colour, what: as far as it is said."""
        words = self.words
        if "new" in words:
            _, colour, noun = words["new"].split(" ")
            return who[0], colour, noun
        if "n" in words:
            return "", "", words["n"]
        phrase = words.get("t") or words.get("T")
        if not phrase:
            return "", "", ""
        determiner, *colours, noun = phrase.split(" ")
        colour = colours[0] if colours else ""
        if determiner.endswith("'s"):
            return determiner.removesuffix("'s"), colour, noun
        if determiner == "my":
            return who[0], colour, noun
        if determiner == "your":
            return whom, colour, noun
        if determiner.lower() in ("his", "her"):
            if len(who) != 1:
                self.complaints.append(f"it is not clear who '{determiner}' is")
                return "", colour, noun
            self._agrees(determiner.lower(), who, POSSESSIVE)
            return who[0], colour, noun
        return "", colour, noun

    def _place(self) -> str:
        if "to" in self.words:
            return self.words["to"].removeprefix("to the ")
        if "in" in self.words:
            return self.words["in"].rpartition(" ")[2]
        return ""
