"""What happens: characters who want, lose, find, help and learn, played out event by event.

A random generator flows in, the events of one story flow out. Nothing is scripted: something goes
wrong, and everybody acts on what is so by then, one step at a time, until all is settled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from homespun.stories.laws import HOME, TROUBLES, Event, Facts, Thing, Wrong
from homespun.stories.lexicon import (
    ANIMALS,
    CHILD,
    CHORES,
    COLOURS,
    FOODS,
    FRAGILE,
    HEIGHTS,
    LIGHT,
    LIMBS,
    NAMES,
    PLACES,
    SPOTS,
    TASTES,
    THROWN,
    TOYS,
    TRAITS,
    WEATHER,
)

T = TypeVar("T")


class Dice:
    """Chances from uniform numbers alone, drawn in blocks: fast, and the same everywhere."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._block: list[float] = []

    def uniform(self) -> float:
        if not self._block:
            self._block = self._rng.random(64).tolist()
        return self._block.pop()

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def choose(self, options: Sequence[T]) -> T:
        return options[int(self.uniform() * len(options))]


@dataclass(frozen=True)
class Story:
    """What happened, in order."""

    events: tuple[Event, ...]


def simulate(rng: np.random.Generator) -> Story:
    """Play a story out, until all that went wrong is settled."""
    return _Simulation(Dice(rng)).run()


