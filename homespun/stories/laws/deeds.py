"""The laws of boasting, promises, wishes, work, gifts and small animals.

An event flows in, its problems flow out, and the facts change.
"""

from homespun.stories.events import Event, Wrong
from homespun.stories.laws.facts import Facts, law

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
