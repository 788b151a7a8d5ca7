"""The cast flows in, and the events of the beginning are added to it, or those of the way to the next place.

Traits and belongings are drawn so that they can play a part later.
"""

from homespun.stories.lexicon import FAULTS, LATER, TIMES, TOYS, VIRTUES, hour
from homespun.stories.world.cast import Cast

ALONE = ("careless", "timid", "curious", "daring", "gentle", "patient")
"""The traits of a hero without a friend."""


def begin(cast: Cast) -> None:
    dice = cast.dice
    befriended = dice.chance(0.75)
    owners = dice.choose(("hero", "hero", "friend", "both") if befriended else ("hero",))
    later = dice.chance(0.4)
    traits = fitting(cast, befriended, owners in ("hero", "both"), owners in ("friend", "both"))
    cast.hero = hero = cast.newcomer("live" if dice.chance(0.4) else "intro", traits=traits)
    if owners != "friend" and not later:
        cast.own(hero)
    friend = ""
    if befriended:
        traits = fitting(cast, True, owners in ("friend", "both"), owners in ("hero", "both"))
        friend = cast.newcomer("friend", whom=hero, traits=traits)
    if owners in ("friend", "both"):
        cast.own(friend)
    if owners != "friend" and later:
        cast.own(hero)
    group = [hero, friend] if friend else [hero]
    if dice.chance(0.4):
        greedy = [name for name in group if cast.trait(name) == "greedy"] or [dice.choose(group)]
        cast.own(next((name for name in group if name not in greedy), hero), food=True)
    toy = dice.choose([noun for noun in cast.facts.things if noun in TOYS])
    owner = cast.facts.things[toy].owner
    place, time = cast.elsewhere(hero), dice.word(TIMES)
    if dice.chance(0.3):
        first, *others = sorted(group, key=lambda name: name != owner)
        cast.do("take", first, *others, thing=toy, place=place, time=time)
    else:
        cast.do("set_out", *group, place=place, time=time)
    if dice.chance(0.3):
        cast.do("play", *cast.players(owner), thing=toy)


def fitting(cast: Cast, befriended: bool, owns: bool, other_owns: bool) -> tuple[str, ...]:
    """The traits that can show, more or less: most faults need somebody else, and some need a toy."""
    if not befriended:
        return ALONE
    excluded = {"curious"}
    if not owns:
        excluded |= {"careless", "greedy"}
    if not other_owns:
        excluded |= {"cheeky", "honest"}
    traits = FAULTS if cast.dice.chance(0.6) else VIRTUES
    return tuple(trait for trait in traits if trait not in excluded)


def go_on(cast: Cast) -> None:
    """All go to another place before the next mishap."""
    group = cast.facts.at(cast.facts.people[cast.hero].place)
    if cast.facts.open_matters() or cast.quarrelled():
        return
    times = [time for time in LATER if not hour(time) or hour(time) > cast.facts.hour]
    place = cast.elsewhere(cast.hero)
    cast.do("go_on", *group, place=place, time=cast.dice.word(times))
