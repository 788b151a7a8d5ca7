"""The laws of the end of a story: joy, lessons and endings.

An event flows in, its problems flow out, and the facts change.
"""

from homespun.stories.events import Event
from homespun.stories.laws.facts import Facts, law


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
