"""The cast flows in, and something goes wrong: all mishaps that are possible now, and the one that happens.

A trait makes those mishaps likelier in which it shows.
"""

from homespun.stories.events import Event
from homespun.stories.lexicon import (
    CLOTH,
    ERRANDS,
    FEATURES,
    FLOATING,
    FOODS,
    FRAGILE,
    HEIGHTS,
    IMPOSSIBLE,
    LIGHT,
    LIMBS,
    LIVELY,
    SMALL,
    THROWN,
    WASHABLE,
    WEATHER,
    fits,
)
from homespun.stories.world.cast import Cast

Mishap = tuple[str, str, str]
"""Kind of event, person, and thing (empty if there is none)."""
STRIKING = 6
"""How much likelier a mishap is to which somebody's trait leads."""
RARE = frozenset({"ask_borrow", "break", "gobble", "hide", "promise", "stray"})
"""Such mishaps that depend on more than a trait, so that they are likelier still."""
FAULTY = frozenset({
    "leave_behind", "break", "hide", "gobble", "boast", "promise", "apart", "stray", "climb", "pity",
})  # fmt: skip
"""Mishaps to which a trait leads."""


def possible_mishaps(cast: Cast) -> dict[str, Mishap]:
    """All kinds of mishaps that are possible here and have not happened before, each with one of its cases.

    A kind to which somebody's fault leads is likelier; it occurs under several keys.
    """
    facts, hero = cast.facts, cast.hero
    friend = cast.friend_of(hero)
    here = [hero, friend] if friend else [hero]
    cases: list[Mishap] = []
    for name, other in zip(here, reversed(here), strict=True):
        cases += mishaps_of(cast, name, other if friend else "")
    for noun, thing in facts.things.items():
        if thing.owner in here and thing.state == "fine" and (noun,) not in cast.considered:
            other = (hero if thing.owner == friend else friend) if friend else ""
            cases += mishaps_with(cast, noun, thing.owner, other)
    by_kind: dict[str, list[Mishap]] = {}
    for mishap in cases:
        kind, name, noun = mishap
        if cast.facts.breaks_vow(Event(kind, thing=noun), name):
            continue
        allowed = cast.dice.variety.mishaps
        if (kind,) not in cast.considered and (allowed is None or kind in allowed):
            by_kind.setdefault(kind, []).append(mishap)
    return {
        f"{kind} {n}": cast.dice.choose(options)
        for kind, options in by_kind.items()
        for n in range(weight(cast, *options[0]))
    }


def weight(cast: Cast, kind: str, name: str, noun: str) -> int:
    if not is_striking(cast, kind, name, noun):
        return 1
    return 3 * STRIKING if kind in RARE else STRIKING


def is_striking(cast: Cast, kind: str, name: str, noun: str) -> bool:
    """Whether a trait leads to this mishap."""
    owner = cast.facts.things[noun].owner if noun else ""
    match kind:
        case "ask_borrow":
            return cast.trait(owner) == "greedy" or cast.trait(name) == "honest"
        case "lose":
            return "patient" in (cast.trait(name), cast.trait(cast.friend_of(name)))
        case "drop" | "toss" | "tear" | "soil":
            return cast.trait(cast.friend_of(name)) == "clever"
        case "busy":
            return cast.trait(cast.friend_of(name)) == "lazy"
        case "weather":
            return cast.trait(name) == "timid"
    return kind in FAULTY


def mishaps_of(cast: Cast, name: str, other: str) -> list[Mishap]:
    """The mishaps that can happen to somebody, with what the fault of this person leads to first."""
    trait = cast.trait(name)
    kinds = [cast.dice.choose(("fall", "chill", "tire", "thirst"))]
    kinds += ["weather"] if trait == "timid" or cast.dice.chance(0.3) else []
    if trait == "daring" and cast.here(HEIGHTS):
        kinds.append("climb")
    if trait == "gentle":
        kinds.append("pity")
    if other:
        faults = {"proud": "boast", "forgetful": "promise"}
        kinds += [faults[trait]] if trait in faults else []
        if trait == "shy" and LIVELY & FEATURES[cast.facts.scene]:
            kinds.append("apart")
        if cast.trait(other) == "lazy" or cast.dice.chance(0.3):
            kinds.append("busy")
    else:
        kinds.append("stray" if trait == "curious" else "astray")
    return [(kind, name, "") for kind in kinds]


def mishaps_with(cast: Cast, noun: str, owner: str, other: str) -> list[Mishap]:
    if noun in FOODS:
        if not other:
            return []
        fed = cast.facts.people[other]
        mine = any(t.owner == other and food in FOODS for food, t in cast.facts.things.items())
        kinds = [] if mine else ["hungry"]
        kinds += ["gobble"] if fed.trait == "greedy" else []
        return [(kind, other, noun) for kind in kinds]
    careless = cast.trait(owner) == "careless"
    ways = {
        "leave_behind": careless,
        "lose": not careless,
        "break": careless and noun in FRAGILE,
        "drop": not careless and noun in FRAGILE,
        "blow_away": noun in LIGHT,
        "toss": noun in THROWN and cast.here(HEIGHTS),
        "soil": noun in WASHABLE,
        "tear": noun in CLOTH,
        "float": noun in FLOATING and fits("water", cast.facts.scene),
    }
    cases = [(kind, owner, noun) for kind, possible in ways.items() if possible]
    if other:
        kinds = ["ask_borrow", "wish"]
        kinds += ["hide"] if cast.trait(other) == "cheeky" else []
        cases += [(kind, other, noun) for kind in kinds]
    return cases


def suffer(cast: Cast, kind: str, name: str, noun: str) -> bool:
    dice = cast.dice
    cast.considered |= {(kind,), (noun,)}
    match kind:
        case "lose" | "leave_behind":
            cast.put_away(noun)
            return cast.do(kind, name, thing=noun)
        case "blow_away":
            cast.put_away(noun)
            return cast.do(kind, thing=noun)
        case "hide":
            spot = cast.put_away(noun)
            owner = cast.facts.things[noun].owner
            return cast.do(kind, name, whom=owner, thing=noun, spot=spot)
        case "toss":
            return cast.do(kind, name, thing=noun, spot=dice.word(cast.here(HEIGHTS)))
        case "ask_borrow" | "wish":
            return cast.do(kind, name, whom=cast.facts.things[noun].owner, thing=noun)
        case "weather":
            return storm(cast, name)
        case "fall":
            return cast.do(kind, name, what=dice.word(LIMBS))
        case "climb":
            return cast.do(kind, name, spot=dice.word(cast.here(HEIGHTS)))
        case "boast":
            return cast.do(kind, name, whom=cast.friend_of(name))
        case "promise":
            cast.do(kind, name, whom=cast.friend_of(name), what=dice.word(tuple(ERRANDS)))
            return cast.do("forget", name)
        case "busy":
            return cast.do(kind, name, what=cast.chore())
        case "pity":
            return cast.do(kind, name, what=dice.word(SMALL))
        case "hungry":
            return cast.do(kind, name)
        case _:
            return cast.do(kind, name, thing=noun)


def storm(cast: Cast, name: str) -> bool:
    excluded = [w for word in cast.facts.day.split() for w in IMPOSSIBLE.get(word, ())]
    weather = cast.dice.word([weather for weather in WEATHER if weather not in excluded])
    cast.do("weather", what=weather)
    return cast.trait(name) != "timid" or cast.do("afraid", name, what=weather)