class _Simulation:
    """The characters' side of the world: what they do, given the facts."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.facts = Facts()
        self.events: list[Event] = []
        self.hidden: dict[str, str] = {}
        """Where a lost thing really is, which nobody knows."""
        self.searches: dict[str, int] = {}
        """How often one looks in vain before it turns up."""
        self.considered: set[tuple[str, ...]] = set()
        self.hero = ""
        self.length = 0

    def run(self) -> Story:
        self.begin()
        self.length = len(self.events) + 5 + int(self.dice.uniform() * 5)
        troubles = 0
        while troubles == 0 or (len(self.events) < self.length - 3 and troubles < 3):
            if not self.incident():
                break
            troubles += 1
            while self.settle():
                pass
        self.end()
        return Story(tuple(self.events))

    def do(self, kind: str, *who: str, whom: str = "", thing: str = "", **rest: str) -> bool:
        """Let something happen; always True, so that a choice can end with it."""
        if thing and "colour" not in rest:
            is_ = self.facts.things[thing]
            rest["colour"], rest["owner"] = is_.colour, is_.owner
        if who and "place" not in rest:
            rest["place"] = self.facts.people[who[0]].place
        event = Event(kind, who, whom, thing, **rest)
        problems = self.facts.happen(event)
        if problems:
            raise AssertionError(f"{event}: {problems}")
        self.events.append(event)
        return True

    def once(self, probability: float, *matter: str) -> bool:
        """Does somebody feel like it? Asked once per matter."""
        if matter in self.considered:
            return False
        self.considered.add(matter)
        return self.dice.chance(probability)

    # Who there is, and what they have.

    def stranger(self) -> tuple[str, str, str]:
        """Somebody new: name, creature, trait."""
        name = self.dice.choose(NAMES)
        while name in self.facts.people:
            name = self.dice.choose(NAMES)
        child = self.dice.chance(0.5)
        creature = CHILD[name] if child else self.dice.choose(ANIMALS)
        return name, creature, self.dice.choose(TRAITS)

    def own(self, name: str, food: bool = False) -> None:
        """`name` has a thing that nobody else has."""
        nouns, qualities = (FOODS, TASTES) if food else (TOYS, COLOURS)
        noun = self.dice.choose([noun for noun in nouns if noun not in self.facts.things])
        quality = self.dice.choose(qualities)
        what = "food" if food else ""
        self.do("own", name, thing=noun, colour=quality, owner=name, what=what)

    def friend_of(self, name: str) -> str:
        """Somebody else who is there, or nobody."""
        here = self.facts.at(self.facts.people[name].place)
        others = [other for other in here if other != name]
        return self.dice.choose(others) if others else ""

    def passer_by(self) -> bool:
        name, creature, trait = self.stranger()
        return self.do("arrive", name, what=creature, trait=trait, place="")

    def somewhere_else(self, name: str) -> str:
        here = self.facts.people[name].place
        place = self.dice.choose(tuple(PLACES))
        while place == here:
            place = self.dice.choose(tuple(PLACES))
        return place

    def begin(self) -> None:
        dice, facts = self.dice, self.facts
        self.hero, creature, trait = self.stranger()
        if dice.chance(0.4):
            self.do("live", self.hero, what=creature, trait=trait, place=dice.choose(tuple(PLACES)))
        else:
            self.do("intro", self.hero, what=creature, trait=trait, place="")
        group = [self.hero]
        own_first = dice.chance(0.5)
        if own_first:
            self.own(self.hero)
        if dice.chance(0.75):
            name, creature, trait = self.stranger()
            self.do("friend", name, whom=self.hero, what=creature, trait=trait, place="")
            group.append(name)
            if dice.chance(0.25):
                self.own(name)
        if not own_first and dice.chance(0.6):
            self.own(self.hero)
        if not facts.things:
            self.own(group[-1])
        if dice.chance(0.25):
            self.own(dice.choose(group), food=True)
        toys = [n for n, t in facts.things.items() if n in TOYS and t.owner in group]
        place = self.somewhere_else(self.hero)
        thing = dice.choose(toys)
        owner = facts.things[thing].owner
        if dice.chance(0.4):
            if owner == self.hero or len(group) == 1:
                self.do("take", *group, thing=thing, place=place)
            else:
                self.do("take", *reversed(group), thing=thing, place=place)
        else:
            self.do("set_out", *group, place=place)
        if dice.chance(0.5):
            self.do("play", *self.players(owner), thing=thing)

    def players(self, owner: str) -> list[str]:
        friend = self.friend_of(owner)
        return [owner, friend] if friend and self.dice.chance(0.7) else [owner]

    # Something goes wrong.

    def incident(self) -> bool:
        """Let one of the things happen that can happen to these characters here."""
        dice, facts = self.dice, self.facts
        hero = self.hero
        friend = self.friend_of(hero)
        here = [hero, friend] if friend else [hero]
        ways: list[tuple[str, str, str]] = []
        for noun, thing in facts.things.items():
            if thing.state != "fine" or thing.owner not in here or (noun,) in self.considered:
                continue
            owner, other = thing.owner, hero if thing.owner == friend else friend
            if noun in FOODS:
                if other and thing.holder == owner:
                    ways += [("hungry", other, noun)] * 3
                continue
            if facts.people[owner].trait == "careless":
                ways += [("leave_behind", owner, noun)] * 3
                ways += [("break", owner, noun)] * (3 if noun in FRAGILE else 0)
            else:
                ways += [("lose", owner, noun)]
                ways += [("drop", owner, noun)] * (noun in FRAGILE)
            ways += [("blow_away", owner, noun)] * (noun in LIGHT)
            ways += [("toss", owner, noun)] * (2 if noun in THROWN else 0)
            if other:
                ways += [("ask_borrow", other, noun)] * (
                    4 if facts.people[owner].trait == "greedy" else 2
                )
                ways += [("hide", other, noun)] * (
                    5 if facts.people[other].trait == "cheeky" else 0
                )
                ways += [("wish", other, noun)] * 2
        ways += [("weather", name, "") for name in here]
        ways += [("weather", name, "") for name in here if facts.people[name].trait == "timid"] * 4
        ways += [("fall", name, "") for name in here]
        if not friend:
            ways += [("astray", hero, "")] * 2
        ways = [way for way in ways if (way[0],) not in self.considered]
        if not ways:
            return False
        kind, name, noun = dice.choose(ways)
        self.considered |= {(kind,), (noun,)}
        if dice.chance(0.2) and not friend and kind in ("lose", "drop", "toss"):
            self.passer_by()
        return self.start(kind, name, noun)

    def start(self, kind: str, name: str, noun: str) -> bool:
        dice = self.dice
        if kind in ("leave_behind", "lose", "blow_away"):
            self.conceal(noun)
            return self.do(kind, *([name] if kind != "blow_away" else []), thing=noun)
        if kind == "toss":
            return self.do(kind, name, thing=noun, spot=dice.choose(HEIGHTS))
        if kind == "hide":
            self.conceal(noun)
            return self.do(kind, name, thing=noun, spot=self.hidden[noun])
        if kind == "weather":
            weather = dice.choose(WEATHER)
            self.do("weather", what=weather)
            if self.facts.people[name].trait == "timid":
                self.do("afraid", name, what=weather)
            return True
        if kind == "fall":
            return self.do(kind, name, what=dice.choose(LIMBS))
        if kind in ("ask_borrow", "wish"):
            return self.do(kind, name, whom=self.facts.things[noun].owner, thing=noun)
        if kind in ("drop", "break"):
            return self.do(kind, name, thing=noun)
        return self.do(kind, name)

    def conceal(self, noun: str) -> None:
        self.hidden[noun] = self.dice.choose(SPOTS)
        self.searches[noun] = int(self.dice.uniform() * 4)

    # The characters act: one step at a time, the most urgent first.

    def settle(self) -> bool:
        """One step towards what is wanted; False when nothing is left to be done."""
        facts = self.facts
        for name, person in facts.people.items():
            if person.ailment:
                return self.care(name, person.ailment)
        if facts.weather:
            return self.sit_out()
        for noun, thing in facts.things.items():
            if thing.state in TROUBLES:
                return self.rescue(noun, thing)
            if thing.asked:
                return self.answer(noun, thing)
        for wrong, state in facts.wrongs.items():
            if state != "forgiven":
                return self.make_up(wrong, state)
        for noun, thing in facts.things.items():
            if thing.state == "fine" and thing.holder != thing.owner:
                return self.borrowed(noun, thing)
        for (helper, deed, helped, noun), thanked in facts.deeds.items():
            if not thanked and self.once(
                0.65 if deed != "work" else 0.3, "thank", helper, deed, noun
            ):
                return self.do("thank", helped, whom=helper, thing=noun, what=deed)
        for wrong in facts.wrongs:
            if wrong[1] == "refuse" and self.once(1.0, "share", *wrong):
                return self.do("share", wrong[0], whom=wrong[2], thing=wrong[3])
        for name, person in facts.people.items():
            if person.wish:
                return self.earn(name, person.wish)
        return False

    def care(self, name: str, ailment: str) -> bool:
        """Somebody is afraid, hungry, hurt or astray."""
        friend = self.friend_of(name)
        if self.once(0.4, "sad", name, ailment):
            return self.do("sad", name)
        if not friend:
            return self.passer_by()
        if self.once(0.35, "ask", name, ailment):
            return self.do("ask", name, whom=friend)
        if ailment == "afraid":
            return self.do("comfort", friend, whom=name, what=self.facts.weather)
        if ailment == "hungry":
            food = next(n for n, t in self.facts.things.items() if t.owner == friend and n in FOODS)
            return self.do("feed", friend, whom=name, thing=food)
        if ailment == "astray":
            return self.do("guide", friend, whom=name)
        return self.do("tend", friend, whom=name, what=ailment)

    def sit_out(self) -> bool:
        weather = self.facts.weather
        everyone = self.facts.at(self.facts.scene)[:2]
        if self.once(0.7, "shelter", weather):
            return self.do("shelter", *everyone, what=weather, spot=self.dice.choose(SPOTS))
        return self.do("clear", what=weather)

    def rescue(self, noun: str, thing: Thing) -> bool:
        """A thing is lost, hidden, stuck or broken."""
        dice = self.dice
        owner = thing.owner
        if owner not in thing.known:
            return self.do("miss", owner, thing=noun)
        if self.once(0.4, "sad", owner, noun):
            return self.do("sad", owner)
        wrongs = self.facts.wrongs
        culprit = next((w[0] for w in wrongs if w[3] == noun and w[1] == thing.state), "")
        if culprit and thing.state != "hidden":
            wrong = (culprit, thing.state, owner, noun)
            if wrongs[wrong] == "open" and self.once(0.3, "cross", noun):
                return self.do("cross", owner, whom=culprit)
            if wrongs[wrong] == "open" and self.once(0.4, "sorry", noun):
                return self.do("sorry", culprit, whom=owner, thing=noun, what=thing.state)
            if wrongs[wrong] == "sorry" and self.once(0.7, "forgive", noun):
                return self.do("forgive", owner, whom=culprit)
        if thing.state == "hidden":
            if thing.looked and (culprit in thing.helping or dice.chance(0.4)):
                if self.once(1.0, "confess", noun):
                    return self.do("confess", culprit, whom=owner, thing=noun, spot=thing.spot)
                return self.do("fetch", culprit, thing=noun, spot=thing.spot)
            return self.search(noun, thing, [owner])
        helper = self.friend_of(owner) or next(iter(thing.helping), "")
        if not helper:
            if self.once(0.5, "alone", noun):
                return self.by_oneself(noun, thing)
            if self.once(0.6 if thing.state == "lost" else 1.0, "passer-by", noun):
                return self.passer_by()
        elif helper not in thing.helping:
            what = thing.state
            if helper not in thing.known:
                return self.do(
                    "tell",
                    owner,
                    whom=helper,
                    thing=noun,
                    what=what,
                    spot=thing.spot if what == "stuck" else "",
                )
            if self.once(0.4, "ask", owner, noun):
                return self.do("ask", owner, whom=helper)
            if self.once(0.3, "alone", noun):
                return self.by_oneself(noun, thing)
            owes = helper != culprit and any(
                deed[0] == owner and deed[2] == helper for deed in self.facts.deeds
            )
            kind = "repay" if owes else "offer"
            return self.do(kind, helper, whom=owner, thing=noun, what=what)
        able = [name for name in (owner, *thing.helping) if name]
        if thing.state == "lost":
            return self.search(noun, thing, able)
        worker = able[-1]
        return self.do(
            "mend" if thing.state == "broken" else "get_down", worker, thing=noun, spot=thing.spot
        )

    def by_oneself(self, noun: str, thing: Thing) -> bool:
        if thing.state == "lost":
            return self.search(noun, thing, [thing.owner])
        return self.do(
            "try_mend" if thing.state == "broken" else "reach",
            thing.owner,
            thing=noun,
            spot=thing.spot,
        )

    def search(self, noun: str, thing: Thing, able: Sequence[str]) -> bool:
        seekers = [self.dice.choose(able)]
        if len(able) > 1 and self.dice.chance(0.3):
            seekers = list(able[:2])
        if len(thing.looked) >= self.searches[noun]:
            return self.do("find", seekers[0], thing=noun, spot=self.hidden[noun])
        spot = self.dice.choose(SPOTS)
        while spot == self.hidden[noun] or spot in thing.looked:
            spot = self.dice.choose(SPOTS)
        return self.do("look", *seekers, thing=noun, spot=spot)

    def answer(self, noun: str, thing: Thing) -> bool:
        greedy = self.facts.people[thing.owner].trait == "greedy"
        if greedy and self.dice.chance(0.8):
            return self.do("refuse", thing.owner, whom=thing.asked, thing=noun)
        return self.do("lend", thing.owner, whom=thing.asked, thing=noun)

    def borrowed(self, noun: str, thing: Thing) -> bool:
        """A thing is not with its owner: it was found, mended, fetched or lent."""
        holder, owner = thing.holder, thing.owner
        lent = (owner, "lend", holder, noun) in self.facts.deeds
        if (holder, "find", owner, noun) in self.facts.deeds and self.once(0.5, "show", noun):
            return self.do("show", holder, whom=owner, thing=noun, spot=thing.spot)
        if lent:
            if self.once(0.5, "borrower plays", noun):
                return self.do("play", holder, thing=noun)
            if self.once(0.5, "borrower's mishap", noun):
                ways = ["lose", *["drop"] * (noun in FRAGILE), *["toss"] * (noun in THROWN)]
                return self.start(self.dice.choose(ways), holder, noun)
        return self.do("give_back", holder, whom=owner, thing=noun)

    def make_up(self, wrong: Wrong, state: str) -> bool:
        culprit, what, victim, noun = wrong
        place = self.facts.people[culprit].place
        apart = self.facts.people[victim].place != place
        if state == "sorry":
            return self.do("forgive", victim, whom=culprit)
        if what == "refuse":
            if self.once(0.5, "sad", *wrong):
                return self.do("sad", victim)
            if self.once(0.6, "walk off", *wrong):
                return self.do("walk_off", victim, place=self.somewhere_else(victim))
            if apart and self.once(0.7, "lonely", *wrong):
                return self.do("lonely", culprit, thing=noun)
        if not apart and self.once(0.3, "cross", noun):
            return self.do("cross", victim, whom=culprit)
        if apart:
            return self.do("follow", culprit, whom=victim, place=self.facts.people[victim].place)
        return self.do("sorry", culprit, whom=victim, thing=noun, what=what)

    def earn(self, name: str, noun: str) -> bool:
        owner = self.facts.things[noun].owner
        chore = self.facts.people[owner].chore
        if chore:
            return self.do("work", name, whom=owner, what=chore)
        if (name, "work", owner, "") in self.facts.deeds:
            return self.do("gift", owner, whom=name, thing=noun)
        return self.do("busy", owner, what=self.dice.choose(CHORES))

    # All is settled.

    def end(self) -> None:
        dice, facts = self.dice, self.facts
        troubled = [name for name, person in facts.people.items() if person.troubled]
        if troubled and dice.chance(0.5):
            self.do("happy", dice.choose(troubled))
        learnable = [lesson for lesson, learned in facts.lessons.items() if not learned]
        if learnable and dice.chance(0.8):
            name, lesson = dice.choose(learnable)
            self.do("learn", name, what=lesson)
        friend = self.friend_of(self.hero)
        group = [self.hero, friend] if friend else [self.hero]
        ways = ["end_home"] * (facts.people[self.hero].place != HOME)
        ways += ["end_friends"] * (2 if friend else 0)
        things = [(n, t) for n, t in facts.things.items() if n in TOYS and t.state == "fine"]
        mine = [(n, t) for n, t in things if t.owner == self.hero]
        near = [(n, t) for n, t in things if t.holder in group]
        ways += ["end_play"] * 2 * bool(near) + ["end_sleep"] * bool(mine)
        way = dice.choose(ways)
        if way == "end_sleep":
            self.do(way, self.hero, thing=dice.choose(mine)[0])
        elif way == "end_play":
            noun, thing = dice.choose(near)
            self.do(way, *self.players(thing.holder), thing=noun)
        elif way == "end_home" and dice.chance(0.3):
            self.do(way, self.hero)
        else:
            self.do(way, *group)
