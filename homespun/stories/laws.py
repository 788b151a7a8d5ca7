"""The laws of the world: an event flows in, its problems flow out, and the facts change.

`LAWS` has a law for each kind of event, with the conditions before it and the facts after it; `RULES` apply to every
event. The simulation obeys these laws, and the judge applies the same laws to a story.
"""

from collections.abc import Callable, Sequence

from homespun.stories.events import (
    AILMENTS,
    ARRIVALS,
    BEGINNING,
    CONCLUSION,
    FUN,
    HARMS,
    HOME,
    MISHAPS,
    MOVES,
    OUTINGS,
    REMEDIES,
    TROUBLES,
    Deed,
    Event,
    Person,
    Thing,
    Wrong,
)
from homespun.stories.lexicon import (
    CHILDREN,
    CHORES,
    CLOTH,
    FEATURES,
    FLOATING,
    FOODS,
    FRAGILE,
    HEIGHTS,
    IMPOSSIBLE,
    LIGHT,
    LIVELY,
    SHELTERS,
    SPOTS,
    THROWN,
    WASHABLE,
    fits,
    hour,
)

__all__ = ["LAWS", "RULES", "Event", "Facts"]

MIN_EVENTS = 8
"""The least number of sentences of a story."""
MAX_MISHAPS = 3
MAX_LOOKS = 4
"""The number of spots at which a thing is searched in vain."""

EATING = frozenset({"feed", "gobble", "discover", "admit"})
"""The only events in which a food is the thing, besides owning, thanks and apologies."""
WAYS = (
    dict.fromkeys(("drop", "break"), (FRAGILE, "a {} does not break"))
    | {"blow_away": (LIGHT, "a {} is too heavy for the wind")}
    | {"toss": (THROWN, "nobody throws a {}")}
    | {"tear": (CLOTH, "a {} does not tear")}
    | {"float": (FLOATING, "a {} does not float")}
    | {"soil": (WASHABLE, "a {} can not be washed")}
)
"""The things that a mishap can happen to, and the problem with others."""
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
LEARNED = {  # an ailment: the lesson that its end teaches
    "afraid": "brave",
    "astray": "alone",
    "stray": "alone",
    "climb": "climb",
    "apart": "join",
}


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


# Rules for every event.

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


# The beginning.


def enter(facts: Facts, event: Event, place: str) -> None:
    (name,) = event.who
    facts.need(name not in facts.people, "{} is already in the story", name)
    names = CHILDREN.get(event.what)
    facts.need(names is None or name in names, "{} is not a {}", name, event.what)
    facts.people[name] = Person(event.what, event.trait, place)


@law("intro", "live")
def intro(facts: Facts, event: Event) -> None:
    enter(facts, event, event.place)
    facts.visited = [event.place]


@law("friend")
def friend(facts: Facts, event: Event) -> None:
    enter(facts, event, facts.people[event.whom].place)


@law("arrive")
def arrive(facts: Facts, event: Event) -> None:
    facts.need(facts.troubles(), "{} has no reason to stop", event.who[0])
    facts.need(len(facts.people) == 1, "{} is not needed", event.who[0])
    enter(facts, event, facts.scene)


@law("own")
def own(facts: Facts, event: Event) -> None:
    (name,) = event.who
    facts.need(event.thing not in facts.things, "there is a {} already", event.thing)
    food = event.thing in FOODS
    facts.need(food == (event.what == "food"), "nobody would say that of a {}", event.thing)
    alike = [
        noun for noun, t in facts.things.items() if t.owner == name and (noun in FOODS) == food
    ]
    facts.need(not alike, "{} has too many things", name)
    facts.things[event.thing] = Thing(event.colour, name, name)


# Moving and playing.


def go(facts: Facts, event: Event) -> None:
    """People go to a place where they have not been."""
    facts.need(event.place not in facts.visited, "they have been there already")
    facts.visited.append(event.place)
    for name in event.who:
        facts.people[name].place = event.place


