"""An event flows in, its problems flow out, and the facts change: all that a listener knows, and how it changes.

`LAWS` has a law for each kind of event, with the conditions before it and the facts after it; `RULES` apply to every
event. The other modules of this folder enter theirs here.
"""

from collections.abc import Callable, Sequence

from homespun.stories.events import (
    BEGINNING,
    CONCLUSION,
    HARMS,
    HOME,
    MISHAPS,
    TROUBLES,
    Deed,
    Event,
    Person,
    Thing,
    Wrong,
)

MIN_EVENTS = 8
"""The least number of sentences of a story."""

SHOWS = {
    "hide": "cheeky",
    "break": "careless",
    "leave_behind": "careless",
    "refuse": "greedy",
    "gobble": "greedy",
    "afraid": "timid",
    "boast": "proud",
    "shirk": "lazy",
    "forget": "forgetful",
    "apart": "shy",
    "stray": "curious",
    "climb": "daring",
    "console": "kind",
    "cheer": "cheerful",
    "dare": "brave",
    "idea": "clever",
    "persist": "patient",
    "own_up": "honest",
    "soothe": "gentle",
    "free": "gentle",
}
"""The trait that an act shows. Only characters with this trait do it."""
VOWS = {
    "care": {"leave_behind", "break", "lose"},
    "joke": {"hide"},
    "share": {"refuse"},
    "brave": {"afraid"},
    "alone": {"astray", "stray"},
    "ask": {"gobble"},
    "modest": {"boast"},
    "promise": {"forget"},
    "diligent": {"shirk"},
    "climb": {"climb"},
    "borrow": set(HARMS) - {"hide"},
}
"""A lesson, and the events that break the vow of somebody who has learned it."""


