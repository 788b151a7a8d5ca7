"""The cast flows in, and the story ends: a lesson, and one of the endings that fit the facts.

It begins once everything is settled, well or badly.
"""

from homespun.stories.lexicon import TOYS
from homespun.stories.world.cast import Cast


def learn(cast: Cast) -> None:
    """Somebody learns a lesson of what has happened, if there is one."""
    lessons = [lesson for lesson, learned in cast.facts.lessons.items() if not learned]
    if lessons and cast.facts.learned < len(cast.facts.mishaps):
        name, lesson = cast.dice.choose(lessons)
        cast.do("learn", name, what=lesson)


def conclude(cast: Cast) -> None:
    dice, facts, hero = cast.dice, cast.facts, cast.hero
    troubled = [n for n, p in facts.people.items() if p.troubled and not facts.in_trouble(n)]
    if troubled and not cast.quarrelled() and dice.chance(0.4):
        cast.do("happy", dice.choose(troubled))
    if dice.chance(0.8):
        learn(cast)
    friend = cast.friend_of(hero)
    group = [hero, friend] if friend else [hero]
    if cast.quarrelled():
        cast.do("end_apart", *group)
        return
    missed = [noun for noun, t in facts.things.items() if t.state in ("gone", "ruined")]
    if missed and dice.chance(0.7):
        cast.do("end_without", facts.things[missed[0]].owner, thing=missed[0])
        return
    near = [
        n for n, t in facts.things.items() if n in TOYS and t.state == "fine" and t.owner in group
    ]
    mine = [noun for noun in near if facts.things[noun].owner == hero]
    together = friend and frozenset(group) in facts.together
    endings = ["end_home"] + ["end_play"] * 2 * bool(near) + ["end_sleep"] * bool(mine)
    ending = dice.choose(endings + ["end_friends"] * 2 * bool(together))
    match ending:
        case "end_play":
            toy = dice.choose(near)
            owner = facts.things[toy].owner
            others = [name for name in group if name != owner]
            alone = owner == hero and dice.chance(0.3)
            cast.do(ending, owner, *([] if alone else others), thing=toy)
        case "end_sleep":
            cast.do(ending, hero, thing=dice.choose(mine))
        case _:
            cast.do(ending, *group)