def go_together(facts: Facts, event: Event) -> None:
    left = set(facts.at(facts.people[event.who[0]].place)) - set(event.who)
    facts.need(not left, "{} is left behind", *left)
    go(facts, event)


@law("set_out")
def set_out(facts: Facts, event: Event) -> None:
    go_together(facts, event)
    facts.out = True
    facts.day, facts.hour = event.time, hour(event.time)


@law("take")
def take(facts: Facts, event: Event) -> None:
    facts.has(event.who, event.thing)
    set_out(facts, event)


@law("go_on")
def go_on(facts: Facts, event: Event) -> None:
    facts.need(len(facts.mishaps) > facts.moved, "nothing has happened here")
    facts.moved = len(facts.mishaps)
    now = hour(event.time)
    facts.need(not now or now > facts.hour, "it is later than that")
    facts.hour = max(now, facts.hour)
    go_together(facts, event)


@law("play")
def play(facts: Facts, event: Event) -> None:
    facts.has(event.who, event.thing)


# A thing gets lost, hidden, stuck, broken, muddy, torn or adrift.


@law("lose", "leave_behind", "toss", "drop", "break", "soil", "tear", "float", "blow_away")
def harm(facts: Facts, event: Event) -> None:
    names = event.who or [facts.things[event.thing].holder]
    facts.has(names, event.thing)
    if event.kind in WAYS:
        nouns, problem = WAYS[event.kind]
        facts.need(event.thing in nouns, problem, event.thing)
    if event.kind == "float":
        water = fits("water", facts.scene) if facts.scene else False
        facts.need(water, "there is no water here")
    facts.harm(event.thing, HARMS[event.kind])
    facts.things[event.thing].spot = event.spot
    if event.kind in ("leave_behind", "break"):
        facts.lessons[event.who[0], "care"] = False


@law("hide")
def hide(facts: Facts, event: Event) -> None:
    (name,) = event.who
    thing = facts.has([facts.things[event.thing].owner], event.thing)
    facts.need(thing.owner != name, "the {} belongs to {}", event.thing, name)
    if event.whom:
        facts.owns(event.whom, event.thing)
    facts.need(thing.owner in facts.at(facts.people[name].place), "{} is not there", thing.owner)
    facts.harm(event.thing, "hidden")
    thing.known, thing.spot, thing.told_spot = [name], event.spot, False
    facts.wrong(name, "hidden", thing.owner, event.thing, lesson="joke")


def hid(facts: Facts, name: str, event: Event) -> Thing:
    """`name` has hidden the thing, at the spot of the event."""
    thing = facts.in_state(event.thing, "hidden")
    wrong = Wrong(name, "hidden", thing.owner, event.thing)
    facts.need(wrong in facts.wrongs, "{} did not hide the {}", name, event.thing)
    facts.need(thing.spot == event.spot, "the {} was hidden somewhere else", event.thing)
    return thing


@law("miss")
def miss(facts: Facts, event: Event) -> None:
    (name,) = event.who
    thing = facts.in_state(event.thing, "hidden")
    facts.owns(name, event.thing)
    facts.need(name not in thing.known, "{} knows that already", name)
    thing.known.append(name)


@law("giggle")
def giggle(facts: Facts, event: Event) -> None:
    thing = hid(facts, event.who[0], event)
    facts.need(len(thing.known) > 1, "nobody misses the {}", event.thing)
    facts.need(not thing.told_spot, "everybody knows where the {} is", event.thing)


@law("confess")
def confess(facts: Facts, event: Event) -> None:
    (name,) = event.who
    thing = hid(facts, name, event)
    facts.knows(thing.owner, event.thing)
    facts.need(not thing.told_spot, "everybody knows where the {} is", event.thing)
    facts.lessons[name, "truth"] = False
    thing.helping.append(name)
    thing.told_spot = True


@law("fetch")
def fetch(facts: Facts, event: Event) -> None:
    (name,) = event.who
    thing = facts.in_state(event.thing, "hidden")
    facts.cares(name, event.thing)
    facts.need(thing.told_spot, "nobody has said where the {} is", event.thing)
    if event.spot:
        facts.need(thing.spot == event.spot, "the {} was hidden somewhere else", event.thing)
    thing.state, thing.holder = "fine", name


