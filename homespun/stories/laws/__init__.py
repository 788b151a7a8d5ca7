"""The laws of the world: an event flows in, its problems flow out, and the facts change.

`LAWS` has a law for each kind of event, and `RULES` apply to every event. The simulation obeys these laws, and the
judge applies the same laws to a story. Each module is about one subject, under the name that its sentences have in
`forms`.
"""

from homespun.stories.events import Event
from homespun.stories.laws import beginning, body, conclusion, deeds, facts, quarrels, rules, things
from homespun.stories.laws.facts import LAWS, MIN_EVENTS, RULES, Facts
from homespun.stories.laws.rules import MAX_MISHAPS

__all__ = ["LAWS", "MAX_MISHAPS", "MIN_EVENTS", "RULES", "Event", "Facts"]

MODULES = (facts, rules, beginning, things, quarrels, body, deeds, conclusion)
"""All modules of the package. They enter their laws in `LAWS` and their rules in `RULES` when they are imported."""
