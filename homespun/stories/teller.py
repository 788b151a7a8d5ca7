"""How it is told: events flow in, simple English flows out.

`SENTENCES` has every surface form once. The teller fills the slots of a form from an event; the
judge turns the same forms into patterns and reads events back from sentences. Whom a pronoun means
is decided by `Focus`, for both.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np

from homespun.stories.laws import ENDINGS, HOME, Event
from homespun.stories.lexicon import HE, HIM, HIS, PLACES
from homespun.stories.world import Dice

# The slots. {N} somebody new, {a} who acts, {g} one or two who act, {both} two who act, {said} and
# {asked} who speaks; {he} {him} {his} go back to these. {b} whom (a name or him, her), {B} whom (a
# name). {t} a thing as the story calls it (the, her, Tom's), {T} as a speaker does (my, your, the),
# {n} its noun, {new} a new one. {in} at a place, {to} to a place, {s} at a spot, {h} high up.
# {q} a trait, {k} a creature, {w} weather, {limb}, {chore}.
# "kind:what" has the forms of a kind of event for one value of `Event.what`.
SENTENCES: dict[str, tuple[str, ...]] = {
    "intro": (
        "Once upon a time, there was a {q} {k} named {N}.",
        "Once upon a time, there was a {q} {k} called {N}.",
        "There once was a {q} {k} named {N}.",
        "Long ago, there was a {q} {k} named {N}.",
        "{N} was a {q} {k}.",
    ),
    "live": (
        "Once upon a time, a {q} {k} named {N} lived {in}.",
        "Once upon a time, there was a {q} {k} named {N} who lived {in}.",
        "A {q} {k} named {N} lived {in}.",
        "{N} was a {q} {k} who lived {in}.",
    ),
    "friend": (
        "{B} had a friend, a {q} {k} named {N}.",
        "{B}'s best friend was a {q} {k} named {N}.",
        "{B} often played with a {q} {k} named {N}.",
    ),
    "arrive": (
        "Just then, a {q} {k} named {N} came by.",
        "After a while, a {q} {k} named {N} came along.",
        "Then a {q} {k} named {N} walked by.",
    ),
    "own": (
        "{a} had {new}.",
        "{a} had {new} and loved it very much.",
        "The thing {a} loved most was {new}.",
        "{a} got {new} for {his} birthday.",
    ),
    "own:food": (
        "{a} had {new} in {his} bag.",
        "{a} had {new} for lunch.",
    ),
    "set_out": (
        "One day, {g} went {to}.",
        "One sunny day, {g} walked {to}.",
        "One morning, {g} went {to} to play.",
        "One day, {both} went {to} together.",
    ),
    "take": (
        "One day, {g} took {t} {to}.",
        "One sunny day, {g} went {to} with {t}.",
        "One morning, {g} took {t} and went {to}.",
    ),
    "play": (
        "{g} played with {t} {in}.",
        "{g} played with {t}.",
        "{g} had a lot of fun with {t}.",
        "{g} had a lot of fun with {t} {in}.",
    ),
    "lose": (
        "Then {a} lost {t} {in}.",
        "But somewhere {in}, {a} lost {t}.",
        "But soon {a} could not find {t} anywhere.",
        "{a} ran and jumped and lost {t} on the way.",
    ),
    "leave_behind": (
        "But {a} was careless and lost {t} {in}.",
        "{a} did not look after {t}, and soon it was lost.",
    ),
    "blow_away": (
        "A strong gust came and blew {t} away.",
        "All at once, {t} flew up into the air and was gone.",
    ),
    "hide": (
        "For a joke, {a} took {t} and hid it {s}.",
        "{a} wanted to play a trick and hid {t} {s}.",
    ),
    "miss": (
        "Soon {a} saw that {t} was gone.",
        "{a} wanted to play with {t}, but it was gone.",
    ),
    "toss": (
        "{a} threw {t} too high, and it got stuck {h}.",
        "Then {a} threw {t} into the air, and it got stuck {h}.",
    ),
    "drop": (
        "{a} fell over, and {t} broke.",
        "{a} bumped into a tree, and {t} broke.",
    ),
    "break": (
        "But {a} was careless with {t}, and it broke.",
        "{a} did not look after {t}, and it broke.",
    ),
    "sad": (
        "{a} was very sad.",
        "{a} began to cry.",
        "{a} felt sad and did not know what to do.",
    ),
    "tell:lost": (
        '"I have lost {T}, {B}," {said}.',
        "{a} told {b} that {t} was lost.",
    ),
    "tell:broken": (
        '"Oh, {B}, {T} is broken," {said}.',
        "{a} told {b} that {t} was broken.",
    ),
    "tell:stuck": (
        '"Oh, {B}, {T} is stuck {h}," {said}.',
        "{a} told {b} that {t} was stuck {h}.",
    ),
    "ask": (
        '"Can you help me, {B}?" {asked}.',
        '"Please help me, {B}," {said}.',
        "{a} asked {b} for help.",
    ),
    "offer:lost": (
        '"I will help you look for {T}, {B}," {said}.',
        "{a} wanted to help {b} look for {t}.",
    ),
    "offer:broken": (
        '"I will help you mend {T}, {B}," {said}.',
        "{a} wanted to help {b} mend {t}.",
    ),
    "offer:stuck": (
        '"I will help you get {T} down, {B}," {said}.',
        "{a} wanted to help {b} get {t} down.",
    ),
    "repay": (
        '"You helped me, {B}, so now I will help you with {T}," {said}.',
        '"You were good to me, {B}, so I will help you with {T}," {said}.',
    ),
    "look": (
        "{g} looked {s}, but {t} was not there.",
        "{g} looked for {t} {s}, but did not find it.",
        "{g} searched {s}, but could not see {t}.",
    ),
    "find": (
        "{a} looked {s} and found {t}!",
        "At last, {a} found {t} {s}.",
        "Then {a} saw {t} {s} and picked it up.",
    ),
    "show": (
        '"I found {T} {s}!" {said}.',
        '"Look, {B}, {T} was {s}!" {said}.',
    ),
    "confess": (
        '"I hid {T} {s}," {said}.',
        '"It was a joke, {B}, I hid {T} {s}," {said}.',
    ),
    "fetch": (
        "{a} went and got {t}, which was still {s}.",
        "{a} ran and took {t}, which lay {s}.",
    ),
    "reach": (
        "{a} jumped, but could not reach {t}.",
        "{a} tried to reach {t}, but {he} was too small.",
    ),
    "get_down": (
        "{a} climbed up and got {t} down.",
        "{a} took a long stick and got {t} down.",
    ),
    "try_mend": (
        "{a} tried to mend {t}, but it was too hard.",
        "{a} did not know how to mend {t}.",
    ),
    "mend": (
        "{a} mended {t} with some glue.",
        "{a} took some string and mended {t}.",
        "{a} worked for a long time and mended {t}.",
    ),
    "give_back": (
        "{a} gave {t} back to {b}.",
        "{a} brought {t} back to {b}.",
    ),
    "thank:help": (
        '"Thank you for your help, {B}!" {said}.',
        "{a} thanked {b} for all the help.",
    ),
    "thank:find": (
        '"Thank you for finding {T}, {B}!" {said}.',
        "{a} thanked {b} for finding {t}.",
    ),
    "thank:mend": (
        '"Thank you for mending {T}, {B}!" {said}.',
        "{a} thanked {b} for mending {t}.",
    ),
    "thank:get_down": (
        '"Thank you for getting {T} down, {B}!" {said}.',
        "{a} thanked {b} for getting {t} down.",
    ),
    "thank:lend": (
        '"Thank you for lending me {T}, {B}!" {said}.',
        "{a} thanked {b} for lending {him} {t}.",
    ),
    "thank:share": (
        '"Thank you for sharing {T}, {B}!" {said}.',
        "{a} thanked {b} for sharing {t}.",
    ),
    "thank:comfort": (
        '"Thank you for staying with me, {B}!" {said}.',
        "{a} thanked {b} for staying with {him}.",
    ),
    "thank:feed": (
        '"Thank you for the {n}, {B}!" {said}.',
        "{a} thanked {b} for the {n}.",
    ),
    "thank:tend": (
        '"Thank you for looking after me, {B}!" {said}.',
        "{a} thanked {b} for looking after {him}.",
    ),
    "thank:guide": (
        '"Thank you for taking me home, {B}!" {said}.',
        "{a} thanked {b} for taking {him} home.",
    ),
    "thank:work": (
        '"Thank you for working with me, {B}!" {said}.',
        "{a} thanked {b} for working with {him}.",
    ),
    "thank:gift": (
        '"Thank you, {B}, I love the {n}!" {said}.',
        "{a} loved the {n} and thanked {b}.",
    ),
    "ask_borrow": (
        '"May I play with {T}, {B}?" {asked}.',
        '"Can I have a turn with {T}, {B}?" {asked}.',
        "{a} wanted to play with {t} too and asked {b} for it.",
    ),
    "lend": (
        "{a} was glad to lend {t} to {b}.",
        '"Yes, you may play with {T}, {B}," {said}.',
    ),
    "refuse": (
        '"No, {B}, you can not have {T}," {said}.',
        "But {a} was greedy and did not want to share {t} with {b}.",
    ),
    "cross": (
        "{a} was cross with {b}.",
        '"That was not nice of you, {B}," {said}.',
    ),
    "walk_off": (
        "{a} turned around and went {to} alone.",
        "{a} was hurt and walked {to} alone.",
    ),
    "lonely": (
        "{a} played with {t} alone, but it was no fun.",
        "Now {a} had {t} but nobody to play with.",
    ),
    "follow": (
        "{a} went {to} to find {b}.",
        "{a} ran after {b} {to}.",
    ),
    "sorry:lost": (
        '"I am sorry that I lost {T}, {B}," {said}.',
        "{a} told {b} that {he} was sorry for losing {t}.",
    ),
    "sorry:broken": (
        '"I am sorry that I broke {T}, {B}," {said}.',
        "{a} told {b} that {he} was sorry for breaking {t}.",
    ),
    "sorry:stuck": (
        '"I am sorry that I threw {T} so high, {B}," {said}.',
        "{a} told {b} that {he} was sorry for throwing {t} so high.",
    ),
    "sorry:hidden": (
        '"I am sorry that I hid {T}, {B}," {said}.',
        "{a} told {b} that {he} was sorry for hiding {t}.",
    ),
    "sorry:refuse": (
        '"I am sorry that I did not share {T}, {B}," {said}.',
        "{a} told {b} that {he} was sorry for not sharing {t}.",
    ),
    "forgive": (
        '"I forgive you, {B}," {said}.',
        '"That is all right, {B}," {said}.',
        "{a} forgave {b}.",
    ),
    "share": (
        "{a} shared {t} with {b}.",
        "Now {a} let {b} play with {t} too.",
    ),
    "weather:rain": ("Suddenly, it began to rain.", "Dark clouds came, and it began to rain."),
    "weather:snow": ("Suddenly, it began to snow.", "It got very cold and began to snow."),
    "weather:thunder": ("Suddenly, there was loud thunder.", "It got dark, and thunder rolled."),
    "weather:wind": ("Suddenly, a strong wind came up.", "The trees shook in a strong wind."),
    "weather:fog": ("Suddenly, thick fog came down.", "Thick fog came up, and it was hard to see."),
    "afraid": (
        "{a} was afraid of the {w}.",
        "{a} was timid and afraid of the {w}.",
    ),
    "shelter": (
        "{g} waited {s} for the {w} to end.",
        "{g} hid from the {w} {s}.",
    ),
    "comfort": (
        '"Do not be afraid of the {w}, {B}," {said}.',
        "{a} stayed close to {b} and sang a song.",
        "{a} told {b} not to be afraid of the {w}.",
    ),
    "clear": (
        "Soon the {w} was over.",
        "At last, the {w} went away.",
    ),
    "hungry": (
        "Soon {a} was very hungry.",
        '"I am so hungry," {said}.',
    ),
    "feed": (
        '"You can have some of {T}, {B}," {said}.',
        "{a} gave half of {t} to {b}, and they ate it all up.",
    ),
    "fall": (
        "Then {a} fell and hurt {his} {limb} {in}.",
        "{a} fell over a stone and hurt {his} {limb}.",
    ),
    "tend": (
        "{a} put a soft leaf on {B}'s {limb}.",
        "{a} washed {B}'s {limb} with cold water.",
    ),
    "astray": (
        "{a} walked too far and lost the way {in}.",
        "Soon {a} did not know the way home any more.",
    ),
    "guide": (
        "{a} knew the way and took {b} home.",
        "{a} showed {b} the way, and they came home safe.",
    ),
    "wish": (
        '"I wish I had a {n} like yours, {B}," {said}.',
        "{a} told {b} that {he} wished for a {n} too.",
    ),
    "busy": (
        "Now {a} had to {chore}.",
        "{a} had to {chore}, and it was hard work.",
    ),
    "work": (
        "{a} helped {b} to {chore}.",
        "{a} worked all day with {b} to {chore}.",
    ),
    "gift": (
        "{a} gave {t} to {b} to keep.",
        '"You helped me, {B}, so you may keep {T}," {said}.',
    ),
    "happy": (
        "{a} was happy again.",
        "Now {a} could smile again.",
    ),
    "learn:care": (
        "{a} learned to take good care of {his} things.",
        "From that day on, {a} always looked after {his} things.",
    ),
    "learn:borrow": (
        "{a} learned to be careful with the things of others.",
        "From that day on, {a} was careful with all that {he} borrowed.",
    ),
    "learn:friends": (
        "{a} learned that it is good to have a friend who helps.",
        "From that day on, {a} knew that a friend can help.",
    ),
    "learn:return": (
        "{a} learned that help comes back to those who give it.",
        "From that day on, {a} knew that help always comes back.",
    ),
    "learn:joke": (
        "{a} learned that a joke is no fun when it makes a friend sad.",
        "From that day on, {a} never played a trick like that again.",
    ),
    "learn:truth": (
        "{a} learned that it is best to tell the truth.",
        "From that day on, {a} always told the truth.",
    ),
    "learn:share": (
        "{a} learned that it is more fun to share.",
        "From that day on, {a} always shared {his} things.",
    ),
    "learn:forgive": (
        "{a} learned that it feels good to forgive.",
        "From that day on, {a} knew how to forgive a friend.",
    ),
    "learn:brave": (
        "{a} learned to be brave when the weather is bad.",
        "From that day on, {a} was not so afraid any more.",
    ),
    "learn:alone": (
        "{a} learned not to walk too far alone.",
        "From that day on, {a} never walked so far alone again.",
    ),
    "learn:kind": (
        "{a} learned that good work brings good things.",
        "From that day on, {a} was always glad to help with hard work.",
    ),
    "end_play": (
        "{g} played with {t} until the sun went down.",
        "For the rest of the day, {g} played with {t}.",
    ),
    "end_home": (
        "In the evening, {g} went home and had a good sleep.",
        "Then {g} went home with a smile.",
        "In the evening, {both} went home together.",
    ),
    "end_friends": (
        "{both} were good friends and stayed good friends.",
        "From then on, {both} were the best of friends.",
    ),
    "end_sleep": (
        "That night, {a} slept with {t} beside {him}.",
        "In the evening, {a} went to bed with {t} and slept well.",
    ),
}  # fmt: skip

SLOT = re.compile(r"\{(\w+)\}")
SPEAKS = frozenset({"said", "asked"})
ACTS = frozenset({"N", "a", "g", "both"}) | SPEAKS
WHATS = frozenset({"k", "w", "limb", "chore"})
"""What they stand for is `Event.what`."""

BEGINNING = frozenset({"intro", "live", "friend", "own", "set_out", "take", "play"})
CONCLUSION = ENDINGS | {"happy", "learn"}


@dataclass(frozen=True)
class Form:
    """One surface form: literals with a slot between each two."""

    kind: str
    what: str
    literals: tuple[str, ...]
    slots: tuple[str, ...]


def _parse(key: str, text: str) -> Form:
    kind, _, what = key.partition(":")
    parts = SLOT.split(text)
    return Form(kind, what, tuple(parts[::2]), tuple(parts[1::2]))


FORMS = tuple(_parse(key, text) for key, texts in SENTENCES.items() for text in texts)


@dataclass(frozen=True)
class Focus:
    """Whom the listener has in mind after a sentence: a pronoun means nobody else.

    He and she are who acted last, they are the two last spoken of, him and her are the one other
    last spoken of.
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
        """The one last spoken of beside `who`, or nobody if there is more than one."""
        others = [name for name in self.spoken_of if name not in who]
        return others[0] if len(others) == 1 else ""


