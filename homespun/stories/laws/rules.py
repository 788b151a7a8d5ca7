"""The rules for every event, of any kind: who and what is there, and what may happen at all.

An event flows in, its problems flow out. `Facts.happen` applies the rules in this order, before the law of the event.
"""

from homespun.stories.events import ARRIVALS, FUN, MOVES, OUTINGS, Event, Thing
from homespun.stories.laws.facts import SHOWS, Facts, rule
from homespun.stories.lexicon import CHORES, FOODS, HEIGHTS, SHELTERS, SPOTS, fits

MAX_MISHAPS = 3

EATING = frozenset({"feed", "gobble", "discover", "admit"})
"""The only events in which a food is the thing, besides owning, thanks and apologies."""


@rule
def ends_once(facts: Facts, event: Event) -> None:
    facts.need(not facts.ended, "the story goes on after its ending")


@rule
def begins_once(facts: Facts, event: Event) -> None:
    """Characters and belongings are introduced at the start, and nothing happens before somebody sets out."""
    if event.kind in ("intro", "live"):
        facts.need(not facts.people, "the story begins again")
    if event.kind in ("friend", "own", *OUTINGS):
        facts.need(not facts.out, "this belongs to the beginning of the story")
    if event.kind not in ("intro", "live", "friend", "own", *OUTINGS):
        facts.need(facts.out, "nobody has set out before")


@rule
def meets_known(facts: Facts, event: Event) -> None:
    """All people of the event are known, present, and of the kind that the event says."""
    if event.kind not in ARRIVALS:
        for name in event.who:
            facts.know(name)
    if event.whom:
        facts.know(event.whom)
    present = (*event.who, event.whom) if event.whom else event.who
    if event.kind not in ARRIVALS and len(present) > 1:
        here = facts.people[present[0]].place
        if event.kind != "follow":
            for name in present[1:]:
                facts.need(facts.people[name].place == here, "{} is not there", name)
        facts.need(len(set(present)) == len(present), "{} is there twice", present[0])
    for name, creature in event.called:
        if name in facts.people:
            facts.need(facts.people[name].creature == creature, "{} is not a {}", name, creature)


@rule
def handles_known(facts: Facts, event: Event) -> None:
    """The thing of the event is known, and as the event describes it."""
    noun = event.thing
    if not noun or event.kind == "own":
        return
    thing = facts.things.get(noun)
    if thing is None:
        facts.need(False, "there was no {} before", noun)
        owner = event.owner or next(iter((*event.who, event.whom)), "")
        thing = facts.things[noun] = Thing(event.colour, owner, owner)
    if event.colour:
        facts.need(event.colour == thing.colour, "the {} is {}", noun, thing.colour)
    if event.owner:
        facts.need(event.owner == thing.owner, "the {} belongs to {}", noun, thing.owner)
    if event.kind not in ("thank", "sorry"):
        facts.need((noun in FOODS) == (event.kind in EATING), "nobody does that with a {}", noun)


@rule
def is_there(facts: Facts, event: Event) -> None:
    """The place is where the people are, and has what the event says."""
    if not event.who or event.kind in ARRIVALS:
        return
    here = facts.people[event.who[0]].place
    if event.place and event.kind not in MOVES:
        facts.need(event.place == here, "{} is not in this place", event.who[0])
    for words in (event.spot, event.what):
        feature = next((t[words] for t in (SPOTS, HEIGHTS, SHELTERS, CHORES) if words in t), "")
        if feature and here:
            facts.need(fits(feature, here), "there is nothing like that at the {}", here)


@rule
def rests_in_trouble(facts: Facts, event: Event) -> None:
    """Nobody has fun, and nothing else goes wrong, while something is wrong."""
    if event.kind in FUN or facts.is_mishap(event):
        for matter in facts.troubles():
            facts.need(False, "this happens although {}", matter)
        quarrel = "unforgiven" in facts.wrongs.values()
        facts.need(not quarrel, "this happens although two have quarrelled")


@rule
def happens_once(facts: Facts, event: Event) -> None:
    """A kind of mishap happens once in a story, and an act once in a trouble."""
    if facts.is_mishap(event):
        facts.need(event.kind not in facts.mishaps, "that has happened before")
        facts.need(len(facts.mishaps) < MAX_MISHAPS, "too much happens in this story")
        facts.mishaps.append(event.kind)
        facts.since.clear()
    if event.kind in ("friend", "own", "learn", "happy", *ARRIVALS):
        return
    who = tuple(sorted(event.who))
    act = (event.kind, who, event.whom, event.thing, event.spot if event.kind == "look" else "")
    facts.need(act not in facts.since, "this happens twice")
    facts.since.add(act)


@rule
def keeps_vows(facts: Facts, event: Event) -> None:
    """Nobody does again what a lesson has taught not to do."""
    for name in event.who:
        facts.need(not facts.breaks_vow(event, name), "{} has learned better than that", name)


@rule
def acts_in_character(facts: Facts, event: Event) -> None:
    """Some acts need a trait."""
    trait = SHOWS.get(event.kind)
    if trait and event.who:
        name = event.who[0]
        facts.need(facts.people[name].trait == trait, "{} is not {}", name, trait)
