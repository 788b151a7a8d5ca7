"""The laws of lending and sharing, and of quarrels and apologies.

An event flows in, its problems flow out, and the facts change.
"""

from homespun.stories.events import TROUBLES, Event, Wrong
from homespun.stories.laws.beginning import go
from homespun.stories.laws.facts import Facts, law


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
