"""The events of which a story consists, and the facts that they leave behind."""

from dataclasses import dataclass, field
from typing import NamedTuple

HOME = ""
"""The initial place of every character."""


class Event(NamedTuple):
    """An event. If it is simulated, it has all fields that apply; if it is read, it has those that the text states."""

    kind: str
    who: tuple[str, ...] = ()
    whom: str = ""
    thing: str = ""
    colour: str = ""
    """The colour of a toy, the taste of a food."""
    owner: str = ""
    place: str = ""
    spot: str = ""
    """Where a thing lies or is stuck, or where somebody waits or is stuck."""
    what: str = ""
    """Depends on the kind of the event; see `WHATS`."""
    trait: str = ""
    time: str = ""
    """When an outing begins or goes on, a phrase of `lexicon.TIMES` or `lexicon.LATER`."""
    called: tuple[tuple[str, str], ...] = ()
    """The pairs of name and creature in phrases such as "Lily the pig"."""


WHATS = {
    "the creature": ("intro", "live", "friend", "arrive"),
    "'food' if the thing is a food": ("own",),
    "the state of the thing": ("tell", "offer"),
    "the state that the thing got into, or the kind of the wrong": ("sorry",),
    "the kind of the good deed": ("thank",),
    "the weather": ("weather", "afraid", "shelter", "comfort", "clear"),
    "the part of the body": ("fall", "tend"),
    "the promised errand, a key of `lexicon.ERRANDS`": ("promise", "keep"),
    "the chore": ("busy", "ask_work", "shirk", "toil", "work"),
    "the small animal": ("pity", "free"),
    "the lesson": ("learn",),
}
"""The meaning of `Event.what`, with the kinds of events that have it. It is empty in all others."""

ARRIVALS = frozenset({"intro", "live", "friend", "arrive"})
BEGINNING = frozenset({"intro", "live", "friend", "own", "set_out", "take", "play"})
MOVES = frozenset({"intro", "live", "set_out", "take", "go_on", "walk_off", "follow"})
"""The place of these events is the destination."""
OUTINGS = frozenset({"set_out", "take"})
ENDINGS = frozenset(
    {"end_play", "end_home", "end_friends", "end_sleep", "end_without", "end_apart"}
)
CONCLUSION = ENDINGS | {"happy", "learn"}
FUN = frozenset({"set_out", "take", "go_on", "play"})

HARMS = {
    "lose": "lost",
    "leave_behind": "lost",
    "blow_away": "lost",
    "hide": "hidden",
    "toss": "stuck",
    "drop": "broken",
    "break": "broken",
    "soil": "muddy",
    "tear": "torn",
    "float": "adrift",
}
"""Mishaps with a thing, and the state that it gets into."""
REMEDIES = {
    "stuck": "get_down",
    "broken": "mend",
    "muddy": "wash",
    "torn": "stitch",
    "adrift": "fish_out",
}
"""The event that ends each of these states."""
TROUBLES = frozenset(HARMS.values())
AILMENTS = {
    "afraid": "comfort",
    "hungry": "feed",
    "fall": "tend",
    "astray": "guide",
    "stray": "guide",
    "climb": "help_down",
    "chill": "warm",
    "tire": "carry",
    "thirst": "quench",
    "apart": "invite",
}
"""Troubles of a person, and the event that ends each."""
MISHAPS = (
    frozenset(HARMS)
    | frozenset(AILMENTS) - {"afraid"}
    | {"weather", "ask_borrow", "gobble", "boast", "forget", "wish", "busy", "pity"}
)
"""A story has one to three of these, each kind once."""


@dataclass(slots=True)
class Person:
    creature: str
    trait: str
    place: str
    ailment: str = ""
    """The kind of the event that began a trouble of the person, a key of `AILMENTS`."""
    limb: str = ""
    """The part of the body that hurts."""
    chore: str = ""
    asked: str = ""
    """The person who was asked to help with the chore."""
    wish: str = ""
    earned: str = ""
    """The person for whom the one who wishes has worked since."""
    promise: str = ""
    """The errand that the person has promised."""
    promised: str = ""
    """The person to whom it was promised."""
    forgot: bool = False
    troubled: bool = False
    """Whether the person has had a reason to be sad, and was not happy since."""
    vows: set[str] = field(default_factory=set)
    """The lessons that the person has learned."""
    plays_part: bool = False
    shown: bool = False
    """Whether the trait has shown."""


@dataclass(slots=True)
class Thing:
    colour: str
    owner: str
    holder: str
    state: str = "fine"
    """One of fine, lost, hidden, stuck, broken, muddy, torn, adrift, gone, ruined and eaten."""
    spot: str = ""
    """The spot at which it is stuck or hidden, or was found."""
    known: list[str] = field(default_factory=list)
    """The people who know of its trouble."""
    told_spot: bool = False
    """Whether the owner knows where it is hidden."""
    helping: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """The people who tried in vain."""
    looked: list[str] = field(default_factory=list)
    asked: str = ""
    """The person who has asked to borrow it."""
    plays_part: bool = False


class Wrong(NamedTuple):
    """A wrong that somebody has done and has to apologise for."""

    culprit: str
    what: str
    """`refuse`, `gobble`, `boast`, `forget` or `shirk`, or the state that the thing got into."""
    victim: str
    thing: str = ""


class Deed(NamedTuple):
    """A good deed that somebody can be thanked for."""

    helper: str
    what: str
    helped: str
    thing: str = ""
