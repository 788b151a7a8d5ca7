"""A text flows in, a verdict flows out: whether the story is consistent, and the reason for each sentence that is not.

The judge sees only the text. It turns each sentence back into an event by the forms of the teller, and applies the laws
of the world to it. For example, a found thing was lost before, pronouns fit, only characters who are present act, a
thing keeps its owner until it is given away, vows are kept, and everything that is introduced plays a part.

The judge reads more than the teller writes: contractions, some synonyms, other verbs of speech, and commas left out.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from homespun.stories import lexicon
from homespun.stories.events import Event
from homespun.stories.laws import Facts
from homespun.stories.lexicon import HE, HIM, HIS, an
from homespun.stories.teller import ACCEPTED, ACTS, FORMS, PRONOUNS, Choice, Focus, Form

MAX_SENTENCES = 200
MAX_CHARACTERS = 50_000
"""The judge stops reading here, which bounds its time. No story is nearly as long."""
MIN_PARAGRAPHS = 2
"""A story of more paragraphs has at least two sentences in each, on the average."""

SENTENCE_END = re.compile(r'(?<=[.!?])\s+(?=["A-Z])|(?<=[.!?]")\s+(?=["A-Z])')
PARAGRAPH_END = re.compile(r"\n\s*")
SPEECH = (
    "said", "asked", "called", "cried", "replied", "answered", "whispered", "shouted", "exclaimed", "told",
    "wanted to know",
)  # fmt: skip
SYNONYMS = {
    "very": ("so", "really", "awfully"),
    "began to": ("started to",),
    "could not": ("was not able to",),
    "glad": ("happy", "pleased"),
    "unhappy": ("sad",),
    "cross": ("angry",),
    "big": ("large",),
    "often": ("always", "usually"),
    "mended": ("repaired", "fixed"),
    "mend": ("repair", "fix"),
    "grabbed": ("took",),
    "looked": ("searched",),
    "found": ("discovered", "spotted"),
    "went": ("walked", "strolled"),
    "walked": ("went", "strolled"),
    "until": ("till",),
    "alone": ("all alone", "on his own", "on her own"),
    "a lot of": ("lots of", "much", "great"),
    "Soon": ("Before long", "Soon after"),
    "Suddenly": ("All at once", "All of a sudden"),
    "At last": ("In the end", "Finally", "Eventually"),
    "for ever": ("forever",),
    "called": ("named",),
    "wanted to": ("wished to",),
    "kept": ("held",),
    "gave": ("handed",),
    "saw": ("noticed", "spotted"),
    "had to": ("needed to", "must"),
    "sad": ("unhappy",),
    "happy": ("glad",),
    "thanked": ("said thank you to",),
    "a friend": ("a pal",),
    "forgave": ("pardoned",),
    "sat down": ("took a seat",),
    "the best of friends": ("best friends", "very good friends"),
    "That night": ("At night",),
    "In the evening": ("At the end of the day", "That evening"),
    "tired": ("weary",),
    "picked it up": ("took it", "picked it up again"),
    "ran": ("hurried", "rushed"),
    "laughed": ("giggled", "chuckled"),
    "thrown": ("tossed",),
    "threw": ("tossed",),
    "dropped": ("let fall",),
    "broke": ("got broken", "went to pieces"),
    "broken": ("in pieces",),
    "was lost": ("got lost", "had got lost"),
    "stopped": ("ceased",),
    "shut up": ("locked up",),
    "fell": ("tripped", "tumbled"),
    "told": ("informed",),
    "helped": ("gave a hand to",),
    "help you": ("help you to", "help you with"),
    "come along": ("come with me",),
    "set off": ("set out", "headed"),
    "for a while": ("for some time",),
    "for a long time": ("for a long while",),
    "everywhere": ("all over the place",),
    "everything": ("all",),
    "nobody": ("no one",),
    "Nobody": ("No one",),
    "somebody": ("someone",),
    "Somebody": ("Someone",),
    "but": ("yet",),
    "because": ("for", "since", "as"),
    "gone": ("missing",),
    "wonderful": ("great", "lovely"),
    "good friend": ("dear friend", "close friend"),
    "had a lot of fun": ("had lots of fun", "had much fun"),
    "Thank you": ("Thanks", "Many thanks"),
    "I am sorry": ("I am very sorry", "Sorry"),
    "Please help me": ("Help me, please", "Will you please help me"),
    "home": ("back home",),
    "quickly": ("fast",),
    "quietly": ("silently",),
    "learned": ("learnt",),
    "now": ("then",),
    "Now": ("Then",),
}
"""Words of the stories, and the words that the judge accepts instead."""
CONTRACTIONS = {
    r"\bcan't\b|\bcannot\b": "can not", r"\bwon't\b": "will not", r"n't\b": " not", r"\bI'm\b": "I am",
    r"\b(I|You|you|We|we|They|they)'ll\b": r"\1 will", r"\b(I|You|you|We|we|They|they)'ve\b": r"\1 have",
    r"\b([Ii]t|[Tt]hat|[Hh]ere|[Ww]here|[Ww]hat)'s\b": r"\1 is", r"\b([Ll])et's\b": r"\1et us",
}  # fmt: skip


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
    told: set[str] = set()
    for number, (sentence, reading) in enumerate(events(text)):
        if sentence in told:
            problems.append(Problem(number, sentence, "this sentence occurs twice"))
        told.add(sentence)
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
    problems += [Problem(number, sentence, what) for what in facts.lacks()]
    paragraphs = len(PARAGRAPH_END.findall(text[:MAX_CHARACTERS].strip())) + 1
    if paragraphs > MIN_PARAGRAPHS and number + 1 < 2 * paragraphs:
        problems.append(Problem(number, sentence, "the story falls apart into too many paragraphs"))
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
    sentences: list[str] = []
    for sentence in SENTENCE_END.split(text[:MAX_CHARACTERS].strip()):
        if (
            sentences
            and sentences[-1].endswith(('?"', '!"'))
            and _speaker_last().fullmatch(sentence)
        ):
            sentences[-1] += " " + sentence
        elif sentence:
            sentences.append(sentence)
    return sentences[:MAX_SENTENCES]


@cache
def _speaker_last() -> re.Pattern[str]:
    return re.compile(rf"{_any(lexicon.NAMES)}(?: the \w+)? {_any(SPEECH)}\.")


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
    plain = _plain(sentence)
    for form, key, pattern in _patterns():
        if key in plain:
            match = pattern.fullmatch(plain)
            if match:
                return _Reader(form, match.groupdict(), focus).reading()
    return None


def _plain(sentence: str) -> str:
    """The sentence without contractions, and with the speaker behind the speech."""
    if "'" in sentence or "cannot" in sentence:
        for short, long in CONTRACTIONS.items():
            sentence = re.sub(short, long, sentence)
    speech = _speaker_first().fullmatch(sentence)
    if speech:
        speaker, verb, words, end = speech.groups()
        speaker = speaker if speaker.split()[0] in HE else speaker.lower()
        order = f"{speaker} {verb}" if speaker in PRONOUNS else f"{verb} {speaker}"
        return f'"{words}{"," if end == "." else end}" {order}.'
    return sentence


@cache
def _speaker_first() -> re.Pattern[str]:
    called = f"{_any(lexicon.NAMES)}(?: the {_any(lexicon.ANIMALS)})?"
    return re.compile(f'({called}|He|She) ({_any(SPEECH)}), "([^"]+)([.!?])"')


def _any(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(words)})"


def _slots(the: str, his: str, he: str, they: str) -> dict[str, str]:
    """The pattern for the words in each slot. The arguments are patterns that depend on capitalization."""
    name = _any(lexicon.NAMES)
    called = f"{name}(?: the {_any(lexicon.ANIMALS)})?"
    toy = f"(?:{_any(lexicon.COLOURS)} )?{_any(lexicon.TOYS)}"
    food = f"(?:{_any(lexicon.TASTES)} )?{_any(lexicon.FOODS)}"
    thing = f"(?:{toy}|{food})"
    new_toy = f"{_any(an(colour) for colour in lexicon.COLOURS)} {_any(lexicon.TOYS)}"
    new_food = f"{_any(an(taste) for taste in lexicon.TASTES)} {_any(lexicon.FOODS)}"
    before = (*lexicon.TRAITS, *lexicon.LOOKS)
    kind = f"{_any(an(word) for word in before)} {_any(lexicon.CREATURES)}"
    spoke = _any(SPEECH)
    return {
        "N": name,
        "a": f"{called}|{he}",
        "A": called,
        "g": f"{name} and {name}|{called}|{he}|{they}",
        "both": f"{name} and {name}|{they}",
        "said": f"{spoke} {called}|{called} {spoke}|(?:he|she) {spoke}",
        "asked": f"{spoke} {called}|{called} {spoke}|(?:he|she) {spoke}",
        "he": "he|she",
        "him": "him|her",
        "his": "his|her",
        "b": f"{called}|him|her",
        "B": name,
        "t": f"(?:{the}|{his}|{name}'s) {thing}",
        "o": f"(?:{the}|{his}|{name}'s) {thing}",
        "T": f"(?:the|my|your) {thing}",
        "n": _any(lexicon.TOYS + lexicon.FOODS),
        "an": _any(an(toy) for toy in lexicon.TOYS),
        "new": f"{new_toy}|{new_food}",
        "kind": f"{kind}|{_any(an(creature) for creature in lexicon.CREATURES)}",
        "in": _any(lexicon.PLACES.values()),
        "to": f"to the {_any(lexicon.PLACES)}",
        "s": _any(lexicon.SPOTS),
        "h": _any(lexicon.HEIGHTS),
        "shelter": _any(lexicon.SHELTERS),
        "when": _any(lexicon.TIMES),
        "later": _any(lexicon.LATER),
        "w": _any(lexicon.WEATHER),
        "limb": _any(lexicon.LIMBS),
        "chore": _any(lexicon.CHORES),
        "errand": _any(lexicon.ERRANDS),
        "errands": _any(lexicon.ERRANDS.values()),
    }


@cache
def _patterns() -> tuple[tuple[Form, str, re.Pattern[str]], ...]:
    """Each form with its longest constant text, for a quick test, and its pattern."""
    first = _slots(the="[Tt]he", his="[Hh]is|[Hh]er", he="[Hh]e|[Ss]he", they="[Tt]hey")
    later = _slots(the="the", his="his|her", he="he|she", they="they")
    patterns = []
    for form in FORMS:
        pattern, constants = _literal(form.literals[0])
        leads = all(option == "" for choice in form.literals[0] for option in choice[:1])
        for number, (slot, literal) in enumerate(zip(form.slots, form.literals[1:], strict=True)):
            words = first[slot] if leads and number == 0 else later[slot]
            if leads and number == 0 and slot in ("kind", "new"):
                words = f"(?:{words}|{_capital(words)})"
            text, more = _literal(literal)
            again = slot in form.slots[:number]
            pattern += (f"(?P={slot})" if again else f"(?P<{slot}>{words})") + text
            constants += more
        if form.literals[-1][-1][0].endswith("."):
            pattern = pattern.removesuffix(r"\.") + "[.!]"
        key = max(constants, key=len, default="").removesuffix(".")
        patterns.append((form, key, re.compile(pattern)))
    return tuple(patterns)


def _capital(words: str) -> str:
    return re.sub(r"(?<=[(|:])a(n?) ", r"A\1 ", words)


@cache
def _synonyms() -> tuple[re.Pattern[str], dict[str, str]]:
    groups = {word: _any((re.escape(word), *more)) for word, more in SYNONYMS.items()}
    words = sorted(groups, key=len, reverse=True)
    return re.compile(rf"(\b(?:{'|'.join(map(re.escape, words))})\b|,(?= |$)|[,!](?=\"))"), groups


def _varied(part: str, after: str, groups: dict[str, str]) -> str:
    """The pattern for a word with synonyms, or for a comma or exclamation mark."""
    return groups.get(part) or ("[,!]" if after.startswith('"') else ",?")


def _literal(choices: tuple[Choice, ...]) -> tuple[str, list[str]]:
    """The pattern of a literal text, and its constant parts."""
    pattern, constants = "", []
    split, groups = _synonyms()
    for choice in choices:
        options = []
        for option in choice:
            parts = split.split(option.removeprefix(ACCEPTED))
            texts = [
                _varied(part, after, groups) if n % 2 else re.escape(part)
                for n, (part, after) in enumerate(pairwise([*parts, ""]))
            ]
            if len(choice) == 1:
                constants += parts[::2]
            options.append("".join(texts))
        pattern += options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"
    return pattern, constants


WHATS = ("w", "limb", "chore", "errand")
"""Slots with `Event.what`."""


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
        trait, what = self._what()
        place = (words.get("to") or words.get("in") or "").rpartition(" ")[2]
        spot = words.get("s") or words.get("h") or words.get("shelter") or ""
        time = words.get("when") or words.get("later") or ""
        return Event(
            form.kind,
            who,
            whom,
            thing,
            colour,
            owner,
            place,
            spot,
            what,
            trait,
            time,
            self._called(),
        )

    def _what(self) -> tuple[str, str]:
        """Trait and `Event.what`."""
        words = self.words
        if "kind" in words:
            *before, creature = words["kind"].split(" ")
            return ("" if before[-1] not in lexicon.TRAITS else before[-1]), creature
        if "errands" in words:
            did = {past: errand for errand, past in lexicon.ERRANDS.items()}
            return "", did[words["errands"]]
        return "", next((words[slot] for slot in WHATS if slot in words), self.form.what)

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
        pairs = [re.search(r"(\w+) the (\w+)", phrase) for phrase in phrases]
        return tuple((pair[1], pair[2]) for pair in pairs if pair)

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
        for slot in ("n", "an"):
            if slot in words:
                return "", "", words[slot].rpartition(" ")[2]
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
            mine = "".join(who)
            owners = {"my": mine, "a": mine, "an": mine, "your": whom, "the": ""}
            owner = owners.get(whose.lower(), whose.removesuffix("'s"))
        return owner, "".join(colour), noun

    def _agrees(self, pronoun: str, pronouns: dict[str, str], who: tuple[str, ...]) -> None:
        for name in who:
            if pronouns[name] != pronoun:
                self.complaints.append(f"{name} is not '{pronoun}'")
