"""Stories flow in, their outlines flow out: the course of events, the plot, the creatures and the things.

Outlines tell how much of the world a model has learned. A model that always tells the same safe story is consistent,
but its plots are not those of the generator.
"""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from homespun.stories import MAX_WORDS, MIN_WORDS, lexicon
from homespun.stories.dice import PLAIN, WHOLE, Variety
from homespun.stories.events import ARRIVALS, Event
from homespun.stories.judge import events as read_events
from homespun.stories.judge import read, split
from homespun.stories.laws import Facts
from homespun.stories.lexicon import ANIMALS
from homespun.stories.teller import Focus, tell
from homespun.stories.world import simulate

SEED = 0x6F75746C
"""Of the generator's stories that others are compared with, far from the seeds of training texts."""

WORD = re.compile(r"(\W+)")
CLASSES = {
    word: f"<{name}>"
    for name, words in sorted(vars(lexicon).items())
    if name.isupper() and isinstance(words, tuple | dict)
    for word in words
    if word.isalpha()
}
"""For each word of the lexicon, the name of the last list that has it. Words of one name are read alike."""


@dataclass(frozen=True)
class Outline:
    """A story without its words."""

    course: tuple[str, ...]
    """The kinds of its events, in order."""
    plot: tuple[str, ...]
    """The kinds of its mishaps, in order."""
    creatures: tuple[str, ...]
    """Those of its characters."""
    things: tuple[str, ...]
    """Things that belong to somebody at the beginning."""

    @property
    def animals(self) -> tuple[str, ...]:
        return tuple(creature for creature in self.creatures if creature in ANIMALS)


def outline(events: Iterable[Event]) -> Outline:
    """The outline of a story."""
    facts, told = Facts(), list(events)
    for event in told:
        facts.happen(event)
    return Outline(
        tuple(event.kind for event in told),
        tuple(facts.mishaps),
        tuple(event.what for event in told if event.kind in ARRIVALS),
        tuple(event.thing for event in told if event.kind == "own"),
    )


def outline_of_text(text: str) -> Outline:
    """The outline of a text, as far as it is understood."""
    return outline(reading.event for _, reading in read_events(text) if reading and reading.event)


def beginning(events: Iterable[Event]) -> tuple[Event, ...]:
    """The events of a story up to its first mishap, and the mishap."""
    facts, taken = Facts(), []
    for event in events:
        taken.append(event)
        if facts.is_mishap(event):
            break
        facts.happen(event)
    return tuple(taken)


@cache
def first_mishaps() -> frozenset[str]:
    """The kinds of mishaps with which the trouble of a story may begin."""
    return frozenset(beginning(events)[-1].kind for events, _ in generated(1000, variety=PLAIN))


def generated(
    n: int, seed: int = SEED, variety: Variety = WHOLE
) -> Iterator[tuple[tuple[Event, ...], str]]:
    """Stories of the generator that are as long as those of the corpus: events and text."""
    for index in range(n):
        rng = np.random.Generator(np.random.PCG64([seed, index]))
        while True:
            events = simulate(rng, variety)
            text = tell(events, rng, variety)
            if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
                break
        yield events, text


def total_variation(first: Iterable[Hashable], second: Iterable[Hashable]) -> float:
    """How far two samples differ: 0 if each value has the same share in both, 1 if they have no value in common."""
    a, b = Counter(first), Counter(second)
    n_a, n_b = max(1, a.total()), max(1, b.total())
    return sum(abs(a[value] / n_a - b[value] / n_b) for value in a | b) / 2


def courses_in(texts: Iterable[str], wanted: Iterable[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Those of the wanted courses of events that some of the texts have.

    A sentence is read once for all sentences that differ only in words of one class, such as the names.
    """
    missing, found = set(wanted), set()
    kinds: dict[str, str] = {}
    for text in texts:
        if not missing:
            break
        course = []
        for sentence in split(text):
            general = "".join(CLASSES.get(word, word) for word in WORD.split(sentence))
            if general not in kinds:
                reading = read(sentence, Focus())
                kinds[general] = reading.form.kind if reading else ""
            course.append(kinds[general])
        if tuple(course) in missing:
            missing.remove(tuple(course))
            found.add(tuple(course))
    return found
