"""Ways to spoil a story, drawn up without a look at the laws of the world: as a reader would say that it is nonsense.

Each takes the events of a true story and a random generator, and returns events (told anew, in words that fit) or a
text; None if the story does not have what is to be spoiled. Each result is nonsense by construction.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np

from homespun.stories.events import (
    ARRIVALS,
    CONCLUSION,
    ENDINGS,
    MISHAPS,
    OUTINGS,
    Event,
)
from homespun.stories.judge import split
from homespun.stories.lexicon import (
    ANIMALS,
    COLOURS,
    FEATURES,
    FOODS,
    HEIGHTS,
    NAMES,
    PLACES,
    SHELTERS,
    SPOTS,
    TASTES_OF,
    TOYS,
    fits,
)
from homespun.stories.teller import tell
from homespun.stories.world import simulate

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


# Loops.


@mutation
def sentence_doubled(story: Story, rng: Rng) -> str:
    sentences = told(story, rng)
    number = int(rng.integers(len(sentences)))
    return " ".join([*sentences[: number + 1], *sentences[number:]])


@mutation
def sentence_again_later(story: Story, rng: Rng) -> str:
    sentences = told(story, rng)
    number = int(rng.integers(len(sentences) - 3))
    return " ".join([*sentences[: number + 3], sentences[number], *sentences[number + 3 :]])


@mutation
def one_sentence_often(story: Story, rng: Rng) -> str:
    sentences = told(story, rng)
    number = int(rng.integers(1, len(sentences) - 1))
    return " ".join(sentences[:number] + [sentences[number]] * 12 + sentences[number + 1 :])


@mutation
def said_three_times(story: Story, rng: Rng) -> Sequence[Event]:
    """The same event in three wordings."""
    number = int(rng.integers(first_mishap(story), conclusion(story)))
    return (*story[:number], *[story[number]] * 3, *story[number + 1 :])


@mutation
def trouble_twice(story: Story, rng: Rng) -> Sequence[Event]:
    """All that goes wrong goes wrong a second time."""
    middle = story[first_mishap(story) : conclusion(story)]
    return (*story[: conclusion(story)], *middle, *story[conclusion(story) :])


@mutation
def wanders_about(story: Story, rng: Rng) -> Sequence[Event]:
    number = where(story, OUTINGS)[0]
    there = outing(story)._replace(kind="set_out", thing="")
    one, two = there._replace(place="hill"), there._replace(place="park")
    return (*story[: number + 1], *[one, two] * 3, *story[number + 1 :])


# Parts that are missing.


@mutation
def middle_removed(story: Story, rng: Rng) -> Sequence[Event]:
    """Something goes wrong, and the next that one hears is the ending."""
    return (*story[: first_mishap(story) + 1], *story[conclusion(story) :])


@mutation
def cure_removed(story: Story, rng: Rng) -> Sequence[Event] | None:
    """The event that ended the trouble is missing."""
    numbers = where(story, CURES)
    if not numbers:
        return None
    number = pick(rng, numbers)
    return (*story[:number], *story[number + 1 :])


@mutation
def mishap_removed(story: Story, rng: Rng) -> Sequence[Event] | None:
    """All act as if something had gone wrong, but nothing has."""
    number = first_mishap(story)
    return (*story[:number], *story[number + 1 :])


@mutation
def outing_removed(story: Story, rng: Rng) -> Sequence[Event]:
    return [event for event in story if event.kind not in OUTINGS]


@mutation
def hero_not_introduced(story: Story, rng: Rng) -> Sequence[Event] | None:
    return story[1:] if len(names(story)) == 1 else [e for e in story if e.kind != "friend"][1:]


@mutation
def apology_removed(story: Story, rng: Rng) -> Sequence[Event] | None:
    numbers = where(story, {"sorry"})
    return [event for n, event in enumerate(story) if n != numbers[0]] if numbers else None


@mutation
def beginning_and_ending_only(story: Story, rng: Rng) -> Sequence[Event]:
    return (*story[: first_mishap(story)], story[-1])


@mutation
def two_sentences(story: Story, rng: Rng) -> Sequence[Event]:
    return (story[0], story[-1])


@mutation
def no_ending(story: Story, rng: Rng) -> Sequence[Event]:
    return story[:-1]


# Things in the wrong order.


@mutation
def neighbours_swapped(story: Story, rng: Rng) -> Sequence[Event] | None:
    options = [
        n
        for n, (first, second) in enumerate(pairwise(story))
        if (first.kind, second.kind) in BEFORE_AFTER
        and (not (first.thing and second.thing) or first.thing == second.thing)
        and (second.kind != "thank" or second.what == first.kind)
    ]
    if not options:
        return None
    n = pick(rng, options)
    return (*story[:n], story[n + 1], story[n], *story[n + 2 :])


@mutation
def ending_moved(story: Story, rng: Rng) -> Sequence[Event]:
    number = int(rng.integers(1, len(story) - 2))
    return (*story[:number], story[-1], *story[number:-1])


@mutation
def lesson_first(story: Story, rng: Rng) -> Sequence[Event] | None:
    numbers = where(story, {"learn"})
    if not numbers:
        return None
    lesson, number = story[numbers[0]], first_mishap(story)
    rest = [event for event in story if event is not lesson]
    return (*rest[:number], lesson, *rest[number:])


@mutation
def lesson_while_it_happens(story: Story, rng: Rng) -> Sequence[Event] | None:
    """The lesson is learned right after the mishap, before anybody does anything about it."""
    numbers = where(story, {"learn"})
    if not numbers or sum(event.kind in MISHAPS for event in story) != 1:
        return None
    lesson, number = story[numbers[0]], first_mishap(story) + 1
    rest = [event for event in story if event is not lesson]
    return (*rest[:number], lesson, *rest[number:])


@mutation
def belonging_late(story: Story, rng: Rng) -> Sequence[Event] | None:
    """A thing is introduced after all that happens with it."""
    numbers = where(story, {"own"})
    if not numbers:
        return None
    own = story[pick(rng, numbers)]
    rest = [event for event in story if event is not own]
    return (*rest[:-1], own, rest[-1])


@mutation
def friend_late(story: Story, rng: Rng) -> Sequence[Event] | None:
    numbers = where(story, {"friend"})
    if not numbers:
        return None
    friend = story[numbers[0]]
    rest = [event for event in story if event is not friend]
    number = where(tuple(rest), OUTINGS)[0] + 1
    return (*rest[:number], friend, *rest[number:])


# Sentences that belong elsewhere.


@mutation
def foreign_sentence(story: Story, rng: Rng) -> str:
    """A sentence of another story, about somebody who does not occur in this one."""
    sentences = told(story, rng)
    text = " ".join(sentences)
    while True:
        strange = told(simulate(rng), rng)
        strange = [
            s
            for s in strange
            if any(n in s and n not in text for n in NAMES) and "There was" not in s
        ]
        if strange:
            break
    number = int(rng.integers(1, len(sentences)))
    return " ".join([*sentences[:number], pick(rng, strange), *sentences[number:]])


@mutation
def half_of_another(story: Story, rng: Rng) -> str:
    """The first half of one story, the second half of another with other people."""
    first = told(story, rng)
    while True:
        other = simulate(rng)
        if not set(names(other)) & set(names(story)):
            break
    second = told(other, rng)
    return " ".join(first[: len(first) // 2] + second[len(second) // 2 :])


@mutation
def begins_again(story: Story, rng: Rng) -> Sequence[Event]:
    name = another(rng, NAMES, *names(story))
    number = int(rng.integers(first_mishap(story), len(story)))
    start = Event("intro", (name,), what=pick(rng, ANIMALS), trait="kind")
    return (*story[:number], start, *story[number:])


@mutation
def sunny_day_in_a_storm(story: Story, rng: Rng) -> Sequence[Event] | None:
    numbers = where(story, {"weather"})
    if not numbers:
        return None
    number = numbers[0] + 1
    place = another(rng, tuple(PLACES), *(event.place for event in story))
    trip = Event("set_out", outing(story).who, place=place, time="One sunny day")
    return (*story[:number], trip, *story[number:])


@mutation
def snow_in_the_heat(story: Story, rng: Rng) -> Sequence[Event] | None:
    if not any(event.kind == "weather" and event.what in ("snow", "hail") for event in story):
        return None
    return [e._replace(time="One hot afternoon") if e.kind in OUTINGS else e for e in story]


@mutation
def trip_in_trouble(story: Story, rng: Rng) -> Sequence[Event]:
    number = first_mishap(story) + 1
    place = another(rng, tuple(PLACES), *(event.place for event in story))
    trip = Event("go_on", outing(story).who, place=place, time="After that")
    return (*story[:number], trip, *story[number:])


@mutation
def fun_in_trouble(story: Story, rng: Rng) -> Sequence[Event] | None:
    """They play in the middle of their trouble."""
    number = first_mishap(story) + 1
    owned = [event for event in story[:number] if event.kind == "own" and event.thing in TOYS]
    if not owned or story[number - 1].kind in ("promise", "ask_borrow"):
        return None
    toy = pick(rng, owned)
    fun = Event("play", toy.who, thing=toy.thing, owner=toy.owner, place=story[number - 1].place)
    fun = fun._replace(place=outing(story).place)
    return (*story[:number], fun, *story[number:])


@mutation
def happy_in_trouble(story: Story, rng: Rng) -> Sequence[Event] | None:
    number = first_mishap(story)
    who = story[number].who
    if len(who) != 1 or story[number].kind in ("promise", "hide", "gobble", "ask_borrow", "busy"):
        return None
    return (*story[: number + 1], Event("happy", who), *story[number + 1 :])


# People and things.


@mutation
def names_swapped(story: Story, rng: Rng) -> Sequence[Event] | None:
    """One who helps, asks or thanks changes places with the other."""
    numbers = [n for n in where(story, ROLES) if len(story[n].who) == 1 and story[n].whom]
    if not numbers:
        return None
    number = pick(rng, numbers)
    event = story[number]
    swapped = event._replace(who=(event.whom,), whom=event.who[0])
    return (*story[:number], swapped, *story[number + 1 :])


@mutation
def another_name_from_here_on(story: Story, rng: Rng) -> str:
    sentences = told(story, rng)
    old = names(story)[0]
    new = another(rng, NAMES, *names(story))
    number = int(rng.integers(2, len(sentences) - 1))
    rest = " ".join(sentences[number:])
    if old not in rest:
        rest += f" {old} went home with a smile."
    return " ".join(sentences[:number]) + " " + re.sub(rf"\b{old}\b", new, rest)


@mutation
def toy_becomes_food(story: Story, rng: Rng) -> Sequence[Event] | None:
    toys = [event.thing for event in story if event.kind == "own" and event.thing in TOYS]
    if not toys:
        return None
    toy = pick(rng, toys)
    food = pick(rng, FOODS)
    taste = pick(rng, TASTES_OF[food])
    return [
        e._replace(thing=food, colour=taste, what="food" if e.kind == "own" else e.what)
        if e.thing == toy
        else e
        for e in story
    ]


@mutation
def food_becomes_toy(story: Story, rng: Rng) -> Sequence[Event] | None:
    foods = [event.thing for event in story if event.kind == "own" and event.thing in FOODS]
    if not foods:
        return None
    toy = another(rng, TOYS, *(event.thing for event in story))
    colour = pick(rng, COLOURS)
    return [
        e._replace(thing=toy, colour=colour, what="" if e.kind == "own" else e.what)
        if e.thing == foods[0]
        else e
        for e in story
    ]


@mutation
def thing_changes(story: Story, rng: Rng) -> Sequence[Event] | None:
    """A toy is another one in one sentence."""
    toys = [n for n, event in enumerate(story) if event.thing in TOYS and event.kind != "own"]
    toys = [n for n in toys if story[n].kind not in ENDINGS | {"idea", "thank"}]
    if not toys:
        return None
    number = pick(rng, toys)
    other = another(rng, TOYS, *(event.thing for event in story))
    return (*story[:number], story[number]._replace(thing=other), *story[number + 1 :])


@mutation
def too_many_things(story: Story, rng: Rng) -> Sequence[Event]:
    """A row of presents, and nothing comes of them."""
    number = where(story, OUTINGS)[0]
    used = {event.thing for event in story}
    toys = [toy for toy in TOYS if toy not in used][:3]
    hero = (names(story)[0],)
    gifts = [Event("own", hero, thing=toy, colour="red", owner=hero[0]) for toy in toys]
    return (*story[:number], *gifts, *story[number:])


@mutation
def friend_who_does_nothing(story: Story, rng: Rng) -> Sequence[Event]:
    hero = names(story)[0]
    name = another(rng, NAMES, *names(story))
    extra = Event("friend", (name,), whom=hero, what=pick(rng, ANIMALS), trait="kind")
    return (story[0], extra, *story[1:])


@mutation
def creature_changes(story: Story, rng: Rng) -> str | None:
    text = tell(story, rng)
    known = [(e.who[0], e.what) for e in story if e.kind in ARRIVALS]
    options = [(name, what) for name, what in known if f"{name} the {what}" in text]
    if not options:
        return None
    name, what = pick(rng, options)
    return text.replace(f"{name} the {what}", f"{name} the {another(rng, ANIMALS, what)}")


@mutation
def trait_changes(story: Story, rng: Rng) -> Sequence[Event] | None:
    """Somebody is introduced with another trait than the one that shows."""
    options = [n for n, event in enumerate(story) if event.kind in ARRIVALS and event.trait]
    if not options:
        return None
    number = pick(rng, options)
    other = another(rng, ("kind", "greedy", "proud", "patient", "cheeky"), story[number].trait)
    return (*story[:number], story[number]._replace(trait=other), *story[number + 1 :])


# Places.


@mutation
def place_does_not_fit(story: Story, rng: Rng) -> Sequence[Event] | None:
    """A spot, height, shelter or chore that does not exist at the place of the outing."""
    features = SPOTS | HEIGHTS | SHELTERS
    spots = [
        e.spot for e in story if e.spot and e.kind in ("look", "find", "hide", "toss", "shelter")
    ]
    if not spots or any(event.kind in ("go_on", "walk_off") for event in story):
        return None
    feature = features[pick(rng, spots)]
    here = outing(story).place
    wrong = [place for place in FEATURES if not fits(feature, place)]
    if story[0].place in wrong:
        wrong.remove(story[0].place)
    place = pick(rng, wrong)
    return [e._replace(place=place) if e.place == here else e for e in story]


@mutation
def somewhere_else(story: Story, rng: Rng) -> str | None:
    """One sentence says that it happens at another place."""
    sentences = told(story, rng)
    here = outing(story).place
    number = where(story, OUTINGS)[0]
    later = [
        n
        for n, sentence in enumerate(sentences)
        if n > number and PLACES[here] in sentence and story[n].kind != "go_on"
    ]
    if not later:
        return None
    n = pick(rng, later)
    other = another(rng, tuple(PLACES), *(event.place for event in story))
    sentences[n] = sentences[n].replace(PLACES[here], PLACES[other])
    return " ".join(sentences)


@mutation
def found_where_it_was_not(story: Story, rng: Rng) -> Sequence[Event] | None:
    """A thing is found at a spot that was searched in vain."""
    looks, finds = where(story, {"look"}), where(story, {"find"})
    if (
        not looks
        or not finds
        or looks[0] > finds[0]
        or story[looks[0]].thing != story[finds[0]].thing
    ):
        return None
    number = finds[0]
    found = story[number]._replace(spot=story[looks[0]].spot)
    rest = [e for e in story[number + 1 :] if e.kind != "show"]
    return (*story[:number], found, *rest)


@mutation
def one_is_left_behind(story: Story, rng: Rng) -> Sequence[Event] | None:
    """Only one goes on the outing, and the other is there all the same."""
    number = where(story, OUTINGS)[0]
    if len(story[number].who) != 2:
        return None
    alone = story[number]._replace(who=(story[number].who[0],))
    return (*story[:number], alone, *story[number + 1 :])


# Knowledge.


@mutation
def searches_what_was_betrayed(story: Story, rng: Rng) -> Sequence[Event] | None:
    """Somebody says where a thing is hidden, and the other looks elsewhere."""
    numbers = where(story, {"confess"})
    if not numbers:
        return None
    said = story[numbers[0]]
    spots = [s for s in SPOTS if fits(SPOTS[s], said.place) and s not in [e.spot for e in story]]
    if not spots:
        return None
    look = said._replace(kind="look", who=(said.whom,), whom="", spot=pick(rng, spots))
    number = numbers[0] + 1
    return (*story[:number], look, *story[number:])


@mutation
def thanks_for_nothing(story: Story, rng: Rng) -> Sequence[Event] | None:
    """Thanks before anything has happened."""
    people = names(story)[:2]
    if len(people) < 2 or any(event.kind == "arrive" for event in story):
        return None
    number = first_mishap(story)
    what = pick(rng, ("help", "tend", "comfort", "guide"))
    thanks = Event("thank", (people[0],), whom=people[1], what=what, place=outing(story).place)
    return (*story[:number], thanks, *story[number:])


@mutation
def every_sentence_a_paragraph(story: Story, rng: Rng) -> str:
    return "\n\n\n".join(told(story, rng))
