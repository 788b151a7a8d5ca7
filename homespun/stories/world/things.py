"""The cast flows in, and somebody takes a step about a thing: seeks, mends, fetches or returns it.

Each function takes one step and says whether there was one. Only the cast knows where a lost thing lies.
"""

from homespun.stories.events import REMEDIES, Deed, Event, Thing
from homespun.stories.laws import MAX_MISHAPS
from homespun.stories.lexicon import SPOTS
from homespun.stories.world.body import show_virtue
from homespun.stories.world.cast import Cast
from homespun.stories.world.mishaps import mishaps_with, suffer
from homespun.stories.world.quarrels import reconcile


def see_through_trick(cast: Cast, noun: str, thing: Thing) -> bool:
    """Take a step about a hidden thing: its owner misses and seeks it, or the person who hid it confesses."""
    owner = thing.owner
    if owner not in thing.known:
        return cast.do("miss", owner, thing=noun)
    if cast.once(0.4, "sad", owner, noun):
        return cast.do("sad", owner)
    if thing.helping:
        return cast.do("fetch", thing.helping[0], thing=noun, spot=thing.spot)
    culprit = next(wrong.culprit for wrong in cast.facts.wrongs if wrong.thing == noun)
    if cast.once(0.5, "giggle", noun):
        return cast.do("giggle", culprit, thing=noun, spot=thing.spot)
    if cast.dice.chance(0.5):
        return cast.do("confess", culprit, whom=owner, thing=noun, spot=thing.spot)
    return search(cast, noun, thing)


def rescue(cast: Cast, noun: str, thing: Thing) -> bool:
    """Take a step about a thing that is lost, stuck, broken, muddy, torn or adrift."""
    owner = thing.owner
    if cast.once(0.4, "sad", owner, noun):
        return cast.do("sad", owner)
    blamed = [(w, state) for w, state in cast.facts.wrongs.items() if w.thing == noun]
    for wrong, state in blamed:
        honest = state == "open" and cast.trait(wrong.culprit) == "honest"
        if honest and cast.once(0.9, "own up", noun):
            return cast.do("own_up", wrong.culprit, whom=owner)
        if state in ("open", "sorry") and cast.once(0.5, "reconcile", noun, state):
            return reconcile(cast, wrong, state)
    helper = cast.friend_of(owner)
    if not helper:
        if cast.once(0.5, "alone", noun) and thing.state in ("lost", "broken", "stuck"):
            return try_alone(cast, noun, thing)
        if thing.state != "lost" or cast.once(0.6, "passer-by", noun):
            return cast.passer_by()
    elif helper not in thing.helping:
        return get_help(cast, noun, thing, helper, guilty=bool(blamed))
    return solve(cast, noun, thing, helper)


def try_alone(cast: Cast, noun: str, thing: Thing) -> bool:
    if thing.state == "lost":
        return search(cast, noun, thing)
    return cast.do("try_mend" if thing.state == "broken" else "reach", thing.owner, thing=noun)


def solve(cast: Cast, noun: str, thing: Thing, helper: str) -> bool:
    """Take the last steps: the helper puts the thing right, or it is lost for ever."""
    if thing.state == "lost":
        return search(cast, noun, thing)
    if cast.trait(helper) == "clever" and cast.once(0.9, "idea", noun):
        return cast.do("idea", helper, thing=noun)
    daring = thing.state in ("stuck", "adrift") and cast.trait(helper) == "brave"
    if daring and cast.once(0.9, "dare", noun):
        return cast.do("dare", helper)
    hopeless = {"broken": "ruin", "adrift": "drift_off"}.get(thing.state)
    if hopeless and cast.trait(helper) != "clever" and cast.once(0.2, "hopeless", noun):
        return cast.do(hopeless, helper, thing=noun)
    return cast.do(REMEDIES[thing.state], helper, thing=noun)


def get_help(cast: Cast, noun: str, thing: Thing, helper: str, guilty: bool) -> bool:
    """Take a step towards help: tell the helper, ask, or receive an offer. An offer may repay earlier help."""
    owner = thing.owner
    if helper not in thing.known:
        spot = thing.spot if thing.state == "stuck" else ""
        return cast.do("tell", owner, whom=helper, thing=noun, what=thing.state, spot=spot)
    if cast.once(0.3, "ask", noun):
        return cast.do("ask", owner, whom=helper)
    if not guilty and show_virtue(cast, helper, owner, noun):
        return True
    helped = any((deed.helper, deed.helped) == (owner, helper) for deed in cast.facts.deeds)
    if helped and cast.once(0.6, "repay", owner):
        return cast.do("repay", helper, whom=owner, thing=noun)
    return cast.do("offer", helper, whom=owner, thing=noun, what=thing.state)


def search(cast: Cast, noun: str, thing: Thing) -> bool:
    """Look at one spot, and find the thing there or not, or give it up."""
    owner = thing.owner
    seekers = [owner, *(name for name in thing.helping if name != owner)]
    if len(thing.looked) < cast.patience[noun]:
        secret = (*thing.looked, cast.hideouts[noun])
        spots = [spot for spot in cast.here(SPOTS) if spot not in secret]
        if spots:
            group = seekers if cast.dice.chance(0.5) else [cast.dice.choose(seekers)]
            return cast.do("look", *group, thing=noun, spot=cast.dice.choose(spots))
    patient = [name for name in seekers if cast.trait(name) == "patient"]
    if thing.looked and patient and cast.once(0.9, "persist", noun):
        return cast.do("persist", patient[0])
    if thing.looked and not patient and thing.state == "lost" and cast.once(0.25, "hopeless", noun):
        return cast.do("give_up", *seekers, thing=noun)
    return cast.do("find", cast.dice.choose(seekers), thing=noun, spot=cast.hideouts[noun])


def bring_back(cast: Cast, noun: str, thing: Thing) -> bool:
    """Take a step towards giving a thing back to its owner, after it was found, mended, fetched or lent."""
    holder, owner, deeds = thing.holder, thing.owner, cast.facts.deeds
    if Deed(holder, "find", owner, noun) in deeds and cast.once(0.5, "show", noun):
        return cast.do("show", holder, whom=owner, thing=noun, spot=thing.spot)
    if Deed(owner, "lend", holder, noun) in deeds:
        if cast.once(0.5, "use", noun):
            return cast.do("play", holder, thing=noun)
        honest = cast.trait(holder) == "honest"
        if (
            cast.once(1.0 if honest else 0.7, "mishap", noun)
            and len(cast.facts.mishaps) < MAX_MISHAPS
        ):
            return spoil(cast, noun, holder)
    return cast.do("give_back", holder, whom=owner, thing=noun)


def spoil(cast: Cast, noun: str, holder: str) -> bool:
    """Something happens to a thing that was lent."""
    ways = [
        kind
        for kind, _, _ in mishaps_with(cast, noun, holder, "")
        if kind not in ("leave_behind", "break", "blow_away")
        and (kind,) not in cast.considered
        and not cast.facts.breaks_vow(Event(kind, thing=noun), holder)
    ]
    if not ways:
        return cast.do("give_back", holder, whom=cast.facts.things[noun].owner, thing=noun)
    return suffer(cast, cast.dice.choose(ways), holder, noun)
