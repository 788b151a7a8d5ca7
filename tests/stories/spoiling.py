"""The common parts of all ways to spoil a story. These follow a reader who calls a story nonsense, not the laws of the
world.

Each takes the events of a true story and a random generator, and returns events (told anew, in words that fit) or a
text; None if the story does not have what is to be spoiled. Each result is nonsense by construction.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from homespun.stories.events import (
    ARRIVALS,
    CONCLUSION,
    MISHAPS,
    OUTINGS,
    Event,
)
from homespun.stories.judge import split
from homespun.stories.teller import tell

Option = TypeVar("Option")
Story = tuple[Event, ...]
Rng = np.random.Generator
Mutation = Callable[[Story, Rng], Sequence[Event] | str | None]

MUTATIONS: dict[str, Mutation] = {}

BEFORE_AFTER = {
    ("weather", "afraid"), ("weather", "shelter"), ("weather", "clear"), ("shelter", "clear"), ("afraid", "comfort"),
    ("fall", "tend"), ("chill", "warm"), ("tire", "carry"), ("thirst", "quench"), ("climb", "help_down"),
    ("apart", "invite"), ("hungry", "feed"), ("arrive", "guide"), ("arrive", "tend"), ("arrive", "warm"),
    ("arrive", "offer"), ("arrive", "tell"), ("tell", "offer"), ("lose", "look"), ("lose", "find"), ("look", "give_up"),
    ("ask", "offer"), ("offer", "mend"), ("offer", "wash"), ("offer", "stitch"), ("offer", "fish_out"),
    ("offer", "get_down"), ("offer", "find"), ("find", "show"), ("find", "give_back"), ("show", "give_back"),
    ("mend", "give_back"), ("wash", "give_back"), ("stitch", "give_back"), ("get_down", "give_back"),
    ("fetch", "give_back"), ("hide", "miss"), ("miss", "giggle"), ("miss", "confess"), ("confess", "fetch"),
    ("giggle", "confess"), ("ask_borrow", "lend"), ("ask_borrow", "refuse"), ("lend", "play"), ("lend", "give_back"),
    ("refuse", "sorry"), ("sorry", "forgive"), ("sorry", "unforgive"), ("forgive", "share"), ("walk_off", "follow"),
    ("walk_off", "lonely"), ("lonely", "follow"), ("follow", "sorry"), ("boast", "race"), ("race", "win"),
    ("win", "sorry"), ("promise", "forget"), ("forget", "wait"), ("forget", "remind"), ("wait", "remind"),
    ("remind", "sorry"), ("forgive", "keep"), ("wish", "busy"), ("busy", "ask_work"), ("ask_work", "shirk"),
    ("ask_work", "work"), ("busy", "work"), ("shirk", "toil"), ("shirk", "sorry"), ("work", "gift"), ("pity", "free"),
    ("gobble", "discover"), ("discover", "admit"), ("admit", "sorry"), ("set_out", "play"), ("mend", "thank"),
    ("wash", "thank"), ("stitch", "thank"), ("tend", "thank"), ("warm", "thank"), ("carry", "thank"),
    ("quench", "thank"), ("guide", "thank"), ("feed", "thank"), ("gift", "thank"), ("keep", "thank"),
    ("work", "thank"), ("help_down", "thank"), ("invite", "thank"), ("comfort", "thank"),
}  # fmt: skip
"""Kinds of neighbours of which the second can not come before the first, if both are about the same matter."""

ROLES = frozenset({
    "tell", "offer", "repay", "show", "confess", "give_back", "thank", "ask_borrow", "lend", "refuse",
    "cross", "sorry", "forgive", "unforgive", "share", "comfort", "feed", "tend", "guide", "help_down",
    "warm", "carry", "quench", "invite", "admit", "win", "wait", "remind", "keep", "wish", "ask_work", "work",
    "gift", "console", "cheer", "soothe", "own_up",
})  # fmt: skip
"""Kinds of events in which the one who does it can not be the one to whom it is done."""


CURES = frozenset({
    "get_down", "mend", "wash", "stitch", "fish_out", "find", "comfort", "feed", "tend", "guide", "help_down",
    "warm", "carry", "quench", "invite", "clear", "free", "win", "forgive", "unforgive", "keep", "gift",
    "lend", "refuse", "give_back", "fetch", "give_up", "ruin", "drift_off",
})  # fmt: skip
"""Kinds of events without which a trouble never ends."""


def mutation(function: Mutation) -> Mutation:
    MUTATIONS[function.__name__] = function
    return function


def pick(rng: Rng, options: Sequence[Option]) -> Option:
    return options[int(rng.integers(len(options)))]


def pick_or_none(rng: Rng, options: Sequence[Option]) -> Option | None:
    return pick(rng, options) if options else None


def where(story: Story, kinds: frozenset[str] | set[str]) -> list[int]:
    return [number for number, event in enumerate(story) if event.kind in kinds]


def first_mishap(story: Story) -> int:
    return where(story, MISHAPS | {"promise"})[0]


def conclusion(story: Story) -> int:
    return where(story, CONCLUSION)[0]


def told(story: Story, rng: Rng) -> list[str]:
    return split(tell(story, rng))


def outing(story: Story) -> Event:
    return story[where(story, OUTINGS)[0]]


def another(rng: Rng, options: Sequence[str], *used: str) -> str:
    return pick(rng, [option for option in options if option not in used])


def names(story: Story) -> list[str]:
    return [event.who[0] for event in story if event.kind in ARRIVALS]
