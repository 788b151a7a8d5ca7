"""The cast flows in, and somebody lends or refuses, is cross, says sorry, forgives or shares.

Each function takes one step and says whether there was one.
"""

from homespun.stories.events import Thing, Wrong
from homespun.stories.world.cast import Cast


def answer(cast: Cast, noun: str, thing: Thing) -> bool:
    """The owner lends the thing or refuses, as the trait says."""
    owner, borrower = thing.owner, thing.asked
    person = cast.facts.people[owner]
    kind = "refuse" if person.trait == "greedy" else "lend"
    return cast.do(kind, owner, whom=borrower, thing=noun)


def make_up(cast: Cast, wrong: Wrong, state: str) -> bool:
    """Take a step from a wrong towards an apology. The two may part first, but they meet again."""
    culprit, what, victim, noun = wrong
    if state == "open":
        match what:
            case "refuse":
                if cast.once(0.5, "sad", *wrong):
                    return cast.do("sad", victim)
                if cast.once(0.5, "walk off", *wrong):
                    return cast.do("walk_off", victim, place=cast.elsewhere(victim))
            case "gobble":
                if cast.once(1.0, "discover", noun):
                    return cast.do("discover", victim, thing=noun)
                if cast.once(0.4, "sad", *wrong):
                    return cast.do("sad", victim)
                if cast.once(0.6, "admit", noun):
                    return cast.do("admit", culprit, whom=victim, thing=noun)
            case "forget":
                if cast.once(0.7, "wait", victim):
                    return cast.do("wait", victim, whom=culprit)
                if cast.once(0.3, "sad", *wrong):
                    return cast.do("sad", victim)
                if cast.once(0.8, "remind", victim):
                    return cast.do("remind", victim, whom=culprit)
            case "shirk":
                chore = cast.facts.people[victim].chore
                if chore and cast.once(0.5, "toil", victim):
                    return cast.do("toil", victim, what=chore)
    place = cast.facts.people[victim].place
    if cast.facts.people[culprit].place != place:
        if cast.once(0.7, "lonely", *wrong):
            return cast.do("lonely", culprit, thing=noun)
        return cast.do("follow", culprit, whom=victim, place=place)
    return reconcile(cast, wrong, state)


def reconcile(cast: Cast, wrong: Wrong, state: str) -> bool:
    culprit, what, victim, noun = wrong
    if state == "sorry":
        grudge = is_last(cast) and cast.once(0.2, "grudge", *wrong)
        return cast.do("unforgive" if grudge else "forgive", victim, whom=culprit)
    if (what != "boast") and cast.once(0.3, "cross", *wrong):
        return cast.do("cross", victim, whom=culprit)
    return cast.do("sorry", culprit, whom=victim, thing=noun, what=what)


def is_last(cast: Cast) -> bool:
    """Whether only one matter is open, so that a quarrel can stay."""
    return len(cast.facts.open_matters()) == 1


def share(cast: Cast) -> bool:
    for (culprit, what, victim, noun), state in cast.facts.wrongs.items():
        if state != "forgiven":
            continue
        if what == "refuse" and cast.once(1.0, "share", noun):
            return cast.do("share", culprit, whom=victim, thing=noun)
        made_good = what in ("gobble", "shirk") and not cast.facts.people[victim].chore
        if made_good and cast.once(0.6, "make good", *victim):
            return cast.do("make_good", culprit, whom=victim)
    return False
