"""A random generator flows in, the events of one story flow out: characters want, lose, find, help and learn.

The plot is not scripted. Something goes wrong, and then the characters act on the facts of the moment, one step at a
time, until everything is settled, well or badly. Afterwards, all that played no part is left out of the beginning.
"""

from collections.abc import Iterable

import numpy as np

from homespun.stories.dice import WHOLE, Dice, Variety
from homespun.stories.events import ARRIVALS, TROUBLES, Event
from homespun.stories.laws import MIN_EVENTS, Facts
from homespun.stories.world.beginning import begin, go_on
from homespun.stories.world.body import look_after, sit_out
from homespun.stories.world.cast import Cast
from homespun.stories.world.conclusion import conclude, learn
from homespun.stories.world.deeds import be_grateful, compete, earn, help_small, keep_promise
from homespun.stories.world.mishaps import possible_mishaps, suffer
from homespun.stories.world.quarrels import answer, make_up, share
from homespun.stories.world.things import bring_back, rescue, see_through_trick

LONG = 13
"""After as many events, nothing else goes wrong."""


def simulate(rng: np.random.Generator, variety: Variety = WHOLE) -> tuple[Event, ...]:
    """Simulate one story, in which something goes wrong one to three times.

    Returns:
        The events, in order.
    """
    dice = Dice(rng, variety)
    while True:
        cast = Cast(dice)
        live(cast)
        people = cast.facts.people.values()
        if cast.facts.mishaps and all(person.plays_part for person in people):
            events = tuple(_relevant(cast.events, cast.facts))
            if len(events) >= MIN_EVENTS:
                return events


def _relevant(events: Iterable[Event], facts: Facts) -> Iterable[Event]:
    """The events without belongings that play no part, and without traits that do not show."""
    for event in events:
        if event.kind in ARRIVALS and not facts.people[event.who[0]].shown:
            yield event._replace(trait="")
        elif event.kind != "own" or facts.things[event.thing].plays_part:
            yield event


def live(cast: Cast) -> None:
    begin(cast)
    rounds = 2 if cast.dice.chance(0.75) else 1
    for number in range(rounds):
        if number and len(cast.events) > LONG:
            break
        if number and cast.dice.chance(0.3) and not cast.facts.open_matters():
            learn(cast)
        if number and cast.dice.variety.goes_on and cast.dice.chance(0.4):
            go_on(cast)
        mishaps = possible_mishaps(cast)
        if not mishaps or cast.quarrelled():
            break
        suffer(cast, *mishaps[cast.dice.choose(list(mishaps))])
        while act(cast):
            pass
    conclude(cast)


def act(cast: Cast) -> bool:
    """Take one step; False if nothing is left to be done."""
    facts = cast.facts
    for name, person in facts.people.items():
        if person.ailment:
            return look_after(cast, name, person)
    if facts.weather:
        return sit_out(cast, facts.weather)
    if facts.small:
        return help_small(cast, facts.small)
    if facts.contest:
        return compete(cast, *facts.contest)
    for noun, thing in facts.things.items():
        if thing.state == "hidden":
            return see_through_trick(cast, noun, thing)
        if thing.state in TROUBLES:
            return rescue(cast, noun, thing)
        if thing.asked:
            return answer(cast, noun, thing)
    for wrong, state in facts.wrongs.items():
        if state in ("open", "sorry"):
            return make_up(cast, wrong, state)
    for noun, thing in facts.things.items():
        if thing.state == "fine" and thing.holder != thing.owner:
            return bring_back(cast, noun, thing)
    return keep_promise(cast) or be_grateful(cast) or share(cast) or earn(cast)