# Solving the trouble with a thing.


@law("sad")
def sad(facts: Facts, event: Event) -> None:
    facts.need(facts.in_trouble(event.who[0]), "{} has no reason to be sad", event.who[0])


@law("console", "cheer")
def console(facts: Facts, event: Event) -> None:
    (name,) = event.who
    facts.need(facts.in_trouble(event.whom), "{} has no reason to be sad", event.whom)
    facts.need(not facts.in_trouble(name), "{} is sad too", name)
    guilty = any((w.culprit, w.victim) == (name, event.whom) and state != "forgiven"
                 for w, state in facts.wrongs.items())  # fmt: skip
    facts.need(not guilty, "{} has done {} wrong", name, event.whom)


@law("tell")
def tell(facts: Facts, event: Event) -> None:
    thing = facts.in_state(event.thing, event.what)
    if event.spot:
        facts.need(thing.spot == event.spot, "the {} is stuck somewhere else", event.thing)
    facts.knows(event.who[0], event.thing)
    facts.need(event.whom not in thing.known, "{} knows about the {}", event.whom, event.thing)
    thing.known.append(event.whom)


@law("ask")
def ask(facts: Facts, event: Event) -> None:
    (name,) = event.who
    person = facts.people[name]
    mine = [t for t in facts.things.values() if t.owner == name and t.state in TROUBLES]
    facts.need(person.ailment or mine, "{} needs no help", name)
    known = person.ailment or any(event.whom in thing.known for thing in mine)
    facts.need(known, "{} does not know what is wrong", event.whom)
    ready = any(event.whom in thing.helping for thing in mine)
    facts.need(not ready, "{} has offered to help", event.whom)


@law("offer")
def offer(facts: Facts, event: Event) -> None:
    (name,) = event.who
    thing = facts.in_state(event.thing, event.what)
    facts.knows(name, event.thing)
    facts.owns(event.whom, event.thing)
    facts.need(name not in thing.helping, "{} has offered to help", name)
    thing.helping.append(name)


@law("repay")
def repay(facts: Facts, event: Event) -> None:
    (name,) = event.who
    before = any((deed.helper, deed.helped) == (event.whom, name) for deed in facts.deeds)
    facts.need(before, "{} has not helped {} before", event.whom, name)
    state = facts.in_state(event.thing, *sorted(TROUBLES)).state
    offer(facts, event._replace(what=state))
    facts.lessons[event.whom, "return"] = False


@law("look")
def look(facts: Facts, event: Event) -> None:
    thing = facts.in_state(event.thing, "lost", "hidden")
    for name in event.who:
        facts.cares(name, event.thing)
        facts.done(name, "help", thing.owner)
    facts.need(event.spot not in thing.looked, "this place was searched before")
    facts.need(not thing.told_spot, "everybody knows where the {} is", event.thing)
    if thing.state == "hidden":
        facts.need(event.spot != thing.spot, "the {} was hidden there", event.thing)
    facts.need(len(thing.looked) < MAX_LOOKS, "the {} was searched long enough", event.thing)
    thing.looked.append(event.spot)


@law("persist")
def persist(facts: Facts, event: Event) -> None:
    searched = [t for t in facts.things.values() if t.looked and t.state in ("lost", "hidden")]
    facts.need(searched, "nobody has looked for anything")


@law("find")
def find(facts: Facts, event: Event) -> None:
    (name,) = event.who
    thing = facts.in_state(event.thing, "lost", "hidden")
    facts.cares(name, event.thing)
    facts.need(event.spot not in thing.looked, "the {} was not there before", event.thing)
    facts.need(not thing.told_spot, "everybody knows where the {} is", event.thing)
    if thing.state == "hidden":
        facts.need(event.spot == thing.spot, "the {} was hidden somewhere else", event.thing)
    facts.settle(name, "find", event.thing)
    thing.spot = event.spot