def tell(events: Iterable[Event], rng: np.random.Generator) -> str:
    """The story in words: beginning, middle and conclusion, a line each."""
    dice = Dice(rng)
    focus = Focus()
    paragraphs: tuple[list[str], ...] = ([], [], [])
    part = 0
    for event in events:
        if event.kind in CONCLUSION:
            part = 2
        elif event.kind not in BEGINNING:
            part = 1
        form = dice.choose(_forms(event.kind, _what(event), len(event.who), event.place != HOME))
        paragraphs[part].append(_fill(form, event, focus, dice))
        focus = Focus.after(form, event.who, event.whom)
    return "\n".join(" ".join(sentences) for sentences in paragraphs if sentences)


def _what(event: Event) -> str:
    return event.what if f"{event.kind}:{event.what}" in SENTENCES else ""


@cache
def _forms(kind: str, what: str, actors: int, somewhere: bool) -> tuple[Form, ...]:
    """The forms that can tell of such an event."""
    two, one = {"g", "both"}, {"both"}
    return tuple(
        form
        for form in FORMS
        if (form.kind, form.what) == (kind, what)
        and (somewhere or "in" not in form.slots)
        and (actors != 2 or two.intersection(form.slots))
        and (actors != 1 or not one.intersection(form.slots))
    )


