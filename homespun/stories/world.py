"""A random generator flows in, the events of one story flow out: characters want, lose, find, help and learn.

The plot is not scripted. Something goes wrong, and then the characters act on the facts of the moment, one step at a
time, until everything is settled, well or badly. Afterwards, all that played no part is left out of the beginning.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from homespun.stories.dice import WHOLE, Dice, Variety
from homespun.stories.events import (
    AILMENTS,
    ARRIVALS,
    HOME,
    REMEDIES,
    TROUBLES,
    Deed,
    Event,
    Person,
    Thing,
    Wrong,
)
from homespun.stories.laws import MAX_MISHAPS, MIN_EVENTS, Facts
from homespun.stories.lexicon import (
    CHILDREN,
    CHORES,
    CLOTH,
    COLOURS,
    CREATURES,
    ERRANDS,
    FAULTS,
    FEATURES,
    FLOATING,
    FOODS,
    FRAGILE,
    HEIGHTS,
    IMPOSSIBLE,
    LATER,
    LIGHT,
    LIMBS,
    LIVELY,
    MIXED_NAMES,
    NAMES,
    PLACES,
    SHELTERS,
    SMALL,
    SPOTS,
    TASTES_OF,
    THROWN,
    TIMES,
    TOYS,
    VIRTUES,
    WASHABLE,
    WEATHER,
    fits,
    hour,
)

Mishap = tuple[str, str, str]
"""Kind of event, person, and thing (empty if there is none)."""

STRIKING = 6
"""How much likelier a mishap is to which somebody's trait leads."""
RARE = frozenset({"ask_borrow", "break", "gobble", "hide", "promise", "stray"})
"""Such mishaps that depend on more than a trait, so that they are likelier still."""
LONG = 13
"""After as many events, nothing else goes wrong."""
ALONE = ("careless", "timid", "curious", "daring", "gentle", "patient")
"""The traits of a hero without a friend."""
SORE = frozenset({"afraid", "fall", "chill", "tire", "thirst"})
"""Troubles in which a gentle character soothes another."""
HIGH = frozenset(HEIGHTS.values())
"""Features of places where one can climb."""


def simulate(rng: np.random.Generator, variety: Variety = WHOLE) -> tuple[Event, ...]:
    """Simulate one story, in which something goes wrong one to three times.

    Returns:
        The events, in order.
    """
    dice = Dice(rng, variety)
    while True:
        characters = _Characters(dice)
        characters.live()
        people = characters.facts.people.values()
        if characters.facts.mishaps and all(person.plays_part for person in people):
            events = tuple(_relevant(characters.events, characters.facts))
            if len(events) >= MIN_EVENTS:
                return events


def _relevant(events: Iterable[Event], facts: Facts) -> Iterable[Event]:
    """The events without belongings that play no part, and without traits that do not show."""
    for event in events:
        if event.kind in ARRIVALS and not facts.people[event.who[0]].shown:
            yield event._replace(trait="")
        elif event.kind != "own" or facts.things[event.thing].plays_part:
            yield event