@law("show")
def show(facts: Facts, event: Event) -> None:
    (name,) = event.who
    thing = facts.has(event.who, event.thing)
    found = Deed(name, "find", thing.owner, event.thing) in facts.deeds
    facts.need(found, "{} did not find it", name)
    facts.need(thing.spot == event.spot, "the {} was found somewhere else", event.thing)


@law("reach", "try_mend")
def try_in_vain(facts: Facts, event: Event) -> None:
    (name,) = event.who
    thing = facts.in_state(event.thing, "stuck" if event.kind == "reach" else "broken")
    facts.cares(name, event.thing)
    thing.failed.append(name)


@law("idea")
def idea(facts: Facts, event: Event) -> None:
    puzzles = [noun for noun, thing in facts.things.items() if thing.state in REMEDIES]
    fits_ = event.thing in puzzles if event.thing else puzzles
    facts.need(fits_, "there is nothing to think about")


@law("dare")
def dare(facts: Facts, event: Event) -> None:
    things = any(t.state in ("stuck", "adrift") for t in facts.things.values())
    people = any(p.ailment in ("afraid", "astray", "stray", "climb") for p in facts.people.values())
    facts.need(things or people or facts.weather, "there is nothing to be afraid of")
    facts.need(not facts.people[event.who[0]].ailment, "{} needs help", event.who[0])


@law(*REMEDIES.values())
def remedy(facts: Facts, event: Event) -> None:
    (name,) = event.who
    state = next(state for state, kind in REMEDIES.items() if kind == event.kind)
    thing = facts.in_state(event.thing, state)
    facts.cares(name, event.thing)
    facts.need(name not in thing.failed, "{} could not do it before", name)
    facts.settle(name, event.kind, event.thing)


@law("give_up")
def give_up(facts: Facts, event: Event) -> None:
    thing = facts.in_state(event.thing, "lost")
    for name in event.who:
        facts.cares(name, event.thing)
    facts.need(thing.looked, "nobody has looked for the {}", event.thing)
    facts.lose_for_good(event.thing, "gone")


@law("ruin")
def ruin(facts: Facts, event: Event) -> None:
    facts.in_state(event.thing, "broken")
    facts.cares(event.who[0], event.thing)
    facts.lose_for_good(event.thing, "ruined")


@law("drift_off")
def drift_off(facts: Facts, event: Event) -> None:
    facts.in_state(event.thing, "adrift")
    facts.cares(event.who[0], event.thing)
    facts.lose_for_good(event.thing, "gone")


@law("give_back")
def give_back(facts: Facts, event: Event) -> None:
    thing = facts.has(event.who, event.thing)
    facts.owns(event.whom, event.thing)
    thing.holder = event.whom


@law("thank")
def thank(facts: Facts, event: Event) -> None:
    done = [
        deed
        for deed, thanked in facts.deeds.items()
        if (deed.helper, deed.what, deed.helped) == (event.whom, event.what, event.who[0])
        and event.thing in ("", deed.thing)
        and not thanked
    ]
    facts.need(done, "{} has nothing of that kind to thank {} for", event.who[0], event.whom)
    for deed in done[:1]:
        facts.deeds[deed] = True


# Lending, sharing, quarrels and apologies.


@law("ask_borrow")
def ask_borrow(facts: Facts, event: Event) -> None:
    thing = facts.has([event.whom], event.thing)
    facts.owns(event.whom, event.thing)
    thing.asked = event.who[0]


def answer(facts: Facts, event: Event) -> None:
    thing = facts.has(event.who, event.thing)
    facts.owns(event.who[0], event.thing)
    asked = thing.asked == event.whom
    facts.need(asked, "{} has not asked for the {}", event.whom, event.thing)
    thing.asked = ""


@law("lend")
def lend(facts: Facts, event: Event) -> None:
    answer(facts, event)
    person = facts.people[event.who[0]]
    facts.need(person.trait != "greedy", "{} is too greedy for that", event.who[0])
    facts.done(event.who[0], "lend", event.whom, event.thing)
    facts.things[event.thing].holder = event.whom


