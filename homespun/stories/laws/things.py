"""The laws of things: they get lost, hidden or broken, and somebody finds, mends or misses them.

An event flows in, its problems flow out, and the facts change.
"""

from homespun.stories.events import HARMS, REMEDIES, TROUBLES, Deed, Event, Thing, Wrong
from homespun.stories.laws.facts import Facts, law
from homespun.stories.lexicon import CLOTH, FLOATING, FRAGILE, LIGHT, THROWN, WASHABLE, fits

MAX_LOOKS = 4
"""The number of spots at which a thing is searched in vain."""

WAYS = (
    dict.fromkeys(("drop", "break"), (FRAGILE, "a {} does not break"))
    | {"blow_away": (LIGHT, "a {} is too heavy for the wind")}
    | {"toss": (THROWN, "nobody throws a {}")}
    | {"tear": (CLOTH, "a {} does not tear")}
    | {"float": (FLOATING, "a {} does not float")}
    | {"soil": (WASHABLE, "a {} can not be washed")}
)
"""The things that a mishap can happen to, and the problem with others."""


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
