"""A random generator flows in, the events of one story flow out: characters want, lose, find, help and learn.

The plot is not scripted. Something goes wrong, and then the characters act on the facts of the moment, one step at a
time, until everything is settled.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from homespun.stories.laws import HOME, TROUBLES, Deed, Event, Facts, Thing, Wrong
from homespun.stories.lexicon import (
    ANIMALS,
    CARES,
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
    TRICKS,
    WEATHER,
)

T = TypeVar("T")


class Dice:
    """Random choices from uniform numbers only, which are drawn in blocks. Fast, and equal on every machine."""

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

    def weigh(self, options: dict[T, int]) -> T:
        """Choose an option with a probability proportional to its weight."""
        return self.choose([option for option, weight in options.items() for _ in range(weight)])


Mishap = tuple[str, str, str]
"""Kind of event, person, and thing (empty if there is none)."""


def simulate(rng: np.random.Generator) -> tuple[Event, ...]:
    """Simulate one story, in which something goes wrong one to three times.

    Returns:
        The events, in order.
    """
    dice = Dice(rng)
    characters = _Characters(dice)
    characters.begin()
    target_length = len(characters.events) + 2 + int(dice.uniform() * 5)
    for _ in range(3):
        mishaps = characters.mishaps()
        if not mishaps:
            break
        characters.suffer(*dice.weigh(mishaps))
        while characters.act():
            pass
        if len(characters.events) >= target_length:
            break
    characters.conclude()
    return tuple(characters.events)


class _Characters:
    """Decides the actions of all characters from the facts and from secrets, such as the place of a lost thing."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.facts = Facts()
        self.events: list[Event] = []
        self.hero = ""
        self.hideouts: dict[str, str] = {}
        """The real spot of each lost thing."""
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

    # The beginning: characters and things.

    def begin(self) -> None:
        dice = self.dice
        # The hero, the friend or both have a toy. The hero's toy is told at once or after the friend.
        at_once, befriended = dice.chance(0.5), dice.chance(0.75)
        friend_owns = befriended and dice.chance(0.25)
        if not at_once and not friend_owns:
            friend_owns = befriended and dice.chance(0.3)
        later = not at_once and not friend_owns
        kind = "live" if dice.chance(0.4) else "intro"
        self.hero = hero = self.newcomer(kind, owns=at_once or later)
        if at_once:
            self.own(hero)
        friend = ""
        if befriended:
            friend = self.newcomer("friend", whom=hero, owns=friend_owns)
        if friend_owns:
            self.own(friend)
        if later:
            self.own(hero)
        group = [hero, friend] if friend else [hero]
        toy = dice.choose(list(self.facts.things))
        owner = self.facts.things[toy].owner
        if dice.chance(0.25):
            self.own(dice.choose(group), food=True)
        place = self.elsewhere(hero)
        if dice.chance(0.4):
            first, *others = sorted(group, key=lambda name: name != owner)
            self.do("take", first, *others, thing=toy, place=place)
        else:
            self.do("set_out", *group, place=place)
        if dice.chance(0.5):
            self.do("play", *self.players(owner), thing=toy)

    def newcomer(self, kind: str, whom: str = "", owns: bool = False) -> str:
        """Add a character. Owners of a toy get a trait that shows in owners, others one that shows in others."""
        dice = self.dice
        name = dice.choose([name for name in NAMES if name not in self.facts.people])
        creature = CHILD[name] if dice.chance(0.5) else dice.choose(ANIMALS)
        place = dice.choose(tuple(PLACES)) if kind == "live" else HOME
        hidden = TRICKS if owns else CARES
        trait = dice.weigh({trait: TRAITS[trait] for trait in TRAITS if trait not in hidden})
        self.do(kind, name, whom=whom, place=place, what=creature, trait=trait)
        return name

    def own(self, name: str, food: bool = False) -> None:
        """Give `name` a thing of a kind that is new to the story."""
        nouns, qualities = (FOODS, TASTES) if food else (TOYS, COLOURS)
        noun = self.dice.choose([noun for noun in nouns if noun not in self.facts.things])
        quality = self.dice.choose(qualities)
        what = "food" if food else ""
        self.do("own", name, thing=noun, colour=quality, owner=name, what=what)

    def friend_of(self, name: str) -> str:
        """Another character at the same place, or an empty name."""
        here = self.facts.at(self.facts.people[name].place)
        others = [other for other in here if other != name]
        return self.dice.choose(others) if others else ""

    def players(self, owner: str) -> list[str]:
        friend = self.friend_of(owner)
        return [owner, friend] if friend and self.dice.chance(0.7) else [owner]

    def elsewhere(self, name: str) -> str:
        here = self.facts.people[name].place
        return self.dice.choose([place for place in PLACES if place != here])

    # Something goes wrong.

    def mishaps(self) -> dict[Mishap, int]:
        """All mishaps that are possible here and have not happened before, with their weights."""
        facts, hero = self.facts, self.hero
        friend = self.friend_of(hero)
        here = [hero, friend] if friend else [hero]
        weights: dict[Mishap, int] = {}
        for name in here:
            weights["weather", name, ""] = 5 if facts.people[name].trait == "timid" else 1
            weights["fall", name, ""] = 1
        if not friend:
            weights["astray", hero, ""] = 2
        for noun, thing in facts.things.items():
            if thing.owner in here and thing.state == "fine" and (noun,) not in self.considered:
                other = hero if thing.owner == friend else friend
                weights |= self.mishaps_with(noun, thing.owner, other)
        return {
            mishap: weight
            for mishap, weight in weights.items()
            if weight and (mishap[0],) not in self.considered
        }

    def mishaps_with(self, noun: str, owner: str, other: str) -> dict[Mishap, int]:
        people = self.facts.people
        if noun in FOODS:
            return {("hungry", other, noun): 3} if other else {}
        careless = people[owner].trait == "careless"
        weights: dict[Mishap, int] = {
            ("leave_behind", owner, noun): 3 if careless else 0,
            ("lose", owner, noun): 0 if careless else 1,
            ("break", owner, noun): 3 if careless and noun in FRAGILE else 0,
            ("drop", owner, noun): 1 if not careless and noun in FRAGILE else 0,
            ("blow_away", owner, noun): 1 if noun in LIGHT else 0,
            ("toss", owner, noun): 2 if noun in THROWN else 0,
        }
        if other:
            weights["ask_borrow", other, noun] = 4 if people[owner].trait == "greedy" else 2
            weights["hide", other, noun] = 16 if people[other].trait == "cheeky" else 0
            weights["wish", other, noun] = 2
        return weights

    def suffer(self, kind: str, name: str, noun: str) -> bool:
        dice = self.dice
        self.considered |= {(kind,), (noun,)}
        match kind:
            case "lose" | "leave_behind":
                self.put_away(noun)
                return self.do(kind, name, thing=noun)
            case "blow_away":
                self.put_away(noun)
                return self.do(kind, thing=noun)
            case "hide":
                spot = self.put_away(noun)
                owner = self.facts.things[noun].owner
                return self.do(kind, name, whom=owner, thing=noun, spot=spot)
            case "toss":
                return self.do(kind, name, thing=noun, spot=dice.choose(HEIGHTS))
            case "drop" | "break":
                return self.do(kind, name, thing=noun)
            case "ask_borrow" | "wish":
                return self.do(kind, name, whom=self.facts.things[noun].owner, thing=noun)
            case "weather":
                weather = dice.choose(WEATHER)
                self.do("weather", what=weather)
                timid = self.facts.people[name].trait == "timid"
                return timid and self.do("afraid", name, what=weather)
            case "fall":
                return self.do(kind, name, what=dice.choose(LIMBS))
            case _:
                return self.do(kind, name)

    def put_away(self, noun: str) -> str:
        """Choose the spot where a thing will lie until it is found."""
        self.hideouts[noun] = self.dice.choose(SPOTS)
        self.patience[noun] = int(self.dice.uniform() * 4)
        return self.hideouts[noun]

    # The characters act, one step at a time, the most urgent matter first.

    def act(self) -> bool:
        """Take one step; False if nothing is left to be done."""
        facts = self.facts
        for name, person in facts.people.items():
            if person.ailment:
                return self.look_after(name, person.ailment)
        if facts.weather:
            return self.sit_out(facts.weather)
        for noun, thing in facts.things.items():
            if thing.state == "hidden":
                return self.see_through_trick(noun, thing)
            if thing.state in TROUBLES:
                return self.rescue(noun, thing)
            if thing.asked:
                return self.answer(noun, thing)
        for wrong, state in facts.wrongs.items():
            if state != "forgiven":
                return self.make_up(wrong, state)
        for noun, thing in facts.things.items():
            if thing.state == "fine" and thing.holder != thing.owner:
                return self.return_(noun, thing)
        return self.be_grateful() or self.share() or self.earn()

    def look_after(self, name: str, ailment: str) -> bool:
        """Take a step for somebody who is afraid, hungry, hurt or astray."""
        friend = self.friend_of(name)
        if self.once(0.4, "sad", name, ailment):
            return self.do("sad", name)
        if not friend:
            return bool(self.newcomer("arrive"))
        if self.once(0.35, "ask", name, ailment):
            return self.do("ask", name, whom=friend)
        match ailment:
            case "afraid":
                return self.do("comfort", friend, whom=name, what=self.facts.weather)
            case "hungry":
                things = self.facts.things.items()
                food = next(noun for noun, t in things if t.owner == friend and noun in FOODS)
                return self.do("feed", friend, whom=name, thing=food)
            case "astray":
                return self.do("guide", friend, whom=name)
            case limb:
                return self.do("tend", friend, whom=name, what=limb)

    def sit_out(self, weather: str) -> bool:
        everyone = self.facts.at(self.facts.scene)[:2]
        if self.once(0.7, "shelter", weather):
            return self.do("shelter", *everyone, what=weather, spot=self.dice.choose(SPOTS))
        return self.do("clear", what=weather)

    def see_through_trick(self, noun: str, thing: Thing) -> bool:
        """Take a step about a hidden thing: its owner misses and seeks it, or the person who hid it confesses."""
        owner = thing.owner
        if owner not in thing.known:
            return self.do("miss", owner, thing=noun)
        if self.once(0.4, "sad", owner, noun):
            return self.do("sad", owner)
        if thing.helping:
            return self.do("fetch", thing.helping[0], thing=noun, spot=thing.spot)
        culprit = next(wrong.culprit for wrong in self.facts.wrongs if wrong.thing == noun)
        if self.once(0.5, "giggle", noun):
            return self.do("giggle", culprit, thing=noun, spot=thing.spot)
        if self.dice.chance(0.5):
            return self.do("confess", culprit, whom=owner, thing=noun, spot=thing.spot)
        return self.search(noun, thing)

    def rescue(self, noun: str, thing: Thing) -> bool:
        """Take a step about a thing that is lost, stuck or broken."""
        owner = thing.owner
        if self.once(0.4, "sad", owner, noun):
            return self.do("sad", owner)
        blamed = [(w, state) for w, state in self.facts.wrongs.items() if w.thing == noun]
        for wrong, state in blamed:
            if state != "forgiven" and self.once(0.5, "reconcile", noun, state):
                return self.reconcile(wrong, state)
        helper = self.friend_of(owner)
        if not helper:
            if self.once(0.5, "alone", noun):
                return self.try_alone(noun, thing)
            if thing.state != "lost" or self.once(0.6, "passer-by", noun):
                return bool(self.newcomer("arrive"))
        elif helper not in thing.helping:
            return self.get_help(noun, thing, helper, guilty=bool(blamed))
        if thing.state == "lost":
            return self.search(noun, thing)
        kind = "mend" if thing.state == "broken" else "get_down"
        return self.do(kind, helper, thing=noun)

    def try_alone(self, noun: str, thing: Thing) -> bool:
        if thing.state == "lost":
            return self.search(noun, thing)
        return self.do("try_mend" if thing.state == "broken" else "reach", thing.owner, thing=noun)

    def get_help(self, noun: str, thing: Thing, helper: str, guilty: bool) -> bool:
        """Take a step towards help: tell the helper, ask, or receive an offer. An offer may repay earlier help."""
        owner = thing.owner
        if helper not in thing.known:
            spot = thing.spot if thing.state == "stuck" else ""
            return self.do("tell", owner, whom=helper, thing=noun, what=thing.state, spot=spot)
        if self.once(0.4, "ask", noun):
            return self.do("ask", owner, whom=helper)
        if self.once(0.3, "alone", noun):
            return self.try_alone(noun, thing)
        indebted = any((deed.helper, deed.helped) == (owner, helper) for deed in self.facts.deeds)
        kind = "repay" if indebted and not guilty else "offer"
        return self.do(kind, helper, whom=owner, thing=noun, what=thing.state)

    def search(self, noun: str, thing: Thing) -> bool:
        able = [thing.owner, *thing.helping]
        seekers = able if len(able) == 2 and self.dice.chance(0.3) else [self.dice.choose(able)]
        if len(thing.looked) >= self.patience[noun]:
            return self.do("find", seekers[0], thing=noun, spot=self.hideouts[noun])
        wrong = [s for s in SPOTS if s != self.hideouts[noun] and s not in thing.looked]
        return self.do("look", *seekers, thing=noun, spot=self.dice.choose(wrong))

    def answer(self, noun: str, thing: Thing) -> bool:
        greedy = self.facts.people[thing.owner].trait == "greedy"
        kind = "refuse" if greedy and self.dice.chance(0.8) else "lend"
        return self.do(kind, thing.owner, whom=thing.asked, thing=noun)

    def return_(self, noun: str, thing: Thing) -> bool:
        """Take a step towards giving a thing back to its owner, after it was found, mended, fetched or lent."""
        holder, owner, deeds = thing.holder, thing.owner, self.facts.deeds
        if Deed(holder, "find", owner, noun) in deeds and self.once(0.5, "show", noun):
            return self.do("show", holder, whom=owner, thing=noun, spot=thing.spot)
        if Deed(owner, "lend", holder, noun) in deeds:
            if self.once(0.5, "use", noun):
                return self.do("play", holder, thing=noun)
            if self.once(0.5, "mishap", noun):
                ways = {"lose": 1, "drop": int(noun in FRAGILE), "toss": int(noun in THROWN)}
                return self.suffer(self.dice.weigh(ways), holder, noun)
        return self.do("give_back", holder, whom=owner, thing=noun)

    def make_up(self, wrong: Wrong, state: str) -> bool:
        """Take a step from a wrong towards an apology. The two may part first, but they meet again."""
        culprit, what, victim, noun = wrong
        if what == "refuse" and state == "open":
            if self.once(0.5, "sad", *wrong):
                return self.do("sad", victim)
            if self.once(0.6, "walk off", *wrong):
                return self.do("walk_off", victim, place=self.elsewhere(victim))
        place = self.facts.people[victim].place
        if self.facts.people[culprit].place != place:
            if self.once(0.7, "lonely", *wrong):
                return self.do("lonely", culprit, thing=noun)
            return self.do("follow", culprit, whom=victim, place=place)
        return self.reconcile(wrong, state)

    def reconcile(self, wrong: Wrong, state: str) -> bool:
        culprit, what, victim, noun = wrong
        if state == "sorry":
            return self.do("forgive", victim, whom=culprit)
        if self.once(0.3, "cross", *wrong):
            return self.do("cross", victim, whom=culprit)
        return self.do("sorry", culprit, whom=victim, thing=noun, what=what)

    def be_grateful(self) -> bool:
        for deed, thanked in self.facts.deeds.items():
            helper, what, helped, noun = deed
            likely = 0.3 if what == "work" else 0.65
            if not thanked and self.once(likely, "thank", *deed):
                return self.do("thank", helped, whom=helper, thing=noun, what=what)
        return False

    def share(self) -> bool:
        for culprit, what, victim, noun in self.facts.wrongs:
            if what == "refuse" and self.once(1.0, "share", noun):
                return self.do("share", culprit, whom=victim, thing=noun)
        return False

    def earn(self) -> bool:
        """Take a step for a character who wishes for another's thing, helps with some work and gets it."""
        for name, person in self.facts.people.items():
            if person.wish:
                owner = self.facts.things[person.wish].owner
                chore = self.facts.people[owner].chore
                if chore:
                    return self.do("work", name, whom=owner, what=chore)
                if Deed(name, "work", owner) in self.facts.deeds:
                    return self.do("gift", owner, whom=name, thing=person.wish)
                return self.do("busy", owner, what=self.dice.choose(CHORES))
        return False

    # The ending, once everything is settled.

    def conclude(self) -> None:
        dice, facts, hero = self.dice, self.facts, self.hero
        troubled = [name for name, person in facts.people.items() if person.troubled]
        if troubled and dice.chance(0.5):
            self.do("happy", dice.choose(troubled))
        if facts.lessons and dice.chance(0.8):
            name, lesson = dice.choose(list(facts.lessons))
            self.do("learn", name, what=lesson)
        friend = self.friend_of(hero)
        group = [hero, friend] if friend else [hero]
        toys = {noun: thing for noun, thing in facts.things.items() if noun in TOYS}
        near = [noun for noun, thing in toys.items() if thing.owner in group]
        mine = [noun for noun, thing in toys.items() if thing.owner == hero]
        ending = dice.weigh(
            {
                "end_play": 2 if near else 0,
                "end_sleep": 1 if mine else 0,
                "end_friends": 2 if friend else 0,
                "end_home": 1 if facts.people[hero].place != HOME else 0,
            }
        )
        if ending == "end_play":
            toy = dice.choose(near)
            self.do(ending, *self.players(facts.things[toy].owner), thing=toy)
        elif ending == "end_sleep":
            self.do(ending, hero, thing=dice.choose(mine))
        elif ending == "end_home" and dice.chance(0.3):
            self.do(ending, hero)
        else:
            self.do(ending, *group)