@law("refuse")
def refuse(facts: Facts, event: Event) -> None:
    answer(facts, event)
    facts.wrong(event.who[0], "refuse", event.whom, event.thing, lesson="share")


@law("cross")
def cross(facts: Facts, event: Event) -> None:
    (name,) = event.who
    wronged = any(
        (wrong.culprit, wrong.victim, state) == (event.whom, name, "open")
        and (wrong.what not in ("hidden", "gobble") or name in facts.things[wrong.thing].known)
        for wrong, state in facts.wrongs.items()
    )
    facts.need(wronged, "{} has done nothing wrong to {}", event.whom, name)


@law("walk_off")
def walk_off(facts: Facts, event: Event) -> None:
    (name,) = event.who
    facts.need(facts.is_wronged(name, "refuse"), "{} has no reason to walk away", name)
    go(facts, event)


@law("lonely")
def lonely(facts: Facts, event: Event) -> None:
    facts.has(event.who, event.thing)
    alone = len(facts.at(facts.people[event.who[0]].place)) == 1
    facts.need(alone, "{} is not alone", event.who[0])


@law("follow")
def follow(facts: Facts, event: Event) -> None:
    there = facts.people[event.whom].place
    facts.need(there == event.place, "{} is not there", event.whom)
    facts.need(facts.people[event.who[0]].place != there, "{} is there already", event.who[0])
    facts.people[event.who[0]].place = event.place


@law("own_up")
def own_up(facts: Facts, event: Event) -> None:
    (name,) = event.who
    done = any(
        (wrong.culprit, wrong.victim, state) == (name, event.whom, "open")
        and wrong.what in TROUBLES - {"hidden"}
        for wrong, state in facts.wrongs.items()
    )
    facts.need(done, "{} has nothing to own up to", name)
    facts.lessons[name, "truth"] = False


@law("sorry")
def sorry(facts: Facts, event: Event) -> None:
    wrong = Wrong(event.who[0], event.what, event.whom, event.thing)
    done = facts.wrongs.get(wrong) == "open" and not (event.what == "boast" and facts.contest)
    facts.need(done, "{} has nothing of that kind to be sorry for", event.who[0])
    if event.thing and event.what in ("hidden", "gobble"):
        facts.knows(event.whom, event.thing)
    facts.wrongs[wrong] = "sorry"


@law("forgive", "unforgive")
def forgive(facts: Facts, event: Event) -> None:
    wrongs = [
        wrong
        for wrong, state in facts.wrongs.items()
        if (wrong.culprit, wrong.victim, state) == (event.whom, event.who[0], "sorry")
    ]
    facts.need(wrongs, "{} has not said sorry to {}", event.whom, event.who[0])
    for wrong in wrongs:
        facts.wrongs[wrong] = "forgiven" if event.kind == "forgive" else "unforgiven"
    if event.kind == "forgive":
        facts.lessons[event.who[0], "forgive"] = False
    else:
        facts.lessons[event.whom, "word"] = False


@law("share")
def share(facts: Facts, event: Event) -> None:
    facts.has(event.who, event.thing)
    wrong = Wrong(event.who[0], "refuse", event.whom, event.thing)
    forgiven = facts.wrongs.get(wrong) == "forgiven"
    facts.need(forgiven, "{} and {} have not made up", event.who[0], event.whom)
    facts.done(event.who[0], "share", event.whom, event.thing)


# Weather.


@law("weather")
def weather(facts: Facts, event: Event) -> None:
    facts.need(not facts.weather, "there is {} already", facts.weather)
    for word in facts.day.split():
        possible = event.what not in IMPOSSIBLE.get(word, ())
        facts.need(possible, "there is no {} on a {} day", event.what, word)
    facts.weather = event.what


@law("shelter")
def shelter(facts: Facts, event: Event) -> None:
    facts.need(facts.weather == event.what, "there is no {}", event.what)


@law("clear")
def clear(facts: Facts, event: Event) -> None:
    shelter(facts, event)
    facts.weather = ""


