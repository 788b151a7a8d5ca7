"""The laws of weather, fear, hunger and hurt, and of what is eaten in secret.

An event flows in, its problems flow out, and the facts change.
"""

from homespun.stories.events import AILMENTS, Event, Wrong
from homespun.stories.laws.facts import Facts, law
from homespun.stories.lexicon import FEATURES, FOODS, HEIGHTS, IMPOSSIBLE, LIVELY

LEARNED = {  # an ailment: the lesson that its end teaches
    "afraid": "brave",
    "astray": "alone",
    "stray": "alone",
    "climb": "climb",
    "apart": "join",
}


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