def _fill(form: Form, event: Event, focus: Focus, dice: Dice) -> str:
    text = form.literals[0]
    for slot, literal in zip(form.slots, form.literals[1:], strict=True):
        text += _word(slot, event, focus, dice) + literal
    return text[0].upper() + text[1:]


def _word(slot: str, event: Event, focus: Focus, dice: Dice) -> str:
    who, whom = event.who, event.whom
    match slot:
        case "a" | "g" | "both":
            return _actor(who, focus, dice)
        case "t":
            return _thing(event, dice)
        case "T":
            whose = "my" if event.owner == who[0] else "your" if event.owner == whom else "the"
            return _described(whose, event, dice)
        case "B":
            return whom
        case "b":
            clear = focus.other(who) == whom and HE[whom] != HE[who[0]]
            return HIM[whom] if clear and dice.chance(0.5) else whom
        case "said" | "asked":
            name = _actor(who, focus, dice)
            return f"{slot} {name}" if name in HE else f"{name} {slot}"
        case "in":
            return PLACES[event.place]
        case "to":
            return "to the " + event.place
        case "s" | "h":
            return event.spot
        case "n":
            return event.thing
        case "new":
            return f"a {event.colour} {event.thing}"
        case "q":
            return event.trait
        case "N":
            return who[0]
        case "he":
            return HE[who[0]]
        case "him":
            return HIM[who[0]]
        case "his":
            return HIS[who[0]]
        case _:
            return event.what


def _actor(who: tuple[str, ...], focus: Focus, dice: Dice) -> str:
    if len(who) == 1:
        return HE[who[0]] if focus.acted == who and dice.chance(0.7) else who[0]
    return "they" if set(focus.they()) == set(who) and dice.chance(0.7) else " and ".join(who)


def _thing(event: Event, dice: Dice) -> str:
    if event.who == (event.owner,):
        whose = HIS[event.owner] if dice.chance(0.7) else "the"
    else:
        whose = f"{event.owner}'s" if dice.chance(0.4) else "the"
    return _described(whose, event, dice)


def _described(whose: str, event: Event, dice: Dice) -> str:
    colour = f"{event.colour} " if dice.chance(0.4) else ""
    return f"{whose} {colour}{event.thing}"