@law("afraid")
def afraid(facts: Facts, event: Event) -> None:
    shelter(facts, event)
    facts.ail(event)


# Troubles of a person.


@law("fall", "chill", "tire", "thirst", "climb")
def ail(facts: Facts, event: Event) -> None:
    if event.kind == "climb":
        high = set(HEIGHTS.values()) & FEATURES.get(facts.scene, frozenset())
        facts.need(high, "there is nothing to climb here")
    facts.ail(event)


@law("apart")
def apart(facts: Facts, event: Event) -> None:
    facts.need(LIVELY & FEATURES.get(facts.scene, frozenset()), "there are no other children here")
    facts.ail(event)


@law("astray", "stray")
def astray(facts: Facts, event: Event) -> None:
    (name,) = event.who
    alone = facts.at(facts.people[name].place) == [name]
    facts.need(alone, "{} is not alone", name)
    facts.ail(event)


@law("hungry")
def hungry(facts: Facts, event: Event) -> None:
    (name,) = event.who
    own = [noun for noun, t in facts.things.items()
           if t.owner == name and noun in FOODS and t.state == "fine"]  # fmt: skip
    facts.need(not own, "{} has something to eat", name)
    facts.ail(event)


@law("feed")
def feed(facts: Facts, event: Event) -> None:
    facts.has(event.who, event.thing)
    heal(facts, event)
    facts.things[event.thing].state = "eaten"


@law("soothe")
def soothe(facts: Facts, event: Event) -> None:
    facts.need(facts.people[event.whom].ailment, "{} has no such trouble", event.whom)


@law(*(frozenset(AILMENTS.values()) - {"feed"}))
def heal(facts: Facts, event: Event) -> None:
    """Somebody who is well helps somebody who is not."""
    person = facts.people[event.whom]
    ailment = person.ailment
    facts.need(AILMENTS.get(ailment) == event.kind, "{} has no such trouble", event.whom)
    facts.need(not facts.people[event.who[0]].ailment, "{} needs help", event.who[0])
    if event.kind == "tend" and person.limb:
        facts.need(event.what == person.limb, "the {} does not hurt", event.what)
    if event.kind == "comfort" and event.what:
        facts.need(facts.weather == event.what, "there is no {}", event.what)
    person.ailment = ""
    facts.done(event.who[0], event.kind, event.whom, event.thing)
    facts.lessons[event.whom, LEARNED.get(ailment, "friends")] = False


# Eaten in secret.


@law("gobble")
def gobble(facts: Facts, event: Event) -> None:
    (name,) = event.who
    thing = facts.has([facts.things[event.thing].owner], event.thing)
    facts.need(thing.owner != name, "the {} belongs to {}", event.thing, name)
    facts.need(thing.owner in facts.at(facts.people[name].place), "{} is not there", thing.owner)
    thing.state, thing.known = "eaten", [name]
    facts.wrong(name, "gobble", thing.owner, event.thing, lesson="ask")


@law("discover")
def discover(facts: Facts, event: Event) -> None:
    (name,) = event.who
    thing = facts.in_state(event.thing, "eaten")
    facts.owns(name, event.thing)
    facts.need(name not in thing.known, "{} knows that already", name)
    thing.known.append(name)


@law("admit")
def admit(facts: Facts, event: Event) -> None:
    (name,) = event.who
    wrong = Wrong(name, "gobble", event.whom, event.thing)
    facts.need(wrong in facts.wrongs, "{} did not eat the {}", name, event.thing)
    facts.knows(event.whom, event.thing)
    facts.lessons[name, "truth"] = False


# Boasting and racing.


@law("boast")
def boast(facts: Facts, event: Event) -> None:
    facts.contest = (event.who[0], event.whom)
    facts.wrong(event.who[0], "boast", event.whom, lesson="modest")


@law("race")
def race(facts: Facts, event: Event) -> None:
    two = {*event.who, event.whom} - {""}
    facts.need(facts.contest and two == set(facts.contest), "nobody wants to race")


