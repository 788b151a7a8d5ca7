"""A number and a seed flow in, minimal pairs flow out: a true story, and the same story with one fact changed.

The pairs ask a language model which of the two stories is likelier. The facts are changed in the events of a story, and
both stories are told with the same random choices, so that only the words for this fact differ. The laws of the world
accept the true story and refuse the false one.

The frequency of words does not help. Either the two stories have the same words in another order, or the pair comes
with its mirror: the same story with the two words exchanged throughout, in which the other word is the false one. A
model that knows only how often each word occurs is right in exactly one of two such pairs.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import count, pairwise
from typing import NamedTuple

import numpy as np

from homespun.stories.dice import PLAIN
from homespun.stories.events import ARRIVALS, Event
from homespun.stories.judge import judge, split
from homespun.stories.laws import Facts
from homespun.stories.lexicon import BOYS, GIRLS, HE
from homespun.stories.teller import tell
from homespun.stories.world import simulate

SEED = 0x70616972
"""Of the stories of the pairs, far from the seeds of training texts."""
STORIES_FOR_VALUES = 200
"""Stories from which other places and spots are taken for a story that has only one."""
TELLINGS = 4
"""Ways of telling that are tried before another fact is changed."""
MOST_CHANGED = 8
"""Words between the first and the last word that differ, where the false story has more or fewer words."""
MOST_DIFFERENT = 4
"""Words that differ, where both stories have equally many."""

PIECE = re.compile(r"\s?(?:\w+|[^\w\s])")
"""A word or a mark, with the white space before it, about as tokenizers cut a text."""
PRONOUNS = frozenset(["he", "she", "him", "her", "his"])
AMBIGUOUS = re.compile(r"\b(?:he|she|him|her|his|they|them|their|it)\b", re.IGNORECASE)

KNOWLEDGE = frozenset(
    {"tell", "ask", "miss", "giggle", "confess", "show", "own_up", "discover", "admit"}
)
"""Kinds of events in which somebody knows, or gets to know, what others do not."""
HIDING = frozenset({"hide", "giggle", "confess", "fetch", "find", "show", "toss", "tell"})
"""Kinds of events that name the spot of a thing that is not at hand."""
PROMISES = frozenset(
    {"promise", "forget", "wait", "remind", "keep", "offer", "repay", "lend", "refuse", "gift"}
)
"""Kinds of events in which somebody gives, keeps or refuses a promise."""
CHANGELESS = ARRIVALS | {"own"}
"""Kinds of events that introduce somebody or something: another actor is another story, not a false one."""

COUNTERPARTS = {"girl": "boy", "boy": "girl", "princess": "prince", "prince": "princess"}

Swap = tuple[str, str]
Change = Callable[["_Story", int], Iterator[tuple[Event, Swap]]]
"""Gives false versions of the event with this number, each with the two words whose exchange makes the mirror of the
story."""


class Pair(NamedTuple):
    """Two texts, of which a model that knows better finds the true one likelier."""

    true: str
    false: str
    skill: str = ""
    """The kind of fact that tells them apart; empty if it is not stated."""


class _Story:
    """The events of a true story, and what can be exchanged in them."""

    def __init__(self, seed: int, index: int) -> None:
        self.key = (seed, index)
        self.rng = np.random.Generator(np.random.PCG64([seed, index]))
        self.events = simulate(self.rng, PLAIN)

    def told(self, events: Sequence[Event], telling: int) -> str:
        """The events in words. Equal numbers of tellings stand for equal random choices."""
        return tell(events, np.random.Generator(np.random.PCG64([*self.key, telling])), PLAIN)

    def shuffled(self, options: Sequence[int]) -> list[int]:
        return [options[int(number)] for number in self.rng.permutation(len(options))]

    def known(self, number: int) -> list[str]:
        """The characters that have been introduced before an event."""
        return [event.who[0] for event in self.events[:number] if event.kind in ARRIVALS]

    def others(self, field: str, value: str) -> list[str]:
        """Other values that this field has in the story; if it has none, one that it has in another story."""
        others = sorted({getattr(event, field) for event in self.events} - {"", value})
        if others:
            return others
        elsewhere = [other for other in _values(field) if other != value]
        return [elsewhere[int(self.rng.integers(len(elsewhere)))]]


@cache
def _values(field: str) -> list[str]:
    """The values that a field has in some other stories."""
    stories = (_Story(SEED - 1, index).events for index in range(STORIES_FOR_VALUES))
    return sorted({getattr(event, field) for events in stories for event in events} - {""})


def pairs(n: int, seed: int = SEED) -> list[Pair]:
    """Make `n` pairs for each skill, in the order of `SKILLS`. The same seed gives the same pairs on every machine.

    Args:
        n: an even number, so that no pair is without its mirror.
        seed: of the stories.
    """
    assert n % 2 == 0
    made: dict[str, list[Pair]] = {skill: [] for skill in SKILLS}
    for index in count():
        missing = [skill for skill, found in made.items() if len(found) < n]
        if not missing:
            break
        story = _Story(seed, index)
        for skill in missing:
            found = SKILLS[skill](story, skill)
            if len(made[skill]) + len(found) <= n:
                made[skill] += found
    return [pair for found in made.values() for pair in found]


# The changes.


def _owner(story: _Story, number: int) -> Iterator[tuple[Event, Swap]]:
    event = story.events[number]
    if event.owner and event.kind not in CHANGELESS:
        for other in story.known(number):
            if other != event.owner:
                yield event._replace(owner=other), (event.owner, other)


def _named(field: str) -> Change:
    """Another value of the story in a field of an event."""

    def change(story: _Story, number: int) -> Iterator[tuple[Event, Swap]]:
        event = story.events[number]
        value = getattr(event, field)
        if value and event.kind not in CHANGELESS:
            for other in story.others(field, value):
                yield Event(**(event._asdict() | {field: other})), (value, other)

    return change


def _actor(story: _Story, number: int) -> Iterator[tuple[Event, Swap]]:
    """Another one does it: if somebody is acted upon, the two exchange their parts."""
    event = story.events[number]
    if len(event.who) != 1 or event.kind in CHANGELESS:
        return
    (name,) = event.who
    if event.whom:
        yield event._replace(who=(event.whom,), whom=name), (name, event.whom)
    else:
        for other in story.known(number):
            if other != name:
                yield event._replace(who=(other,)), (name, other)


def _of(kinds: frozenset[str], *changes: Change, without: bool = False) -> Change:
    """Changes of events of these kinds, or of all others."""

    def change(story: _Story, number: int) -> Iterator[tuple[Event, Swap]]:
        if (story.events[number].kind in kinds) != without:
            for one in changes:
                yield from one(story, number)

    return change


# How a pair is made of a change.


def _with(change: Change) -> Callable[[_Story, str], list[Pair]]:
    """Pairs in which one event is false."""

    def make(story: _Story, skill: str) -> list[Pair]:
        events = story.events
        for number in story.shuffled(range(len(events))):
            for event, swap in change(story, number):
                false = (*events[:number], event, *events[number + 1 :])
                if _accepted(false):
                    continue
                for telling in range(TELLINGS):
                    pair = Pair(story.told(events, telling), story.told(false, telling), skill)
                    if not _minimal(pair):
                        continue
                    if not _difference(pair):
                        return [pair] if _sound(pair) else []
                    mirrors = [_mirrored(list(version), swap) for version in (events, false)]
                    if not _accepted(mirrors[0]) or _accepted(mirrors[1]):
                        break
                    true, false_one = (story.told(version, telling) for version in mirrors)
                    mirror = Pair(true, false_one, skill)
                    if _opposite(pair, mirror) and _sound(pair) and _sound(mirror):
                        return [pair, mirror]
        return []

    return make


def _traits(story: _Story, skill: str) -> list[Pair]:
    """Two characters exchange their traits in the sentences that introduce them, and one acts on the old one."""
    events = list(story.events)
    entries = [number for number, event in enumerate(events) if event.kind in ARRIVALS]
    for first, second in pairwise(entries):
        false = list(events)
        false[first] = events[first]._replace(trait=events[second].trait)
        false[second] = events[second]._replace(trait=events[first].trait)
        if events[first].trait == events[second].trait or _accepted(false):
            continue
        pair = Pair(story.told(events, 0), story.told(false, 0), skill)
        if not _difference(pair) and _sound(pair):
            return [pair]
    return []


def _pronouns(story: _Story, skill: str) -> list[Pair]:
    """One pronoun has the wrong gender. In the mirror every girl is a boy, and every boy a girl."""
    genders = dict(zip(GIRLS, BOYS, strict=True)) | dict(zip(BOYS, GIRLS, strict=True))
    told = [story.told(story.events, 0)]
    told.append(story.told([_renamed(event, genders) for event in story.events], 0))
    words = [text.split(" ") for text in told]
    if len(words[0]) != len(words[1]):
        return []
    places = [n for n, word in enumerate(words[0]) if word.strip('".,!?\n').lower() in PRONOUNS]
    places = [n for n in places if words[0][n] != words[1][n]]
    if not places:
        return []
    place = story.shuffled(places)[0]
    false = [
        " ".join([*own[:place], other[place], *own[place + 1 :]])
        for own, other in zip(words, reversed(words), strict=True)
    ]
    made = [Pair(true, changed, skill) for true, changed in zip(told, false, strict=True)]
    return made if all(map(_sound, made)) else []


def _order(story: _Story, skill: str) -> list[Pair]:
    """Two neighbouring sentences change places. Both, and the one after them, are without pronouns."""
    lines = [split(line) for line in story.told(story.events, 0).split("\n")]
    options = [
        (number, first)
        for number, sentences in enumerate(lines)
        for first in range(1, len(sentences) - 1)
        if not any(map(AMBIGUOUS.search, sentences[first : first + 3]))
    ]
    for choice in story.shuffled(range(len(options))):
        number, first = options[choice]
        changed = [list(sentences) for sentences in lines]
        line = changed[number]
        line[first], line[first + 1] = line[first + 1], line[first]
        true, false = ("\n".join(map(" ".join, version)) for version in (lines, changed))
        pair = Pair(true, false, skill)
        if _sound(pair) and not _difference(pair):
            return [pair]
    return []


SKILLS: dict[str, Callable[[_Story, str], list[Pair]]] = {
    "whose thing": _with(_owner),
    "which thing": _with(_named("thing")),
    "which place": _with(_named("place")),
    "where it was hidden": _with(_of(HIDING, _named("spot"))),
    "who did it": _with(_of(KNOWLEDGE | PROMISES, _actor, without=True)),
    "who knows": _with(_of(KNOWLEDGE, _actor)),
    "what was promised": _with(_of(PROMISES, _actor, _named("thing"))),
    "what follows from a trait": _traits,
    "pronouns": _pronouns,
    "order": _order,
}
"""The skills, each with the function that makes pairs for it of a story: none, one that is balanced, or two."""


# Checks.


def _accepted(events: Sequence[Event]) -> bool:
    """Whether the events keep the laws."""
    facts = Facts()
    return not any(facts.happen(event) for event in events)


def _sound(pair: Pair) -> bool:
    """Whether the true text is consistent and the false one is not, for a reader who has only the words."""
    return judge(pair.true).consistent and not judge(pair.false).consistent


def _minimal(pair: Pair) -> bool:
    """Whether the texts differ in the words for one fact only."""
    true, false = pair.true.split(), pair.false.split()
    if len(true) == len(false):
        different = sum(a != b for a, b in zip(true, false, strict=True))
        return 0 < different <= MOST_DIFFERENT
    before = sum(1 for _ in _equal(true, false))
    after = sum(1 for _ in _equal(true[:before:-1], false[:before:-1]))
    return max(len(true), len(false)) - before - after <= MOST_CHANGED


def _equal(first: Sequence[str], second: Sequence[str]) -> Iterator[str]:
    """The words at the beginning that two texts share."""
    for a, b in zip(first, second, strict=False):
        if a != b:
            return
        yield a


def _difference(pair: Pair) -> dict[str, int]:
    """The words that one of the texts has more often, with the difference; empty if both have the same words."""
    counts = Counter(PIECE.findall(pair.true))
    counts.subtract(PIECE.findall(pair.false))
    return {piece: number for piece, number in counts.items() if number}


def _opposite(pair: Pair, mirror: Pair) -> bool:
    """Whether the second pair has in its false text exactly what the first has in its true one."""
    return _difference(pair) == _difference(Pair(mirror.false, mirror.true))


def _mirrored(events: Sequence[Event], swap: Swap) -> list[Event]:
    """The events with two words exchanged throughout."""
    a, b = swap
    return [_renamed(event, {a: b, b: a}) for event in events]


def _renamed(event: Event, words: dict[str, str]) -> Event:
    """The event with other words. A child stays a child under a name of the other gender."""

    def renamed(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(map(renamed, value))
        return words.get(value, value) if isinstance(value, str) else value

    new = Event._make(map(renamed, event))
    if event.kind in ARRIVALS and HE[new.who[0]] != HE[event.who[0]]:
        new = new._replace(what=COUNTERPARTS.get(event.what, event.what))
    return new