class Facts:
    """Everything that a listener knows so far, and the laws by which it changes."""

    def __init__(self) -> None:
        self.people: dict[str, Person] = {}
        self.things: dict[str, Thing] = {}
        self.scene = HOME
        self.visited: list[str] = []
        self.out = False
        """Whether somebody has set out, so that something can happen."""
        self.day = ""
        """The phrase that states when the outing began."""
        self.hour = 0
        self.weather = ""
        self.small = ""
        """The small animal that is in need."""
        self.contest: tuple[str, str] | None = None
        """The boaster and the listener, until the race is won."""
        self.wrongs: dict[Wrong, str] = {}
        """State of each wrong: open, sorry, forgiven or unforgiven."""
        self.deeds: dict[Deed, bool] = {}
        """Whether each deed was thanked for."""
        self.lessons: dict[tuple[str, str], bool] = {}
        """Whether each (person, lesson) was learned."""
        self.learned = 0
        """Number of lessons that were learned."""
        self.mishaps: list[str] = []
        self.since: set[tuple[object, ...]] = set()
        """The events since the last mishap."""
        self.together: set[frozenset[str]] = set()
        """The pairs of people who have dealt with each other."""
        self.moved = 0
        """Number of mishaps before the last move."""
        self.number = 0
        """Number of events."""
        self.ended = False
        self._problems: list[str] = []

    @property
    def hero(self) -> str:
        return next(iter(self.people), "")

    def happen(self, event: Event) -> list[str]:
        """Apply an event to the facts, and return its problems, one line each."""
        problems: list[str] = []
        self._problems = problems
        for rule in RULES.values():
            rule(self, event)
        LAWS[event.kind](self, event)
        self._follow_up(event)
        return problems

    def _follow_up(self, event: Event) -> None:
        self.number += 1
        present = (*event.who, event.whom) if event.whom else event.who
        if event.who and event.kind != "walk_off":
            self.scene = self.people[event.who[0]].place
        if event.thing and event.kind != "own":
            self.things[event.thing].plays_part = True
        if event.kind not in BEGINNING | CONCLUSION | {"arrive", "go_on"}:
            for name in present:
                self.people[name].plays_part = True
            self.together |= {frozenset((a, b)) for a in present for b in present if a != b}
        if event.kind in SHOWS and event.who:
            self.people[event.who[0]].shown = True

    def lacks(self) -> list[str]:
        """The problems of a story that ends here, one line each."""
        problems = [] if self.ended else ["unfinished: the story has no ending"]
        if not self.mishaps:
            problems.append("nothing happens in this story")
        if self.number < MIN_EVENTS:
            problems.append("this is too short for a story")
        for name, person in self.people.items():
            if not person.plays_part:
                problems.append(f"{name} plays no part in the story")
            if person.trait and not person.shown:
                problems.append(f"nothing shows that {name} is {person.trait}")
        problems += [
            f"the {noun} plays no part in the story"
            for noun, thing in self.things.items()
            if not thing.plays_part
        ]
        return problems

    def troubles(self) -> list[str]:
        """The matters that must be settled before anybody has fun again, one line each."""
        open_ = [
            f"the {noun} is {t.state}" for noun, t in self.things.items() if t.state in TROUBLES
        ]
        open_ += [
            f"{wrong.victim} has not forgiven {wrong.culprit}"
            for wrong, state in self.wrongs.items()
            if state in ("open", "sorry")
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
        if self.small:
            open_.append(f"nobody has helped the {self.small}")
        if self.contest:
            open_.append(f"nobody has shown {self.contest[0]} who is better")
        return open_

    def open_matters(self) -> list[str]:
        """The matters that must be settled before the story may end, one line each."""
        open_ = self.troubles()
        open_ += [
            f"{t.holder} still has {t.owner}'s {noun}"
            for noun, t in self.things.items()
            if t.state == "fine" and t.holder != t.owner
        ]
        open_ += [
            f"{name} still has to {person.promise}"
            for name, person in self.people.items()
            if person.promise
        ]
        return open_

    def in_trouble(self, name: str) -> bool:
        """Whether `name` has a reason to be sad and knows it."""
        person = self.people[name]
        return bool(
            person.ailment
            or person.wish
            or self.is_wronged(name)
            or any(
                t.owner == name
                and (t.state in ("gone", "ruined") or (t.state in TROUBLES and name in t.known))
                for t in self.things.values()
            )
        )

    def is_wronged(self, name: str, *kinds: str) -> bool:
        """Whether somebody has wronged `name`, who knows it, and was not forgiven."""
        return any(
            wrong.victim == name
            and state != "forgiven"
            and wrong.what in (kinds or ("refuse", "gobble", "boast", "forget", "shirk"))
            and (wrong.what != "gobble" or name in self.things[wrong.thing].known)
            for wrong, state in self.wrongs.items()
        )

    def is_mishap(self, event: Event) -> bool:
        """Whether something goes wrong that is not a part of another trouble."""
        if event.kind == "busy":
            return not any(person.wish for person in self.people.values())
        return event.kind in MISHAPS

    def breaks_vow(self, event: Event, name: str) -> bool:
        """Whether `name` does what a lesson has taught not to do."""
        person = self.people.get(name)
        broken = (
            {lesson for lesson in person.vows if event.kind in VOWS.get(lesson, ())}
            if person
            else set()
        )
        if "borrow" in broken and self.things[event.thing].owner == name:
            broken.remove("borrow")
        return bool(broken)

    def at(self, place: str) -> list[str]:
        """The people at a place."""
        return [name for name, person in self.people.items() if person.place == place]

    # Parts of laws.

    def need(self, true: object, problem: str, *names: str) -> None:
        if not true:
            self._problems.append(problem.format(*names))

    def know(self, name: str) -> None:
        if name not in self.people:
            self.need(False, "nobody has met {} before", name)
            self.people[name] = Person("", "", self.scene)

    def has(self, names: Sequence[str], noun: str) -> Thing:
        """One of `names` holds the thing, and the thing is fine."""
        thing = self.things[noun]
        self.need(thing.state == "fine", "the {} is {}", noun, thing.state)
        self.need(
            thing.holder in names, "{} does not have the {}", names[0] if names else "nobody", noun
        )
        return thing

    def in_state(self, noun: str, *states: str) -> Thing:
        thing = self.things[noun]
        self.need(thing.state in states, "the {} is not {}", noun, states[0])
        return thing

    def owns(self, name: str, noun: str) -> None:
        owner = self.things[noun].owner
        self.need(name == owner, "the {} belongs to {}", noun, owner)

    def knows(self, name: str, noun: str) -> None:
        known = name in self.things[noun].known
        self.need(known, "{} does not know what is wrong with the {}", name, noun)

    def cares(self, name: str, noun: str) -> None:
        """`name` may deal with a thing in trouble: knows of it, and owns or holds it or has offered help."""
        thing = self.things[noun]
        self.knows(name, noun)
        caring = (thing.owner, thing.holder, *thing.helping)
        self.need(name in caring, "{} has not offered to help with the {}", name, noun)

    def harm(self, noun: str, state: str) -> None:
        """A thing gets into trouble, and everyone at the place knows it."""
        thing = self.things[noun]
        holder = self.people.get(thing.holder)
        thing.state = state
        thing.known = self.at(holder.place if holder else self.scene)
        thing.looked, thing.helping, thing.failed = [], [], []
        if thing.owner in self.people:
            self.people[thing.owner].troubled = True
        if thing.holder != thing.owner and holder:
            self.wrongs[Wrong(thing.holder, state, thing.owner, noun)] = "open"
            self.lessons[thing.holder, "borrow"] = False

    def settle(self, name: str, deed: str, noun: str) -> None:
        """The trouble with a thing has ended, and `name` holds the thing."""
        thing = self.things[noun]
        thing.state, thing.holder = "fine", name
        self.done(name, deed, thing.owner, noun)
        if thing.owner != name and (thing.owner, "care") not in self.lessons:
            self.lessons[thing.owner, "friends"] = False

    def lose_for_good(self, noun: str, state: str) -> None:
        thing = self.things[noun]
        thing.state, thing.holder = state, thing.owner
        self.lessons[thing.owner, "loss"] = False

    def done(self, helper: str, deed: str, helped: str, noun: str = "") -> None:
        if helper != helped:
            self.deeds[Deed(helper, deed, helped, noun)] = False

    def wrong(self, culprit: str, what: str, victim: str, noun: str = "", lesson: str = "") -> None:
        self.wrongs[Wrong(culprit, what, victim, noun)] = "open"
        self.lessons[culprit, lesson or what] = False
        if what != "hidden":
            self.people[victim].troubled = True

    def ail(self, event: Event) -> None:
        person = self.people[event.who[0]]
        self.need(not person.ailment, "nobody has helped {} before", event.who[0])
        person.ailment, person.troubled = event.kind, True
        person.limb = event.what if event.kind == "fall" else ""


Rule = Callable[[Facts, Event], None]
RULES: dict[str, Rule] = {}
LAWS: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


def law(*kinds: str) -> Callable[[Rule], Rule]:
    """Make a function the law of these kinds of events."""

    def add(function: Rule) -> Rule:
        LAWS.update(dict.fromkeys(kinds, function))
        return function

    return add