@law("win")
def win(facts: Facts, event: Event) -> None:
    raced = any(act[0] == "race" for act in facts.since)
    facts.need(raced, "nobody has run a race")
    expected = facts.contest == (event.whom, event.who[0])
    facts.need(expected, "pride comes before a fall")
    facts.contest = None


# Promises.


@law("promise")
def promise(facts: Facts, event: Event) -> None:
    person = facts.people[event.who[0]]
    facts.need(not person.promise, "{} has promised something else", event.who[0])
    facts.need(not facts.troubles(), "{} has other things to think of", event.who[0])
    person.promise, person.promised, person.forgot = event.what, event.whom, False


@law("forget")
def forget(facts: Facts, event: Event) -> None:
    person = facts.people[event.who[0]]
    facts.need(person.promise and not person.forgot, "{} has promised nothing", event.who[0])
    person.forgot = True
    if person.promised:
        facts.wrong(event.who[0], "forget", person.promised, lesson="promise")


@law("wait")
def wait(facts: Facts, event: Event) -> None:
    waiting = facts.is_wronged(event.who[0], "forget")
    facts.need(waiting, "{} has nothing to wait for", event.who[0])


@law("remind")
def remind(facts: Facts, event: Event) -> None:
    wrong = Wrong(event.whom, "forget", event.who[0])
    facts.need(facts.wrongs.get(wrong) == "open", "{} has forgotten nothing", event.whom)


@law("keep")
def keep(facts: Facts, event: Event) -> None:
    (name,) = event.who
    person = facts.people[name]
    kept = (event.what, event.whom) == (person.promise, person.promised)
    facts.need(kept, "{} has not promised that to {}", name, event.whom)
    wrong = facts.wrongs.get(Wrong(name, "forget", event.whom), "forgiven")
    facts.need(wrong == "forgiven", "{} has not forgiven {}", event.whom, name)
    person.promise = ""
    facts.done(name, "keep", event.whom)


# Wishing, working, giving.


@law("wish")
def wish(facts: Facts, event: Event) -> None:
    (name,) = event.who
    facts.has([event.whom], event.thing)
    facts.owns(event.whom, event.thing)
    person = facts.people[name]
    person.wish, person.earned, person.troubled = event.thing, "", True


@law("busy")
def busy(facts: Facts, event: Event) -> None:
    person = facts.people[event.who[0]]
    facts.need(not person.chore, "{} still has to {}", event.who[0], person.chore)
    facts.need(not person.wish, "{} wishes for something", event.who[0])
    person.chore = event.what


@law("ask_work")
def ask_work(facts: Facts, event: Event) -> None:
    person = facts.people[event.who[0]]
    chore = person.chore == event.what
    facts.need(chore, "{} does not have to {}", event.who[0], event.what)
    person.asked = event.whom


@law("shirk")
def shirk(facts: Facts, event: Event) -> None:
    (name,) = event.who
    asking = next((n for n, p in facts.people.items() if p.chore and p.asked == name), "")
    asked = asking and event.whom in ("", asking)
    facts.need(asked, "{} has not asked {} for help", event.whom or "nobody", name)
    if asking:
        same = event.what in ("", facts.people[asking].chore)
        facts.need(same, "{} does not have to {}", asking, event.what)
        facts.wrong(name, "shirk", asking, lesson="diligent")


@law("toil")
def toil(facts: Facts, event: Event) -> None:
    (name,) = event.who
    person = facts.people[name]
    chore = person.chore and event.what in ("", person.chore)
    facts.need(chore, "{} does not have to {}", name, event.what or "do anything")
    facts.need(facts.is_wronged(name, "shirk"), "{} was not left alone", name)
    person.chore = ""


