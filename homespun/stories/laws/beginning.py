"""The laws of the beginning, of moving and of playing.

An event flows in, its problems flow out, and the facts change.
"""

from homespun.stories.events import Event, Person, Thing
from homespun.stories.laws.facts import Facts, law
from homespun.stories.lexicon import CHILDREN, FOODS, hour

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
