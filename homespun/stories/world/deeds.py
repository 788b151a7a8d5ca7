"""The cast flows in, and somebody keeps a promise, gives thanks, works, races or frees a small animal.

Each function takes one step and says whether there was one.
"""

from homespun.stories.events import Wrong
from homespun.stories.world.cast import Cast


def help_small(cast: Cast, small: str) -> bool:
    here = cast.facts.at(cast.facts.scene)
    gentle = next(name for name in here if cast.trait(name) == "gentle")
    return cast.do("free", gentle, what=small)


def compete(cast: Cast, proud: str, other: str) -> bool:
    if cast.once(0.4, "cross", proud, other):
        return cast.do("cross", other, whom=proud)
    if cast.once(1.0, "race", proud, other):
        if cast.dice.chance(0.5):
            return cast.do("race", proud, other)
        return cast.do("race", other, whom=proud)
    return cast.do("win", other, whom=proud)


def keep_promise(cast: Cast) -> bool:
    for name, person in cast.facts.people.items():
        if person.promise:
            return cast.do("keep", name, whom=person.promised, what=person.promise)
    return False


def be_grateful(cast: Cast) -> bool:
    for deed, thanked in cast.facts.deeds.items():
        helper, what, helped, noun = deed
        likely = 0.3 if what == "work" else 0.55
        if not thanked and not cast.quarrelled() and cast.once(likely, "thank", *deed):
            return cast.do("thank", helped, whom=helper, thing=noun, what=what)
    return False


def earn(cast: Cast) -> bool:
    """Take a step towards the end of some work, or for a character who wishes for another's thing."""
    for name, person in cast.facts.people.items():
        if person.chore:
            return share_work(cast, name, person.chore)
    for name, person in cast.facts.people.items():
        if person.wish:
            owner = cast.facts.things[person.wish].owner
            if person.earned == owner:
                return cast.do("gift", owner, whom=name, thing=person.wish)
            return cast.do("busy", owner, what=cast.chore())
    return False


def share_work(cast: Cast, name: str, chore: str) -> bool:
    friend = cast.friend_of(name)
    lazy = cast.trait(friend) == "lazy" and not cast.facts.people[friend].wish
    done = Wrong(friend, "shirk", name) in cast.facts.wrongs
    if cast.once(1.0 if lazy else 0.4, "ask work", name, chore):
        return cast.do("ask_work", name, whom=friend, what=chore)
    if lazy and not done:
        return cast.do("shirk", friend, whom=name, what=chore)
    return cast.do("work", friend, whom=name, what=chore)
