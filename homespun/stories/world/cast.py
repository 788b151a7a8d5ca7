"""The dice flow in, the events of one story flow out, each checked by the laws. The other modules decide on them.

The cast keeps the facts, the events so far and the secrets, and answers the questions that all these modules ask.
"""

from typing import Any

from homespun.stories.dice import Dice
from homespun.stories.events import HOME, Event
from homespun.stories.laws import Facts
from homespun.stories.lexicon import (
    CHILDREN,
    CHORES,
    COLOURS,
    CREATURES,
    FEATURES,
    FOODS,
    HEIGHTS,
    LIVELY,
    MIXED_NAMES,
    NAMES,
    PLACES,
    SPOTS,
    TASTES_OF,
    TOYS,
    VIRTUES,
    fits,
)

HIGH = frozenset(HEIGHTS.values())
"""Features of places where one can climb."""


class Cast:
    """All characters of a story, with the facts and with secrets, such as the place of a lost thing."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.facts = Facts()
        self.events: list[Event] = []
        self.hero = ""
        self.hideouts: dict[str, str] = {}
        """The real spot of each lost or hidden thing."""
        self.patience: dict[str, int] = {}
        """Number of wrong spots that are searched before the thing is found."""
        self.considered: set[tuple[str, ...]] = set()

    def do(self, kind: str, *who: str, whom: str = "", thing: str = "", **more: Any) -> bool:
        """Add an event. Returns True, so that `act` can return the result: something was done."""
        if thing and "owner" not in more:
            more["colour"] = self.facts.things[thing].colour
            more["owner"] = self.facts.things[thing].owner
        if who and "place" not in more:
            more["place"] = self.facts.people[who[0]].place
        event = Event(kind, who, whom, thing, **more)
        problems = self.facts.happen(event)
        if problems:
            raise AssertionError(f"{event} breaks a law: {problems}")
        self.events.append(event)
        return True

    def once(self, probability: float, *matter: str) -> bool:
        """Decide at random, with this probability, about a matter. The answer is False if it was asked before."""
        if matter in self.considered:
            return False
        self.considered.add(matter)
        return self.dice.chance(probability)

    def newcomer(self, kind: str, whom: str = "", *, traits: tuple[str, ...]) -> str:
        """Add a character. All creatures are equally likely."""
        dice = self.dice
        creature = dice.word(CREATURES)
        any_name = NAMES if dice.variety.words is None else MIXED_NAMES
        names = CHILDREN.get(creature, any_name)
        name = dice.word([name for name in names if name not in self.facts.people])
        place = dice.word(tuple(PLACES)) if kind == "live" else HOME
        trait = dice.choose(traits)
        self.do(kind, name, whom=whom, place=place, what=creature, trait=trait)
        return name

    def passer_by(self) -> bool:
        """Somebody comes who can help."""
        return bool(self.newcomer("arrive", traits=VIRTUES))

    def own(self, name: str, food: bool = False) -> None:
        """Give `name` a thing of a kind that is new to the story."""
        dice = self.dice
        nouns = FOODS if food else TOYS
        noun = dice.word([noun for noun in nouns if noun not in self.facts.things])
        quality = dice.word(TASTES_OF[noun] if food else COLOURS)
        what = "food" if food else ""
        self.do("own", name, thing=noun, colour=quality, owner=name, what=what)

    def friend_of(self, name: str) -> str:
        """Another character at the same place, or an empty name."""
        here = self.facts.at(self.facts.people[name].place)
        others = [other for other in here if other != name]
        return self.dice.choose(others) if others else ""

    def trait(self, name: str) -> str:
        return self.facts.people[name].trait if name else ""

    def players(self, owner: str) -> list[str]:
        friend = self.friend_of(owner)
        return [owner, friend] if friend and self.dice.chance(0.7) else [owner]

    def elsewhere(self, name: str) -> str:
        seen = self.facts.visited
        traits = {person.trait for person in self.facts.people.values()}
        places = [
            place
            for place in PLACES
            if place not in seen
            and ("shy" not in traits or LIVELY & FEATURES[place])
            and ("daring" not in traits or HIGH & FEATURES[place])
        ]
        return self.dice.word(places)

    def quarrelled(self) -> bool:
        return "unforgiven" in self.facts.wrongs.values()

    def here(self, phrases: dict[str, str]) -> list[str]:
        """The phrases for spots, heights, shelters or chores that fit the scene."""
        return [phrase for phrase, feature in phrases.items() if fits(feature, self.facts.scene)]

    def put_away(self, noun: str) -> str:
        """Choose the spot where a thing will lie until it is found."""
        self.hideouts[noun] = self.dice.word(self.here(SPOTS))
        self.patience[noun] = int(self.dice.uniform() * 3)
        return self.hideouts[noun]

    def chore(self) -> str:
        """A chore that nobody has had in this story."""
        done = {event.what for event in self.events if event.kind == "busy"}
        return self.dice.word([chore for chore in self.here(CHORES) if chore not in done])