@law("work")
def work(facts: Facts, event: Event) -> None:
    (name,) = event.who
    person = facts.people[event.whom]
    chore = person.chore == event.what
    facts.need(chore, "{} does not have to {}", event.whom, event.what)
    state = facts.wrongs.get(Wrong(name, "shirk", event.whom), "")
    idle = facts.people[name].trait == "lazy" and not facts.people[name].wish
    lazy = idle and state != "forgiven"
    facts.need(not lazy, "{} is too lazy for that", name)
    person.chore = ""
    facts.done(name, "work", event.whom)
    if facts.people[name].wish:
        facts.people[name].earned = event.whom
    facts.lessons[event.whom, "friends"] = False


@law("make_good")
def make_good(facts: Facts, event: Event) -> None:
    (name,) = event.who
    forgiven = any(
        (wrong.culprit, wrong.victim, state) == (name, event.whom, "forgiven")
        for wrong, state in facts.wrongs.items()
    )
    facts.need(forgiven, "{} has nothing to make good", name)


@law("gift")
def gift(facts: Facts, event: Event) -> None:
    (giver,) = event.who
    thing = facts.has(event.who, event.thing)
    facts.owns(giver, event.thing)
    person = facts.people[event.whom]
    wished = person.wish == event.thing
    facts.need(wished, "{} did not wish for the {}", event.whom, event.thing)
    facts.need(person.earned == giver, "{} has not helped {}", event.whom, giver)
    thing.owner = thing.holder = event.whom
    person.wish = person.earned = ""
    facts.done(giver, "gift", event.whom, event.thing)
    facts.lessons[event.whom, "kind"] = False


# Small animals.


@law("pity")
def pity(facts: Facts, event: Event) -> None:
    facts.small = event.what


@law("free")
def free(facts: Facts, event: Event) -> None:
    facts.need(facts.small == event.what, "no {} is in need", event.what)
    facts.small = ""
    for name in facts.at(facts.scene):
        facts.lessons[name, "gentle"] = False


# The ending.


@law("happy")
def happy(facts: Facts, event: Event) -> None:
    (name,) = event.who
    facts.need(facts.people[name].troubled, "{} was not sad before", name)
    settled = not facts.in_trouble(name) and not facts.troubles()
    facts.need(settled, "{} has no reason to be happy", name)
    facts.people[name].troubled = False


@law("learn")
def learn(facts: Facts, event: Event) -> None:
    (name,) = event.who
    lesson = (name, event.what)
    facts.need(facts.lessons.get(lesson) is False, "nothing taught {} this lesson", name)
    for matter in facts.open_matters():
        facts.need(False, "this comes too early: {}", matter)
    facts.need(facts.learned < len(facts.mishaps), "there are too many lessons")
    facts.learned += 1
    facts.lessons[lesson] = True
    facts.people[name].vows.add(event.what)


def end(facts: Facts, event: Event) -> None:
    for matter in facts.open_matters():
        facts.need(False, "the story ends, but {}", matter)
    if event.kind != "end_without":
        facts.need(facts.hero in event.who, "the story is about {}", facts.hero)
    for name in event.who:
        facts.need(name in facts.people and facts.people[name].place, "{} is at home already", name)
    facts.ended = True


@law("end_home", "end_play")
def end_together(facts: Facts, event: Event) -> None:
    if event.kind == "end_play":
        facts.has(event.who, event.thing)
    quarrel = "unforgiven" in facts.wrongs.values() and len(event.who) > 1
    facts.need(not quarrel, "two have quarrelled")
    end(facts, event)


@law("end_friends")
def end_friends(facts: Facts, event: Event) -> None:
    facts.need(frozenset(event.who) in facts.together, "these two have done nothing together")
    end_together(facts, event)


@law("end_apart")
def end_apart(facts: Facts, event: Event) -> None:
    facts.need("unforgiven" in facts.wrongs.values(), "nobody has quarrelled")
    end(facts, event)


@law("end_sleep")
def end_sleep(facts: Facts, event: Event) -> None:
    facts.has(event.who, event.thing)
    facts.owns(event.who[0], event.thing)
    end(facts, event)


@law("end_without")
def end_without(facts: Facts, event: Event) -> None:
    facts.in_state(event.thing, "gone", "ruined")
    facts.owns(event.who[0], event.thing)
    end(facts, event)
