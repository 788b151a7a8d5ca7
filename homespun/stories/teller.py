"""Events flow in, a story in simple English flows out.

The teller chooses a form of `SENTENCES` for each event and fills its slots. The judge turns the same forms into
patterns and reads events from sentences. Both use `Focus` to resolve pronouns.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from homespun.stories.dice import WHOLE, Dice, Variety
from homespun.stories.events import ARRIVALS, BEGINNING, CONCLUSION, MISHAPS, Event
from homespun.stories.forms import MACROS, SENTENCES
from homespun.stories.lexicon import ANIMALS, ERRANDS, HE, HIM, HIS, LOOKS, PLACES, an

SLOT = re.compile(r"\{(\w+)\}")
MACRO = re.compile(r"<([a-z ]+)>")
CHOICE = re.compile(r"\(([^()]*)\)")
SPEAKS = {
    "said": ("said", "said", "said", "said", "said", "called"),
    "asked": ("asked",),
}
"""The verbs of speech for two slots."""
ACTS = frozenset({"N", "a", "A", "g", "both"}) | frozenset(SPEAKS)
PRONOUNS = frozenset({"he", "she", "they"})
STARTS = MISHAPS - {"busy"} | {"promise"}
"""A second event of these begins a paragraph."""
TRIES = 20
ACCEPTED = "~"
"""Begins a choice that only the judge uses."""

Choice = tuple[str, ...]
"""Texts of which one is chosen."""


@dataclass(frozen=True)
class Form:
    """One surface form: literal texts with choices, and slots between them."""

    kind: str
    what: str
    literals: tuple[tuple[Choice, ...], ...]
    slots: tuple[str, ...]


def _variants(text: str) -> Iterator[str]:
    """The text without choices that contain slots: one text for each choice."""
    for choice in CHOICE.finditer(text):
        if "{" in choice[1]:
            for option in choice[1].split("|"):
                yield from _variants(text[: choice.start()] + option + text[choice.end() :])
            return
    yield text


def _parse(key: str, text: str) -> Iterator[Form]:
    kind, _, what = key.partition(":")
    for variant in _variants(MACRO.sub(lambda macro: MACROS[macro[1]], text)):
        parts = SLOT.split(variant)
        literals = tuple(_choices(part) for part in parts[::2])
        yield Form(kind, what, literals, tuple(parts[1::2]))


def _choices(text: str) -> tuple[Choice, ...]:
    parts = CHOICE.split(text)
    return tuple(
        tuple(part.split("|")) if n % 2 else (part,)
        for n, part in enumerate(parts)
        if part or n % 2
    )


FORMS = tuple(
    form for key, texts in SENTENCES.items() for text in texts for form in _parse(key, text)
)


@dataclass(frozen=True)
class Focus:
    """The characters that pronouns can refer to after a sentence.

    He and she refer to the character who acted last, they to the two characters mentioned last, him and her to the
    other one of these two.
    """

    acted: tuple[str, ...] = ()
    spoken_of: tuple[str, ...] = ()

    @staticmethod
    def after(form: Form, who: tuple[str, ...], whom: str) -> "Focus":
        acted = who if ACTS.intersection(form.slots) else ()
        spoken_of = (*acted, whom) if {"b", "B"}.intersection(form.slots) else acted
        return Focus(acted if form.kind != "friend" else (), spoken_of)

    def they(self) -> tuple[str, ...]:
        return self.spoken_of if len(self.spoken_of) == 2 else ()

    def other(self, who: tuple[str, ...]) -> str:
        """The only character mentioned last besides `who`; empty if there is not exactly one."""
        others = [name for name in self.spoken_of if name not in who]
        return others[0] if len(others) == 1 else ""


def tell(events: Iterable[Event], rng: np.random.Generator, variety: Variety = WHOLE) -> str:
    """Tell a story in paragraphs, one line each: the beginning, the mishaps, and the conclusion."""
    teller = _Teller(Dice(rng, variety))
    paragraphs: list[list[str]] = [[]]
    part, mishaps, moved = "beginning", False, False
    for event in events:
        now = part
        if event.kind in CONCLUSION:
            now = "conclusion"
        elif event.kind not in BEGINNING:
            now = "middle"
        again = event.kind == "go_on" or (event.kind in STARTS and mishaps and not moved)
        if now != part or again:
            paragraphs.append([])
        mishaps = mishaps or event.kind in MISHAPS
        moved = event.kind == "go_on"
        part = now
        paragraphs[-1].append(teller.sentence(event))
    return "\n".join(" ".join(sentences) for sentences in paragraphs if sentences)


@cache
def _forms(kind: str, what: str, actors: int) -> tuple[Form, ...]:
    """The forms for an event of this kind."""
    key = f"{kind}:{what}"
    what = what if key in SENTENCES else ""
    two, one = {"g", "both"}, {"both"}
    return tuple(
        form
        for form in FORMS
        if (form.kind, form.what) == (kind, what)
        and (actors != 2 or two.intersection(form.slots))
        and (actors != 1 or not one.intersection(form.slots))
    )


@cache
def _told(choice: Choice) -> Choice:
    """The options that the teller uses."""
    return tuple(option for option in choice if not option.startswith(ACCEPTED))


class _Teller:
    """Turns one event after another into words, and remembers the sentences before."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.focus = Focus()
        self.cast: dict[str, str] = {}
        """The creature of each character."""
        self.told: set[str] = set()
        self.used: set[int] = set()
        """The identity of each form that was used."""

    def sentence(self, event: Event) -> str:
        """Word an event, with other words than any sentence before."""
        forms = _forms(event.kind, event.what, len(event.who))
        forms = tuple(form for form in forms if id(form) not in self.used) or forms
        for _ in range(TRIES):
            form = self.dice.wording(forms)
            text = self.literal(form.literals[0])
            for slot, literal in zip(form.slots, form.literals[1:], strict=True):
                text += self.word(slot, event) + self.literal(literal)
            text = text[0].upper() + text[1:]
            if text not in self.told:
                break
        self.told.add(text)
        self.used.add(id(form))
        self.focus = Focus.after(form, event.who, event.whom)
        if event.kind in ARRIVALS:
            self.cast[event.who[0]] = event.what
        return text

    def literal(self, choices: tuple[Choice, ...]) -> str:
        text = ""
        for choice in choices:
            text += choice[0] if len(choice) == 1 else self.dice.wording(_told(choice))
        return text

    def word(self, slot: str, event: Event) -> str:
        who, whom = event.who, event.whom
        match slot:
            case "a" | "g" | "both":
                return self.actor(who)
            case "A":
                return self.called(who[0])
            case "t":
                return self.described(self.whose(event), event)
            case "o":
                named = self.dice.chance(0.6)
                return self.described(f"{event.owner}'s" if named else "the", event)
            case "T":
                mine, yours = event.owner == who[0], event.owner == whom
                return self.described("my" if mine else "your" if yours else "the", event)
            case "B":
                return whom
            case "b":
                clear = self.focus.other(who) == whom and HE[whom] != HE[who[0]]
                return HIM[whom] if clear and self.dice.chance(0.4) else self.called(whom)
            case "said" | "asked":
                name, verb = self.actor(who), self.dice.wording(SPEAKS[slot])
                return f"{name} {verb}" if name in PRONOUNS else f"{verb} {name}"
            case "in":
                return PLACES[event.place]
            case "to":
                return "to the " + event.place
            case "s" | "h" | "shelter":
                return event.spot
            case "n":
                return event.thing
            case "an":
                return an(event.thing)
            case "new":
                return an(f"{event.colour} {event.thing}")
            case "kind":
                return an(f"{event.trait or self.dice.wording(LOOKS)} {event.what}")
            case "when" | "later":
                return event.time
            case "N":
                return who[0]
            case "he":
                return HE[who[0]]
            case "him":
                return HIM[who[0]]
            case "his":
                return HIS[who[0]]
            case "errands":
                return ERRANDS[event.what]
            case _:
                return event.what

    def actor(self, who: tuple[str, ...]) -> str:
        if len(who) == 1:
            known = self.focus.acted == who
            return HE[who[0]] if known and self.dice.chance(0.6) else self.called(who[0])
        known = set(self.focus.they()) == set(who)
        return "they" if known and self.dice.chance(0.7) else " and ".join(who)

    def called(self, name: str) -> str:
        """The name, sometimes with the creature: Lily the pig."""
        creature = self.cast.get(name, "")
        named = creature in ANIMALS and self.dice.chance(0.2)
        return f"{name} the {creature}" if named else name

    def whose(self, event: Event) -> str:
        if event.owner in event.who:
            alone = len(event.who) == 1
            return HIS[event.owner] if alone and self.dice.chance(0.7) else "the"
        named = self.dice.chance(0.1 if event.owner == event.whom else 0.4)
        return f"{event.owner}'s" if named else "the"

    def described(self, whose: str, event: Event) -> str:
        colour = f"{event.colour} " if self.dice.chance(0.35) else ""
        return f"{whose} {colour}{event.thing}"
