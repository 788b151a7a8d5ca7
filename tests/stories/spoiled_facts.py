"""Stories with nonsensical facts: people, things, places, and who knows which of them."""

import re
from collections.abc import Sequence

from homespun.stories.events import (
    ARRIVALS,
    ENDINGS,
    OUTINGS,
    Event,
)
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
from tests.stories.spoiling import (
    ROLES,
    Rng,
    Story,
    another,
    first_mishap,
    mutation,
    names,
    outing,
    pick,
    told,
    where,
)

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
