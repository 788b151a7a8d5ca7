"""The laws of the world: an event flows in, its problems flow out, and the facts change.

`Facts` has a law for each kind of event, with the conditions before it and the facts after it. The simulation obeys
these laws, and the judge applies the same laws to a story.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from homespun.stories.lexicon import CHILD, FOODS, FRAGILE, LIGHT, THROWN

HOME = ""
"""The initial place of every character."""


class Event(NamedTuple):
    """An event. If it is simulated, it has all fields that apply; if it is read, it has those that the text states."""

    kind: str
    who: tuple[str, ...] = ()
    whom: str = ""
    thing: str = ""
    colour: str = ""
    owner: str = ""
    place: str = ""
    spot: str = ""
    what: str = ""
    """Depends on the kind: a creature, food, a trouble, wrong, good deed, weather, limb, chore or lesson."""
    trait: str = ""
    called: tuple[tuple[str, str], ...] = ()
    """The pairs of name and creature in phrases such as "Lily the pig"."""


@dataclass(slots=True)
class Person:
    creature: str
    trait: str
    place: str
    ailment: str = ""
    """One of afraid, hungry and astray, or the limb that hurts."""
    chore: str = ""
    wish: str = ""
    troubled: bool = False
    """Whether the person has had a reason to be sad."""


@dataclass(slots=True)
class Thing:
    colour: str
    owner: str
    holder: str
    state: str = "fine"
    """One of fine, lost, hidden, stuck, broken and eaten."""
    spot: str = ""
    """The spot at which it is stuck or hidden, or was found."""
    place: str = ""
    known: list[str] = field(default_factory=list)
    """The people who know of its trouble."""
    helping: list[str] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    asked: str = ""
    """The person who has asked to borrow it."""


class Wrong(NamedTuple):
    """A wrong that somebody has done and has to apologise for."""

    culprit: str
    what: str
    """`refuse`, or the state that the thing got into."""
    victim: str
    thing: str


class Deed(NamedTuple):
    """A good deed that somebody can be thanked for."""

    helper: str
    what: str
    helped: str
    thing: str = ""


ARRIVALS = frozenset({"intro", "live", "friend", "arrive"})
MOVES = frozenset({"intro", "live", "set_out", "take", "walk_off", "follow"})
"""The place of these events is the destination."""
ENDINGS = frozenset({"end_play", "end_home", "end_friends", "end_sleep"})
TROUBLES = frozenset({"lost", "hidden", "stuck", "broken"})


class Facts:
    """Everything that a listener knows so far, and the laws by which it changes."""

    def __init__(self) -> None:
        self.people: dict[str, Person] = {}
        self.things: dict[str, Thing] = {}
        self.scene = HOME
        self.weather = ""
        self.wrongs: dict[Wrong, str] = {}
        """State of each wrong: open, sorry or forgiven."""
        self.deeds: dict[Deed, bool] = {}
        """Whether each deed was thanked for."""
        self.lessons: dict[tuple[str, str], bool] = {}
        """Whether each (person, lesson) was learned."""
        self.ended = False
        self._problems: list[str] = []

    def happen(self, event: Event) -> list[str]:
        """Apply an event to the facts, and return its problems, one line each."""
        problems: list[str] = []
        self._problems = problems
        self._need(not self.ended, "the story goes on after its ending")
        self._meet(event)
        getattr(self, "_" + event.kind)(event)
        if event.who:
            self.scene = self.people[event.who[0]].place
        return problems

    def open_matters(self) -> list[str]:
        """The matters that must be settled before the story may end, one line each."""
        open_ = [
            f"the {noun} is {t.state}" for noun, t in self.things.items() if t.state in TROUBLES
        ]
        open_ += [
            f"{t.holder} still has {t.owner}'s {noun}"
            for noun, t in self.things.items()
            if t.state == "fine" and t.holder != t.owner
        ]
        open_ += [
            f"{wrong.victim} has not forgiven {wrong.culprit}"
            for wrong, state in self.wrongs.items()
            if state != "forgiven"
        ]
        for name, person in self.people.items():
            if person.ailment:
                open_.append(f"nobody has helped {name}")
            if person.wish:
                open_.append(f"{name} still wishes for a {person.wish}")
            if person.chore:
                open_.append(f"{name} still has to {person.chore}")
        for noun, thing in self.things.items():
            if thing.asked:
                open_.append(f"{thing.asked} has no answer about the {noun}")
        if self.weather:
            open_.append(f"the {self.weather} is not over")
        return open_

    def in_trouble(self, name: str) -> bool:
        """Whether `name` has a reason to be sad and knows it."""
        person = self.people[name]
        if person.ailment or person.wish:
            return True
        if any(
            t.owner == name and t.state in TROUBLES and name in t.known
            for t in self.things.values()
        ):
            return True
        return self._is_refused(name)

    def _is_refused(self, name: str) -> bool:
        """Whether somebody has refused to share with `name` and has not apologised."""
        return any(
            wrong.what == "refuse" and wrong.victim == name and state == "open"
            for wrong, state in self.wrongs.items()
        )

    def at(self, place: str) -> list[str]:
        """The people at a place."""
        return [name for name, person in self.people.items() if person.place == place]

    # Laws for every event.

    def _need(self, true: object, problem: str, *names: str) -> None:
        if not true:
            self._object(problem, *names)

    def _object(self, problem: str, *names: str) -> None:
        self._problems.append(problem.format(*names))

    def _meet(self, event: Event) -> None:
        """All people and things of the event are known, present, and as the event describes them."""
        present = (*event.who, event.whom) if event.whom else event.who
        if event.kind not in ARRIVALS:
            for name in event.who:
                self._know(name)
        if event.whom:
            self._know(event.whom)
        if event.kind not in ARRIVALS and len(present) > 1:
            here = self.people[present[0]].place
            if event.kind != "follow":
                for name in present[1:]:
                    self._need(self.people[name].place == here, "{} is not there", name)
            self._need(len(set(present)) == len(present), "{} is there twice", present[0])
        for name, creature in event.called:
            self._need(self.people[name].creature == creature, "{} is not a {}", name, creature)
        if event.thing and event.kind != "own":
            thing = self.things.get(event.thing)
            if thing is None:
                self._object("there was no {} before", event.thing)
                owner = event.owner or (present[0] if present else "")
                thing = self.things[event.thing] = Thing(event.colour, owner, owner)
            if event.colour:
                self._need(event.colour == thing.colour, "the {} is {}", event.thing, thing.colour)
            if event.owner:
                self._need(
                    event.owner == thing.owner, "the {} belongs to {}", event.thing, thing.owner
                )
            gone = thing.state == "eaten" and event.kind != "thank"
            self._need(not gone, "the {} is eaten", event.thing)
        if event.place and event.who and event.kind not in MOVES:
            here = self.people[event.who[0]].place
            self._need(event.place == here, "{} is not in this place", event.who[0])

    def _know(self, name: str) -> None:
        if name not in self.people:
            self._object("nobody has met {} before", name)
            self.people[name] = Person("", "", self.scene)

    def _trait(self, name: str, trait: str) -> None:
        self._need(self.people[name].trait == trait, "{} is not {}", name, trait)

    def _has(self, names: Sequence[str], noun: str) -> Thing:
        """One of `names` holds the thing, and the thing is fine."""
        thing = self.things[noun]
        self._need(thing.state == "fine", "the {} is {}", noun, thing.state)
        self._need(
            thing.holder in names, "{} does not have the {}", names[0] if names else "nobody", noun
        )
        return thing

    def _in_state(self, noun: str, state: str) -> Thing:
        thing = self.things[noun]
        self._need(thing.state == state, "the {} is not {}", noun, state)
        return thing

    def _harm(self, noun: str, state: str) -> None:
        """A thing gets into trouble, and everyone at the place knows it."""
        thing = self.things[noun]
        holder = self.people.get(thing.holder)
        thing.place = holder.place if holder else self.scene
        thing.state = state
        thing.known = self.at(thing.place)
        thing.looked, thing.helping = [], []
        if thing.owner in self.people:
            self.people[thing.owner].troubled = True
        if thing.holder != thing.owner and holder:
            self.wrongs[Wrong(thing.holder, state, thing.owner, noun)] = "open"
            self.lessons[thing.holder, "borrow"] = False

    def _knows(self, name: str, noun: str) -> None:
        known = name in self.things[noun].known
        self._need(known, "{} does not know what is wrong with the {}", name, noun)

    def _owns(self, name: str, noun: str) -> None:
        owner = self.things[noun].owner
        self._need(name == owner, "the {} belongs to {}", noun, owner)

    def _cares(self, name: str, noun: str) -> None:
        """`name` may deal with a thing in trouble: knows of it, is there, and owns or holds it or has offered help."""
        thing = self.things[noun]
        self._knows(name, noun)
        self._need(self.people[name].place == thing.place, "{} is not where the {} is", name, noun)
        caring = (thing.owner, thing.holder, *thing.helping)
        self._need(name in caring, "{} has not offered to help with the {}", name, noun)

    def _done(self, helper: str, deed: str, helped: str, noun: str = "") -> None:
        if helper != helped:
            self.deeds[Deed(helper, deed, helped, noun)] = False

    # The beginning.

    def _enter(self, event: Event, place: str) -> None:
        (name,) = event.who
        self._need(name not in self.people, "{} is already in the story", name)
        child = event.what in CHILD.values()
        self._need(not child or event.what == CHILD[name], "{} is not a {}", name, event.what)
        self.people[name] = Person(event.what, event.trait, place)

    def _intro(self, event: Event) -> None:
        self._enter(event, HOME)

    def _live(self, event: Event) -> None:
        self._enter(event, event.place)

    def _friend(self, event: Event) -> None:
        self._enter(event, self.people[event.whom].place)

    def _arrive(self, event: Event) -> None:
        self._enter(event, self.scene)

    def _own(self, event: Event) -> None:
        self._need(event.thing not in self.things, "there is a {} already", event.thing)
        food = event.thing in FOODS
        self._need(food == (event.what == "food"), "nobody would say that of a {}", event.thing)
        self.things[event.thing] = Thing(event.colour, event.who[0], event.who[0])

    # Moving and playing.

    def _set_out(self, event: Event) -> None:
        for name in event.who:
            person = self.people[name]
            self._need(person.place != event.place, "{} is there already", name)
            person.place = event.place

    def _take(self, event: Event) -> None:
        self._has(event.who, event.thing)
        self._set_out(event)

    def _play(self, event: Event) -> None:
        self._has(event.who, event.thing)

    # A thing gets lost, hidden, stuck or broken.

    def _lose(self, event: Event) -> None:
        self._has(event.who, event.thing)
        self._harm(event.thing, "lost")

    def _leave_behind(self, event: Event) -> None:
        self._trait(event.who[0], "careless")
        self._lose(event)
        self.lessons[event.who[0], "care"] = False

    def _blow_away(self, event: Event) -> None:
        self._need(event.thing in LIGHT, "a {} is too heavy for the wind", event.thing)
        self._has([self.things[event.thing].holder], event.thing)
        self._harm(event.thing, "lost")

    def _hide(self, event: Event) -> None:
        (name,) = event.who
        thing = self._has([self.things[event.thing].owner], event.thing)
        self._trait(name, "cheeky")
        self._need(thing.owner != name, "the {} belongs to {}", event.thing, name)
        if event.whom:
            self._owns(event.whom, event.thing)
        self._need(thing.owner in self.at(self.people[name].place), "{} is not there", thing.owner)
        self._harm(event.thing, "hidden")
        thing.known, thing.spot = [name], event.spot
        self.wrongs[Wrong(name, "hidden", thing.owner, event.thing)] = "open"
        self.lessons[name, "joke"] = False

    def _miss(self, event: Event) -> None:
        thing = self._in_state(event.thing, "hidden")
        self._owns(event.who[0], event.thing)
        thing.known.append(event.who[0])

    def _giggle(self, event: Event) -> None:
        self._hid(event.who[0], event)
        self._need(len(self.things[event.thing].known) > 1, "nobody misses the {}", event.thing)

    def _hid(self, name: str, event: Event) -> Thing:
        """`name` has hidden the thing, at the spot of the event."""
        thing = self._in_state(event.thing, "hidden")
        wrong = Wrong(name, "hidden", thing.owner, event.thing)
        self._need(wrong in self.wrongs, "{} did not hide the {}", name, event.thing)
        self._need(thing.spot == event.spot, "the {} was hidden somewhere else", event.thing)
        return thing

    def _toss(self, event: Event) -> None:
        self._has(event.who, event.thing)
        self._need(event.thing in THROWN, "nobody throws a {}", event.thing)
        self._harm(event.thing, "stuck")
        self.things[event.thing].spot = event.spot

    def _drop(self, event: Event) -> None:
        self._has(event.who, event.thing)
        self._need(event.thing in FRAGILE, "a {} does not break", event.thing)
        self._harm(event.thing, "broken")

    def _break(self, event: Event) -> None:
        self._trait(event.who[0], "careless")
        self._drop(event)
        self.lessons[event.who[0], "care"] = False

    # Solving the trouble with a thing.

    def _sad(self, event: Event) -> None:
        self._need(self.in_trouble(event.who[0]), "{} has no reason to be sad", event.who[0])

    def _tell(self, event: Event) -> None:
        thing = self._in_state(event.thing, event.what)
        if event.spot:
            self._need(thing.spot == event.spot, "the {} is stuck somewhere else", event.thing)
        self._knows(event.who[0], event.thing)
        self._need(event.whom not in thing.known, "{} knows about the {}", event.whom, event.thing)
        thing.known.append(event.whom)

    def _ask(self, event: Event) -> None:
        (name,) = event.who
        self._need(self.in_trouble(name), "{} needs no help", name)
        knows = self.people[name].ailment or any(
            event.whom in t.known for t in self.things.values()
        )
        self._need(knows, "{} does not know what is wrong", event.whom)

    def _offer(self, event: Event) -> None:
        thing = self._in_state(event.thing, event.what)
        self._knows(event.who[0], event.thing)
        self._owns(event.whom, event.thing)
        thing.helping.append(event.who[0])

    def _repay(self, event: Event) -> None:
        (name,) = event.who
        before = any((deed.helper, deed.helped) == (event.whom, name) for deed in self.deeds)
        self._need(before, "{} has not helped {} before", event.whom, name)
        thing = self.things[event.thing]
        self._need(thing.state in TROUBLES, "the {} is {}", event.thing, thing.state)
        self._offer(event._replace(what=thing.state))
        self.lessons[event.whom, "return"] = False

    def _look(self, event: Event) -> None:
        thing = self.things[event.thing]
        self._need(thing.state in ("lost", "hidden"), "the {} is not lost", event.thing)
        for name in event.who:
            self._cares(name, event.thing)
            self._done(name, "help", thing.owner)
        self._need(event.spot not in thing.looked, "this place was searched before")
        if thing.state == "hidden":
            self._need(event.spot != thing.spot, "the {} was hidden there", event.thing)
        thing.looked.append(event.spot)

    def _find(self, event: Event) -> None:
        thing = self.things[event.thing]
        (name,) = event.who
        self._need(thing.state in ("lost", "hidden"), "the {} is not lost", event.thing)
        self._cares(name, event.thing)
        self._need(event.spot not in thing.looked, "the {} was not there before", event.thing)
        if thing.state == "hidden":
            self._need(event.spot == thing.spot, "the {} was hidden somewhere else", event.thing)
        self._settle(name, "find", event.thing)
        thing.spot = event.spot

    def _settle(self, name: str, deed: str, noun: str) -> None:
        """The trouble with a thing has ended, and `name` holds the thing."""
        thing = self.things[noun]
        thing.state, thing.holder = "fine", name
        self._done(name, deed, thing.owner, noun)
        if thing.owner != name and (thing.owner, "care") not in self.lessons:
            self.lessons[thing.owner, "friends"] = False

    def _show(self, event: Event) -> None:
        thing = self._has(event.who, event.thing)
        self._need(
            Deed(event.who[0], "find", thing.owner, event.thing) in self.deeds,
            "{} did not find it",
            event.who[0],
        )
        self._need(thing.spot == event.spot, "the {} was found somewhere else", event.thing)

    def _confess(self, event: Event) -> None:
        (name,) = event.who
        thing = self._hid(name, event)
        self._knows(thing.owner, event.thing)
        self.lessons[name, "truth"] = False
        thing.helping.append(name)

    def _fetch(self, event: Event) -> None:
        thing = self._in_state(event.thing, "hidden")
        self._cares(event.who[0], event.thing)
        if event.spot:
            self._need(thing.spot == event.spot, "the {} was hidden somewhere else", event.thing)
        thing.state, thing.holder = "fine", event.who[0]

    def _reach(self, event: Event) -> None:
        self._in_state(event.thing, "stuck")
        self._cares(event.who[0], event.thing)

    def _get_down(self, event: Event) -> None:
        self._reach(event)
        self._settle(event.who[0], "get_down", event.thing)

    def _try_mend(self, event: Event) -> None:
        self._in_state(event.thing, "broken")
        self._cares(event.who[0], event.thing)

    def _mend(self, event: Event) -> None:
        self._try_mend(event)
        self._settle(event.who[0], "mend", event.thing)

    def _give_back(self, event: Event) -> None:
        thing = self._has(event.who, event.thing)
        self._owns(event.whom, event.thing)
        thing.holder = event.whom

    def _thank(self, event: Event) -> None:
        done = [
            deed
            for deed, thanked in self.deeds.items()
            if (deed.helper, deed.what, deed.helped) == (event.whom, event.what, event.who[0])
            and event.thing in ("", deed.thing)
            and not thanked
        ]
        self._need(done, "{} has nothing of that kind to thank {} for", event.who[0], event.whom)
        for deed in done[:1]:
            self.deeds[deed] = True

    # Lending, sharing, quarrels and apologies.

    def _ask_borrow(self, event: Event) -> None:
        thing = self._has([event.whom], event.thing)
        self._owns(event.whom, event.thing)
        thing.asked = event.who[0]

    def _answer(self, event: Event) -> None:
        thing = self._has(event.who, event.thing)
        self._owns(event.who[0], event.thing)
        asked = thing.asked == event.whom
        self._need(asked, "{} has not asked for the {}", event.whom, event.thing)
        thing.asked = ""

    def _lend(self, event: Event) -> None:
        self._answer(event)
        self._done(event.who[0], "lend", event.whom, event.thing)
        self.things[event.thing].holder = event.whom

    def _refuse(self, event: Event) -> None:
        self._trait(event.who[0], "greedy")
        self._answer(event)
        self.wrongs[Wrong(event.who[0], "refuse", event.whom, event.thing)] = "open"
        self.lessons[event.who[0], "share"] = False
        self.people[event.whom].troubled = True

    def _cross(self, event: Event) -> None:
        wronged = any(
            (wrong.culprit, wrong.victim, state) == (event.whom, event.who[0], "open")
            for wrong, state in self.wrongs.items()
        )
        self._need(wronged, "{} has done nothing wrong to {}", event.whom, event.who[0])

    def _walk_off(self, event: Event) -> None:
        (name,) = event.who
        self._need(self._is_refused(name), "{} has no reason to walk away", name)
        self._set_out(event)

    def _lonely(self, event: Event) -> None:
        self._has(event.who, event.thing)
        alone = len(self.at(self.people[event.who[0]].place)) == 1
        self._need(alone, "{} is not alone", event.who[0])

    def _follow(self, event: Event) -> None:
        self._need(self.people[event.whom].place == event.place, "{} is not there", event.whom)
        self._set_out(event)

    def _sorry(self, event: Event) -> None:
        wrong = Wrong(event.who[0], event.what, event.whom, event.thing)
        self._need(
            self.wrongs.get(wrong) == "open",
            "{} has nothing of that kind to be sorry for",
            event.who[0],
        )
        self.wrongs[wrong] = "sorry"

    def _forgive(self, event: Event) -> None:
        wrongs = [
            wrong
            for wrong, state in self.wrongs.items()
            if (wrong.culprit, wrong.victim, state) == (event.whom, event.who[0], "sorry")
        ]
        self._need(wrongs, "{} has not said sorry to {}", event.whom, event.who[0])
        for wrong in wrongs:
            self.wrongs[wrong] = "forgiven"
            self.lessons[event.who[0], "forgive"] = False

    def _share(self, event: Event) -> None:
        self._has(event.who, event.thing)
        wrong = Wrong(event.who[0], "refuse", event.whom, event.thing)
        self._need(
            self.wrongs.get(wrong) == "forgiven",
            "{} and {} have not made up",
            event.who[0],
            event.whom,
        )
        self._done(event.who[0], "share", event.whom, event.thing)

    # Weather, hunger, falls and losing the way.

    def _weather(self, event: Event) -> None:
        self._need(not self.weather, "there is {} already", self.weather)
        self.weather = event.what

    def _shelter(self, event: Event) -> None:
        self._need(self.weather == event.what, "there is no {}", event.what)

    def _afraid(self, event: Event) -> None:
        self._shelter(event)
        self._trait(event.who[0], "timid")
        self._ail(event.who[0], "afraid")

    def _ail(self, name: str, ailment: str) -> None:
        person = self.people[name]
        self._need(not person.ailment, "nobody has helped {} before", name)
        person.ailment, person.troubled = ailment, True

    def _heal(self, event: Event, ailment: str, deed: str, lesson: str) -> None:
        person = self.people[event.whom]
        self._need(person.ailment == ailment, "{} has no such trouble", event.whom)
        person.ailment = ""
        self._done(event.who[0], deed, event.whom, event.thing)
        self.lessons[event.whom, lesson] = False

    def _comfort(self, event: Event) -> None:
        if event.what:
            self._need(self.weather == event.what, "there is no {}", event.what)
        self._heal(event, "afraid", "comfort", "brave")

    def _clear(self, event: Event) -> None:
        self._need(self.weather == event.what, "there is no {}", event.what)
        self.weather = ""

    def _hungry(self, event: Event) -> None:
        self._ail(event.who[0], "hungry")

    def _feed(self, event: Event) -> None:
        thing = self._has(event.who, event.thing)
        self._need(event.thing in FOODS, "a {} is no food", event.thing)
        self._heal(event, "hungry", "feed", "friends")
        thing.state = "eaten"

    def _fall(self, event: Event) -> None:
        self._ail(event.who[0], event.what)

    def _tend(self, event: Event) -> None:
        self._heal(event, event.what, "tend", "friends")

    def _astray(self, event: Event) -> None:
        (name,) = event.who
        self._need(self.at(self.people[name].place) == [name], "{} is not alone", name)
        self._ail(name, "astray")

    def _guide(self, event: Event) -> None:
        self._heal(event, "astray", "guide", "alone")
        for name in (*event.who, event.whom):
            self.people[name].place = HOME

    # Wishing, working, giving.

    def _wish(self, event: Event) -> None:
        (name,) = event.who
        self._has([event.whom], event.thing)
        self._owns(event.whom, event.thing)
        self.people[name].wish, self.people[name].troubled = event.thing, True

    def _busy(self, event: Event) -> None:
        person = self.people[event.who[0]]
        self._need(not person.chore, "{} still has to {}", event.who[0], person.chore)
        person.chore = event.what

    def _work(self, event: Event) -> None:
        person = self.people[event.whom]
        self._need(person.chore == event.what, "{} does not have to {}", event.whom, event.what)
        person.chore = ""
        self._done(event.who[0], "work", event.whom)

    def _gift(self, event: Event) -> None:
        (giver,) = event.who
        thing = self._has(event.who, event.thing)
        self._owns(giver, event.thing)
        wish = self.people[event.whom].wish
        self._need(wish == event.thing, "{} did not wish for the {}", event.whom, event.thing)
        self._need(
            Deed(event.whom, "work", giver) in self.deeds, "{} has not helped {}", event.whom, giver
        )
        thing.owner = thing.holder = event.whom
        self.people[event.whom].wish = ""
        self._done(giver, "gift", event.whom, event.thing)
        self.lessons[event.whom, "kind"] = False

    # The ending.

    def _happy(self, event: Event) -> None:
        for name in event.who:
            self._need(self.people[name].troubled, "{} was not sad before", name)
            self._need(not self.in_trouble(name), "{} has no reason to be happy", name)

    def _learn(self, event: Event) -> None:
        lesson = (event.who[0], event.what)
        self._need(self.lessons.get(lesson) is False, "nothing taught {} this lesson", event.who[0])
        self.lessons[lesson] = True

    def _end_friends(self, event: Event) -> None:
        for matter in self.open_matters():
            self._object("the story ends, but {}", matter)
        self.ended = True

    def _end_home(self, event: Event) -> None:
        for name in event.who:
            self._need(self.people[name].place != HOME, "{} is at home already", name)
        self._end_friends(event)

    def _end_play(self, event: Event) -> None:
        self._has(event.who, event.thing)
        self._end_friends(event)

    def _end_sleep(self, event: Event) -> None:
        self._has(event.who, event.thing)
        self._owns(event.who[0], event.thing)
        self._end_friends(event)