class _Characters:
    """Decides the actions of all characters from the facts and from secrets, such as the place of a lost thing."""

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

    def live(self) -> None:
        self.begin()
        rounds = 2 if self.dice.chance(0.75) else 1
        for number in range(rounds):
            if number and len(self.events) > LONG:
                break
            if number and self.dice.chance(0.3) and not self.facts.open_matters():
                self.learn()
            if number and self.dice.variety.goes_on and self.dice.chance(0.4):
                self.go_on()
            mishaps = self.mishaps()
            if not mishaps or self.quarrelled():
                break
            self.suffer(*mishaps[self.dice.choose(list(mishaps))])
            while self.act():
                pass
        self.conclude()

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
        befriended = dice.chance(0.75)
        owners = dice.choose(("hero", "hero", "friend", "both") if befriended else ("hero",))
        later = dice.chance(0.4)
        traits = self.fitting(befriended, owners in ("hero", "both"), owners in ("friend", "both"))
        self.hero = hero = self.newcomer("live" if dice.chance(0.4) else "intro", traits=traits)
        if owners != "friend" and not later:
            self.own(hero)
        friend = ""
        if befriended:
            traits = self.fitting(True, owners in ("friend", "both"), owners in ("hero", "both"))
            friend = self.newcomer("friend", whom=hero, traits=traits)
        if owners in ("friend", "both"):
            self.own(friend)
        if owners != "friend" and later:
            self.own(hero)
        group = [hero, friend] if friend else [hero]
        if dice.chance(0.4):
            greedy = [name for name in group if self.trait(name) == "greedy"] or [
                dice.choose(group)
            ]
            self.own(next((name for name in group if name not in greedy), hero), food=True)
        toy = dice.choose([noun for noun in self.facts.things if noun in TOYS])
        owner = self.facts.things[toy].owner
        place, time = self.elsewhere(hero), dice.word(TIMES)
        if dice.chance(0.3):
            first, *others = sorted(group, key=lambda name: name != owner)
            self.do("take", first, *others, thing=toy, place=place, time=time)
        else:
            self.do("set_out", *group, place=place, time=time)
        if dice.chance(0.3):
            self.do("play", *self.players(owner), thing=toy)

    def fitting(self, befriended: bool, owns: bool, other_owns: bool) -> tuple[str, ...]:
        """The traits that can show, more or less: most faults need somebody else, and some need a toy."""
        if not befriended:
            return ALONE
        excluded = {"curious"}
        if not owns:
            excluded |= {"careless", "greedy"}
        if not other_owns:
            excluded |= {"cheeky", "honest"}
        traits = FAULTS if self.dice.chance(0.6) else VIRTUES
        return tuple(trait for trait in traits if trait not in excluded)

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

    def go_on(self) -> None:
        """All go to another place before the next mishap."""
        group = self.facts.at(self.facts.people[self.hero].place)
        if self.facts.open_matters() or self.quarrelled():
            return
        times = [time for time in LATER if not hour(time) or hour(time) > self.facts.hour]
        place = self.elsewhere(self.hero)
        self.do("go_on", *group, place=place, time=self.dice.word(times))

    def quarrelled(self) -> bool:
        return "unforgiven" in self.facts.wrongs.values()

    def here(self, phrases: dict[str, str]) -> list[str]:
        """The phrases for spots, heights, shelters or chores that fit the scene."""
        return [phrase for phrase, feature in phrases.items() if fits(feature, self.facts.scene)]

    # Something goes wrong.

    def mishaps(self) -> dict[str, Mishap]:
        """All kinds of mishaps that are possible here and have not happened before, each with one of its cases.

        A kind to which somebody's fault leads is likelier; it occurs under several keys.
        """
        facts, hero = self.facts, self.hero
        friend = self.friend_of(hero)
        here = [hero, friend] if friend else [hero]
        cases: list[Mishap] = []
        for name, other in zip(here, reversed(here), strict=True):
            cases += self.mishaps_of(name, other if friend else "")
        for noun, thing in facts.things.items():
            if thing.owner in here and thing.state == "fine" and (noun,) not in self.considered:
                other = (hero if thing.owner == friend else friend) if friend else ""
                cases += self.mishaps_with(noun, thing.owner, other)
        by_kind: dict[str, list[Mishap]] = {}
        for mishap in cases:
            kind, name, noun = mishap
            if self.facts.breaks_vow(Event(kind, thing=noun), name):
                continue
            allowed = self.dice.variety.mishaps
            if (kind,) not in self.considered and (allowed is None or kind in allowed):
                by_kind.setdefault(kind, []).append(mishap)
        return {
            f"{kind} {n}": self.dice.choose(options)
            for kind, options in by_kind.items()
            for n in range(self.weight(*options[0]))
        }

    def weight(self, kind: str, name: str, noun: str) -> int:
        if not self.is_striking(kind, name, noun):
            return 1
        return 3 * STRIKING if kind in RARE else STRIKING

    def is_striking(self, kind: str, name: str, noun: str) -> bool:
        """Whether a trait leads to this mishap."""
        owner = self.facts.things[noun].owner if noun else ""
        match kind:
            case "ask_borrow":
                return self.trait(owner) == "greedy" or self.trait(name) == "honest"
            case "lose":
                return "patient" in (self.trait(name), self.trait(self.friend_of(name)))
            case "drop" | "toss" | "tear" | "soil":
                return self.trait(self.friend_of(name)) == "clever"
            case "busy":
                return self.trait(self.friend_of(name)) == "lazy"
            case "weather":
                return self.trait(name) == "timid"
        return kind in FAULTY

    def mishaps_of(self, name: str, other: str) -> list[Mishap]:
        """The mishaps that can happen to somebody, with what the fault of this person leads to first."""
        trait = self.trait(name)
        kinds = [self.dice.choose(("fall", "chill", "tire", "thirst"))]
        kinds += ["weather"] if trait == "timid" or self.dice.chance(0.3) else []
        if trait == "daring" and self.here(HEIGHTS):
            kinds.append("climb")
        if trait == "gentle":
            kinds.append("pity")
        if other:
            faults = {"proud": "boast", "forgetful": "promise"}
            kinds += [faults[trait]] if trait in faults else []
            if trait == "shy" and LIVELY & FEATURES[self.facts.scene]:
                kinds.append("apart")
            if self.trait(other) == "lazy" or self.dice.chance(0.3):
                kinds.append("busy")
        else:
            kinds.append("stray" if trait == "curious" else "astray")
        return [(kind, name, "") for kind in kinds]

    def mishaps_with(self, noun: str, owner: str, other: str) -> list[Mishap]:
        if noun in FOODS:
            if not other:
                return []
            fed = self.facts.people[other]
            mine = any(t.owner == other and food in FOODS for food, t in self.facts.things.items())
            kinds = [] if mine else ["hungry"]
            kinds += ["gobble"] if fed.trait == "greedy" else []
            return [(kind, other, noun) for kind in kinds]
        careless = self.trait(owner) == "careless"
        ways = {
            "leave_behind": careless,
            "lose": not careless,
            "break": careless and noun in FRAGILE,
            "drop": not careless and noun in FRAGILE,
            "blow_away": noun in LIGHT,
            "toss": noun in THROWN and self.here(HEIGHTS),
            "soil": noun in WASHABLE,
            "tear": noun in CLOTH,
            "float": noun in FLOATING and fits("water", self.facts.scene),
        }
        cases = [(kind, owner, noun) for kind, possible in ways.items() if possible]
        if other:
            kinds = ["ask_borrow", "wish"]
            kinds += ["hide"] if self.trait(other) == "cheeky" else []
            cases += [(kind, other, noun) for kind in kinds]
        return cases

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
                return self.do(kind, name, thing=noun, spot=dice.word(self.here(HEIGHTS)))
            case "ask_borrow" | "wish":
                return self.do(kind, name, whom=self.facts.things[noun].owner, thing=noun)
            case "weather":
                return self.storm(name)
            case "fall":
                return self.do(kind, name, what=dice.word(LIMBS))
            case "climb":
                return self.do(kind, name, spot=dice.word(self.here(HEIGHTS)))
            case "boast":
                return self.do(kind, name, whom=self.friend_of(name))
            case "promise":
                self.do(kind, name, whom=self.friend_of(name), what=dice.word(tuple(ERRANDS)))
                return self.do("forget", name)
            case "busy":
                return self.do(kind, name, what=self.chore())
            case "pity":
                return self.do(kind, name, what=dice.word(SMALL))
            case "hungry":
                return self.do(kind, name)
            case _:
                return self.do(kind, name, thing=noun)

    def storm(self, name: str) -> bool:
        excluded = [w for word in self.facts.day.split() for w in IMPOSSIBLE.get(word, ())]
        weather = self.dice.word([weather for weather in WEATHER if weather not in excluded])
        self.do("weather", what=weather)
        return self.trait(name) != "timid" or self.do("afraid", name, what=weather)

    def put_away(self, noun: str) -> str:
        """Choose the spot where a thing will lie until it is found."""
        self.hideouts[noun] = self.dice.word(self.here(SPOTS))
        self.patience[noun] = int(self.dice.uniform() * 3)
        return self.hideouts[noun]

    def chore(self) -> str:
        """A chore that nobody has had in this story."""
        done = {event.what for event in self.events if event.kind == "busy"}
        return self.dice.word([chore for chore in self.here(CHORES) if chore not in done])

    # The characters act, one step at a time, the most urgent matter first.

    def act(self) -> bool:
        """Take one step; False if nothing is left to be done."""
        facts = self.facts
        for name, person in facts.people.items():
            if person.ailment:
                return self.look_after(name, person)
        if facts.weather:
            return self.sit_out(facts.weather)
        if facts.small:
            return self.help_small(facts.small)
        if facts.contest:
            return self.compete(*facts.contest)
        for noun, thing in facts.things.items():
            if thing.state == "hidden":
                return self.see_through_trick(noun, thing)
            if thing.state in TROUBLES:
                return self.rescue(noun, thing)
            if thing.asked:
                return self.answer(noun, thing)
        for wrong, state in facts.wrongs.items():
            if state in ("open", "sorry"):
                return self.make_up(wrong, state)
        for noun, thing in facts.things.items():
            if thing.state == "fine" and thing.holder != thing.owner:
                return self.return_(noun, thing)
        return self.keep_promise() or self.be_grateful() or self.share() or self.earn()

    def show_virtue(self, name: str, sad: str, *matter: str) -> bool:
        """`name` may show a virtue to somebody who is in trouble."""
        match self.trait(name):
            case "kind" | "cheerful" as trait:
                happy = self.facts.in_trouble(name) or not self.facts.in_trouble(sad)
                if not happy and self.once(0.8, trait, *matter):
                    return self.do("console" if trait == "kind" else "cheer", name, whom=sad)
            case "gentle":
                if matter[-1] in SORE and self.once(0.8, "gentle", *matter):
                    return self.do("soothe", name, whom=sad)
        return False

    def look_after(self, name: str, person: Person) -> bool:
        """Take a step for somebody who is afraid, hungry, hurt, lost, cold, tired, thirsty or shy."""
        ailment = person.ailment
        friend = self.friend_of(name)
        if self.once(0.4, "sad", name, ailment):
            return self.do("sad", name)
        if not friend:
            return self.passer_by()
        if self.once(0.25, "ask", name, ailment):
            return self.do("ask", name, whom=friend)
        if self.show_virtue(friend, name, name, ailment):
            return True
        scary = ailment in ("afraid", "astray", "stray", "climb")
        if scary and self.trait(friend) == "brave" and self.once(0.9, "dare", ailment):
            return self.do("dare", friend)
        helped = AILMENTS[ailment]
        match ailment:
            case "afraid":
                return self.do(helped, friend, whom=name, what=self.facts.weather)
            case "hungry":
                things = self.facts.things.items()
                food = next(noun for noun, t in things if t.owner == friend and noun in FOODS)
                return self.do(helped, friend, whom=name, thing=food)
            case _:
                return self.do(helped, friend, whom=name, what=person.limb)

    def sit_out(self, weather: str) -> bool:
        everyone = self.facts.at(self.facts.scene)
        dry = [
            phrase
            for phrase in self.here(SHELTERS)
            if weather != "thunder" or SHELTERS[phrase] != "trees"
        ]
        if dry and self.once(0.9, "shelter", weather):
            return self.do("shelter", *everyone, what=weather, spot=self.dice.choose(dry))
        return self.do("clear", what=weather)

    def help_small(self, small: str) -> bool:
        here = self.facts.at(self.facts.scene)
        gentle = next(name for name in here if self.trait(name) == "gentle")
        return self.do("free", gentle, what=small)

    def compete(self, proud: str, other: str) -> bool:
        if self.once(0.4, "cross", proud, other):
            return self.do("cross", other, whom=proud)
        if self.once(1.0, "race", proud, other):
            if self.dice.chance(0.5):
                return self.do("race", proud, other)
            return self.do("race", other, whom=proud)
        return self.do("win", other, whom=proud)

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
        """Take a step about a thing that is lost, stuck, broken, muddy, torn or adrift."""
        owner = thing.owner
        if self.once(0.4, "sad", owner, noun):
            return self.do("sad", owner)
        blamed = [(w, state) for w, state in self.facts.wrongs.items() if w.thing == noun]
        for wrong, state in blamed:
            honest = state == "open" and self.trait(wrong.culprit) == "honest"
            if honest and self.once(0.9, "own up", noun):
                return self.do("own_up", wrong.culprit, whom=owner)
            if state in ("open", "sorry") and self.once(0.5, "reconcile", noun, state):
                return self.reconcile(wrong, state)
        helper = self.friend_of(owner)
        if not helper:
            if self.once(0.5, "alone", noun) and thing.state in ("lost", "broken", "stuck"):
                return self.try_alone(noun, thing)
            if thing.state != "lost" or self.once(0.6, "passer-by", noun):
                return self.passer_by()
        elif helper not in thing.helping:
            return self.get_help(noun, thing, helper, guilty=bool(blamed))
        return self.solve(noun, thing, helper)

    def try_alone(self, noun: str, thing: Thing) -> bool:
        if thing.state == "lost":
            return self.search(noun, thing)
        return self.do("try_mend" if thing.state == "broken" else "reach", thing.owner, thing=noun)

    def solve(self, noun: str, thing: Thing, helper: str) -> bool:
        """Take the last steps: the helper puts the thing right, or it is lost for ever."""
        if thing.state == "lost":
            return self.search(noun, thing)
        if self.trait(helper) == "clever" and self.once(0.9, "idea", noun):
            return self.do("idea", helper, thing=noun)
        daring = thing.state in ("stuck", "adrift") and self.trait(helper) == "brave"
        if daring and self.once(0.9, "dare", noun):
            return self.do("dare", helper)
        hopeless = {"broken": "ruin", "adrift": "drift_off"}.get(thing.state)
        if hopeless and self.trait(helper) != "clever" and self.once(0.2, "hopeless", noun):
            return self.do(hopeless, helper, thing=noun)
        return self.do(REMEDIES[thing.state], helper, thing=noun)

    def get_help(self, noun: str, thing: Thing, helper: str, guilty: bool) -> bool:
        """Take a step towards help: tell the helper, ask, or receive an offer. An offer may repay earlier help."""
        owner = thing.owner
        if helper not in thing.known:
            spot = thing.spot if thing.state == "stuck" else ""
            return self.do("tell", owner, whom=helper, thing=noun, what=thing.state, spot=spot)
        if self.once(0.3, "ask", noun):
            return self.do("ask", owner, whom=helper)
        if not guilty and self.show_virtue(helper, owner, noun):
            return True
        helped = any((deed.helper, deed.helped) == (owner, helper) for deed in self.facts.deeds)
        if helped and self.once(0.6, "repay", owner):
            return self.do("repay", helper, whom=owner, thing=noun)
        return self.do("offer", helper, whom=owner, thing=noun, what=thing.state)

    def search(self, noun: str, thing: Thing) -> bool:
        """Look at one spot, and find the thing there or not, or give it up."""
        owner = thing.owner
        seekers = [owner, *(name for name in thing.helping if name != owner)]
        if len(thing.looked) < self.patience[noun]:
            secret = (*thing.looked, self.hideouts[noun])
            spots = [spot for spot in self.here(SPOTS) if spot not in secret]
            if spots:
                group = seekers if self.dice.chance(0.5) else [self.dice.choose(seekers)]
                return self.do("look", *group, thing=noun, spot=self.dice.choose(spots))
        patient = [name for name in seekers if self.trait(name) == "patient"]
        if thing.looked and patient and self.once(0.9, "persist", noun):
            return self.do("persist", patient[0])
        if (
            thing.looked
            and not patient
            and thing.state == "lost"
            and self.once(0.25, "hopeless", noun)
        ):
            return self.do("give_up", *seekers, thing=noun)
        return self.do("find", self.dice.choose(seekers), thing=noun, spot=self.hideouts[noun])

    def answer(self, noun: str, thing: Thing) -> bool:
        """The owner lends the thing or refuses, as the trait says."""
        owner, borrower = thing.owner, thing.asked
        person = self.facts.people[owner]
        kind = "refuse" if person.trait == "greedy" else "lend"
        return self.do(kind, owner, whom=borrower, thing=noun)

    def return_(self, noun: str, thing: Thing) -> bool:
        """Take a step towards giving a thing back to its owner, after it was found, mended, fetched or lent."""
        holder, owner, deeds = thing.holder, thing.owner, self.facts.deeds
        if Deed(holder, "find", owner, noun) in deeds and self.once(0.5, "show", noun):
            return self.do("show", holder, whom=owner, thing=noun, spot=thing.spot)
        if Deed(owner, "lend", holder, noun) in deeds:
            if self.once(0.5, "use", noun):
                return self.do("play", holder, thing=noun)
            honest = self.trait(holder) == "honest"
            if (
                self.once(1.0 if honest else 0.7, "mishap", noun)
                and len(self.facts.mishaps) < MAX_MISHAPS
            ):
                return self.spoil(noun, holder)
        return self.do("give_back", holder, whom=owner, thing=noun)

    def spoil(self, noun: str, holder: str) -> bool:
        """Something happens to a thing that was lent."""
        ways = [
            kind
            for kind, _, _ in self.mishaps_with(noun, holder, "")
            if kind not in ("leave_behind", "break", "blow_away")
            and (kind,) not in self.considered
            and not self.facts.breaks_vow(Event(kind, thing=noun), holder)
        ]
        if not ways:
            return self.do("give_back", holder, whom=self.facts.things[noun].owner, thing=noun)
        return self.suffer(self.dice.choose(ways), holder, noun)

    def make_up(self, wrong: Wrong, state: str) -> bool:
        """Take a step from a wrong towards an apology. The two may part first, but they meet again."""
        culprit, what, victim, noun = wrong
        if state == "open":
            match what:
                case "refuse":
                    if self.once(0.5, "sad", *wrong):
                        return self.do("sad", victim)
                    if self.once(0.5, "walk off", *wrong):
                        return self.do("walk_off", victim, place=self.elsewhere(victim))
                case "gobble":
                    if self.once(1.0, "discover", noun):
                        return self.do("discover", victim, thing=noun)
                    if self.once(0.4, "sad", *wrong):
                        return self.do("sad", victim)
                    if self.once(0.6, "admit", noun):
                        return self.do("admit", culprit, whom=victim, thing=noun)
                case "forget":
                    if self.once(0.7, "wait", victim):
                        return self.do("wait", victim, whom=culprit)
                    if self.once(0.3, "sad", *wrong):
                        return self.do("sad", victim)
                    if self.once(0.8, "remind", victim):
                        return self.do("remind", victim, whom=culprit)
                case "shirk":
                    chore = self.facts.people[victim].chore
                    if chore and self.once(0.5, "toil", victim):
                        return self.do("toil", victim, what=chore)
        place = self.facts.people[victim].place
        if self.facts.people[culprit].place != place:
            if self.once(0.7, "lonely", *wrong):
                return self.do("lonely", culprit, thing=noun)
            return self.do("follow", culprit, whom=victim, place=place)
        return self.reconcile(wrong, state)

    def reconcile(self, wrong: Wrong, state: str) -> bool:
        culprit, what, victim, noun = wrong
        if state == "sorry":
            grudge = self.is_last() and self.once(0.2, "grudge", *wrong)
            return self.do("unforgive" if grudge else "forgive", victim, whom=culprit)
        if (what != "boast") and self.once(0.3, "cross", *wrong):
            return self.do("cross", victim, whom=culprit)
        return self.do("sorry", culprit, whom=victim, thing=noun, what=what)

    def is_last(self) -> bool:
        """Whether only one matter is open, so that a quarrel can stay."""
        return len(self.facts.open_matters()) == 1

    def keep_promise(self) -> bool:
        for name, person in self.facts.people.items():
            if person.promise:
                return self.do("keep", name, whom=person.promised, what=person.promise)
        return False

    def be_grateful(self) -> bool:
        for deed, thanked in self.facts.deeds.items():
            helper, what, helped, noun = deed
            likely = 0.3 if what == "work" else 0.55
            if not thanked and not self.quarrelled() and self.once(likely, "thank", *deed):
                return self.do("thank", helped, whom=helper, thing=noun, what=what)
        return False

    def share(self) -> bool:
        for (culprit, what, victim, noun), state in self.facts.wrongs.items():
            if state != "forgiven":
                continue
            if what == "refuse" and self.once(1.0, "share", noun):
                return self.do("share", culprit, whom=victim, thing=noun)
            made_good = what in ("gobble", "shirk") and not self.facts.people[victim].chore
            if made_good and self.once(0.6, "make good", *victim):
                return self.do("make_good", culprit, whom=victim)
        return False

    def earn(self) -> bool:
        """Take a step towards the end of some work, or for a character who wishes for another's thing."""
        for name, person in self.facts.people.items():
            if person.chore:
                return self.share_work(name, person.chore)
        for name, person in self.facts.people.items():
            if person.wish:
                owner = self.facts.things[person.wish].owner
                if person.earned == owner:
                    return self.do("gift", owner, whom=name, thing=person.wish)
                return self.do("busy", owner, what=self.chore())
        return False

    def share_work(self, name: str, chore: str) -> bool:
        friend = self.friend_of(name)
        lazy = self.trait(friend) == "lazy" and not self.facts.people[friend].wish
        done = Wrong(friend, "shirk", name) in self.facts.wrongs
        if self.once(1.0 if lazy else 0.4, "ask work", name, chore):
            return self.do("ask_work", name, whom=friend, what=chore)
        if lazy and not done:
            return self.do("shirk", friend, whom=name, what=chore)
        return self.do("work", friend, whom=name, what=chore)

    # The ending, once everything is settled.

    def learn(self) -> None:
        """Somebody learns a lesson of what has happened, if there is one."""
        lessons = [lesson for lesson, learned in self.facts.lessons.items() if not learned]
        if lessons and self.facts.learned < len(self.facts.mishaps):
            name, lesson = self.dice.choose(lessons)
            self.do("learn", name, what=lesson)

    def conclude(self) -> None:
        dice, facts, hero = self.dice, self.facts, self.hero
        troubled = [n for n, p in facts.people.items() if p.troubled and not facts.in_trouble(n)]
        if troubled and not self.quarrelled() and dice.chance(0.4):
            self.do("happy", dice.choose(troubled))
        if dice.chance(0.8):
            self.learn()
        friend = self.friend_of(hero)
        group = [hero, friend] if friend else [hero]
        if self.quarrelled():
            self.do("end_apart", *group)
            return
        missed = [noun for noun, t in facts.things.items() if t.state in ("gone", "ruined")]
        if missed and dice.chance(0.7):
            self.do("end_without", facts.things[missed[0]].owner, thing=missed[0])
            return
        near = [
            n
            for n, t in facts.things.items()
            if n in TOYS and t.state == "fine" and t.owner in group
        ]
        mine = [noun for noun in near if facts.things[noun].owner == hero]
        together = friend and frozenset(group) in facts.together
        endings = ["end_home"] + ["end_play"] * 2 * bool(near) + ["end_sleep"] * bool(mine)
        ending = dice.choose(endings + ["end_friends"] * 2 * bool(together))
        match ending:
            case "end_play":
                toy = dice.choose(near)
                owner = facts.things[toy].owner
                others = [name for name in group if name != owner]
                alone = owner == hero and dice.chance(0.3)
                self.do(ending, owner, *([] if alone else others), thing=toy)
            case "end_sleep":
                self.do(ending, hero, thing=dice.choose(mine))
            case _:
                self.do(ending, *group)


FAULTY = frozenset({
    "leave_behind", "break", "hide", "gobble", "boast", "promise", "apart", "stray", "climb", "pity",
})  # fmt: skip
"""Mishaps to which a trait leads."""
