"""Stories with a nonsensical course: loops, parts that are missing or in the wrong order, sentences from elsewhere."""

from collections.abc import Sequence
from itertools import pairwise

from homespun.stories.events import (
    MISHAPS,
    OUTINGS,
    Event,
)
from homespun.stories.lexicon import (
    ANIMALS,
    NAMES,
    PLACES,
    TOYS,
)
from homespun.stories.world import simulate
from tests.stories.spoiling import (
    BEFORE_AFTER,
    CURES,
    Rng,
    Story,
    another,
    conclusion,
    first_mishap,
    mutation,
    names,
    outing,
    pick,
    told,
    where,
)

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
