"""The cast flows in, and somebody looks after a person who is not well, or all wait for better weather.

Each function takes one step and says whether there was one.
"""

from homespun.stories.events import AILMENTS, Person
from homespun.stories.lexicon import FOODS, SHELTERS
from homespun.stories.world.cast import Cast

SORE = frozenset({"afraid", "fall", "chill", "tire", "thirst"})
"""Troubles in which a gentle character soothes another."""


def look_after(cast: Cast, name: str, person: Person) -> bool:
    """Take a step for somebody who is afraid, hungry, hurt, lost, cold, tired, thirsty or shy."""
    ailment = person.ailment
    friend = cast.friend_of(name)
    if cast.once(0.4, "sad", name, ailment):
        return cast.do("sad", name)
    if not friend:
        return cast.passer_by()
    if cast.once(0.25, "ask", name, ailment):
        return cast.do("ask", name, whom=friend)
    if show_virtue(cast, friend, name, name, ailment):
        return True
    scary = ailment in ("afraid", "astray", "stray", "climb")
    if scary and cast.trait(friend) == "brave" and cast.once(0.9, "dare", ailment):
        return cast.do("dare", friend)
    helped = AILMENTS[ailment]
    match ailment:
        case "afraid":
            return cast.do(helped, friend, whom=name, what=cast.facts.weather)
        case "hungry":
            things = cast.facts.things.items()
            food = next(noun for noun, t in things if t.owner == friend and noun in FOODS)
            return cast.do(helped, friend, whom=name, thing=food)
        case _:
            return cast.do(helped, friend, whom=name, what=person.limb)


def show_virtue(cast: Cast, name: str, sad: str, *matter: str) -> bool:
    """`name` may show a virtue to somebody who is in trouble."""
    match cast.trait(name):
        case "kind" | "cheerful" as trait:
            happy = cast.facts.in_trouble(name) or not cast.facts.in_trouble(sad)
            if not happy and cast.once(0.8, trait, *matter):
                return cast.do("console" if trait == "kind" else "cheer", name, whom=sad)
        case "gentle":
            if matter[-1] in SORE and cast.once(0.8, "gentle", *matter):
                return cast.do("soothe", name, whom=sad)
    return False


def sit_out(cast: Cast, weather: str) -> bool:
    everyone = cast.facts.at(cast.facts.scene)
    dry = [
        phrase
        for phrase in cast.here(SHELTERS)
        if weather != "thunder" or SHELTERS[phrase] != "trees"
    ]
    if dry and cast.once(0.9, "shelter", weather):
        return cast.do("shelter", *everyone, what=weather, spot=cast.dice.choose(dry))
    return cast.do("clear", what=weather)
