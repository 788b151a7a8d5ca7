"""Events flow in, a story in simple English flows out.

`SENTENCES` contains every surface form once. The teller fills the slots of a form from an event. The judge turns the
same forms into patterns and reads events from sentences. Both use `Focus` to resolve pronouns.

If only one of the characters can have done a thing, most forms state the action and its object first and the character
last. A model that writes word by word can then infer the character from the action. If the name came first, the model
would have to choose a name and then find an action that is still possible for it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np

from homespun.stories.laws import ARRIVALS, ENDINGS, HOME, Event
from homespun.stories.lexicon import ANIMALS, HE, HIM, HIS, PLACES
from homespun.stories.world import Dice

# The slots:
# {N} a new character; {a} the actor; {g} one or two actors; {both} two actors; {said}, {asked} the speaker;
# {he}, {him}, {his} pronouns for these. {b} the other character (a name, him or her); {B} the same, always a name.
# {t} a thing in the words of the story (the, her, Tom's); {o} the same without a pronoun; {T} a thing in the words of
# a speaker (my, your, the); {n} its noun; {new} a new thing. {in} at a place; {to} to a place; {s} at a spot; {h} high
# up. {q} a trait; {k} a creature; {w} weather; {limb}; {chore}.
# The key "kind:what" has the forms of a kind of event for one value of `Event.what`.
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
        "Soon {o} was lost, for {a} had dropped it {in}.",
        "But {o} was lost {in}, for {a} had run too wildly.",
        "But soon {o} was gone, and {a} could not find it anywhere.",
    ),
    "leave_behind": (
        "But {o} was soon lost {in}, for {a} was careless.",
        "Soon {o} was lost, for {a} did not look after it.",
    ),
    "blow_away": (
        "A strong gust came and blew {t} away.",
        "All at once, {t} flew up into the air and was gone.",
    ),
    "hide": (
        "For a joke, {a} took {t} and hid it {s}.",
        "To tease {B}, {a} took {t} and hid it {s}.",
    ),
    "miss": (
        "Soon {a} saw that {t} was gone.",
        "{a} wanted to play with {t}, but it was gone.",
    ),
    "giggle": (
        "But {o} was still {s}, and {a} giggled.",
        "Nobody knew that {o} was {s}, so {a} had to laugh.",
    ),
    "toss": (
        "{o} got stuck {h}, for {a} had thrown it too high.",
        "Up into the air {a} threw {t}, and it got stuck {h}.",
    ),
    "drop": (
        "With a crack, {o} broke when {a} fell over.",
        "{o} broke when {a} bumped into a tree.",
    ),
    "break": (
        "But {o} broke, for {a} was careless with it.",
        "{o} broke, for {a} did not look after it.",
    ),
    "sad": (
        "{a} was very sad.",
        "{a} began to cry.",
        "{a} felt sad and did not know what to do.",
    ),
    "tell:lost": (
        '"I have lost {T}, {B}," {said}.',
        "{o} was lost, {a} told {b}.",
    ),
    "tell:broken": (
        '"Oh, {B}, {T} is broken," {said}.',
        "{o} was broken, {a} told {b}.",
    ),
    "tell:stuck": (
        '"Oh, {B}, {T} is stuck {h}," {said}.',
        "{o} was stuck {h}, {a} told {b}.",
    ),
    "ask": (
        '"I need your help," {a} said to {b}.',
        '"Please help me," {a} said to {b}.',
        "{a} asked {b} for help.",
    ),
    "offer:lost": (
        '"I will help you look for {T}, {B}," {said}.',
        "{B} did not have to look for the {n} alone, for {a} wanted to help.",
    ),
    "offer:broken": (
        '"I will help you mend {T}, {B}," {said}.',
        "{B} did not have to mend the {n} alone, for {a} wanted to help.",
    ),
    "offer:stuck": (
        '"I will help you get {T} down, {B}," {said}.',
        "{B} did not have to get the {n} down alone, for {a} wanted to help.",
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
        '"I took {T} for a joke and hid it {s}," {said}.',
        '"It was a joke, {B}, {T} is {s}," {said}.',
    ),
    "fetch": (
        "{a} went and got {t}, which was still {s}.",
        "{a} ran there and came back with {t}.",
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
        '"Here is {T} again, {B}," {said}.',
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
        "{B}'s {n} looked like so much fun that {a} asked for a turn.",
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
        "Losing {o} was wrong, and {a} said sorry to {b}.",
    ),
    "sorry:broken": (
        '"I am sorry that I broke {T}, {B}," {said}.',
        "Breaking {o} was wrong, and {a} said sorry to {b}.",
    ),
    "sorry:stuck": (
        '"I am sorry that I threw {T} so high, {B}," {said}.',
        "Throwing {o} so high was wrong, and {a} said sorry to {b}.",
    ),
    "sorry:hidden": (
        '"I am sorry that I hid {T}, {B}," {said}.',
        "Hiding {o} was wrong, and {a} said sorry to {b}.",
    ),
    "sorry:refuse": (
        '"I am sorry that I did not share {T}, {B}," {said}.',
        "Not sharing {o} was wrong, and {a} said sorry to {b}.",
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
        "So that {B} was not so afraid, {a} sang a song.",
        "To make {B} feel safe from the {w}, {a} stayed close.",
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
        "{B} got half of {o} from {a}, and they ate it all up.",
    ),
    "fall": (
        "Then {a} fell and hurt {his} {limb} {in}.",
        "{a} fell over a stone and hurt {his} {limb}.",
    ),
    "tend": (
        '"I will put a soft leaf on your {limb}, {B}," {said}.',
        '"Let me wash your {limb} with cold water, {B}," {said}.',
    ),
    "astray": (
        "{a} walked too far and lost the way {in}.",
        "Soon {a} did not know the way home any more.",
    ),
    "guide": (
        "Luckily, {a} knew the way and took {b} home.",
        '"Come with me, {B}, I know the way home," {said}.',
    ),
    "wish": (
        '"I wish I had a {n} like yours, {B}," {said}.',
        "{B}'s {n} was so nice that {a} wished for one too.",
    ),
    "busy": (
        "Now {a} had to {chore}.",
        "{a} had to {chore}, and it was hard work.",
    ),
    "work": (
        "It was a lot of work to {chore}, but {a} helped {b}.",
        '"I will help you to {chore}, {B}," {said}.',
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
        '"I will take good care of my things," {said}.',
        "Toys have to be looked after, and {a} never forgot it.",
    ),
    "learn:borrow": (
        '"I will be careful with the things of others," {said}.',
        "One has to take care of what one borrows, and {a} never forgot it.",
    ),
    "learn:friends": (
        '"It is good to have a friend who helps," {said}.',
        "With a friend all is easier, {a} learned that day.",
    ),
    "learn:return": (
        '"Help comes back to those who give it," {said}.',
        "Who helps will be helped, {a} learned that day.",
    ),
    "learn:joke": (
        '"A joke is no fun when it makes a friend sad," {said}.',
        "Tricks like that are not funny, and {a} never played one again.",
    ),
    "learn:truth": (
        '"It is best to tell the truth," {said}.',
        "The truth is best, {a} learned that day.",
    ),
    "learn:share": (
        '"It is more fun to share," {said}.',
        "Sharing makes two happy, {a} learned that day.",
    ),
    "learn:forgive": (
        '"It feels good to forgive," {said}.',
        "A friend can be forgiven, {a} learned that day.",
    ),
    "learn:brave": (
        '"I will be brave when the weather is bad," {said}.',
        "All bad weather ends, {a} learned that day.",
    ),
    "learn:alone": (
        '"I will not walk too far alone again," {said}.',
        "Far from home one should not be alone, and {a} never forgot it.",
    ),
    "learn:kind": (
        '"Good work brings good things," {said}.',
        "Hard work is worth it, {a} learned that day.",
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
        "That night, {o} lay by the bed while {a} slept well.",
        "In the evening, {o} lay on the bed, and {a} slept well.",
    ),
}  # fmt: skip

SLOT = re.compile(r"\{(\w+)\}")
SPEAKS = frozenset({"said", "asked"})
ACTS = frozenset({"N", "a", "g", "both"}) | SPEAKS
PRONOUNS = frozenset({"he", "she", "they"})
WHATS = frozenset({"k", "w", "limb", "chore"})
"""Slots that are filled from `Event.what`."""

BEGINNING = frozenset({"intro", "live", "friend", "own", "set_out", "take", "play"})
CONCLUSION = ENDINGS | {"happy", "learn"}


@dataclass(frozen=True)
class Form:
    """One surface form: literal texts, with slots between them."""

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


def tell(events: Iterable[Event], rng: np.random.Generator) -> str:
    """Tell a story: beginning, middle and conclusion, one line each."""
    teller = _Teller(Dice(rng))
    paragraphs: tuple[list[str], ...] = ([], [], [])
    part = 0
    for event in events:
        if event.kind in CONCLUSION:
            part = 2
        elif event.kind not in BEGINNING:
            part = 1
        paragraphs[part].append(teller.sentence(event))
    return "\n".join(" ".join(sentences) for sentences in paragraphs if sentences)


def _what(event: Event) -> str:
    return event.what if f"{event.kind}:{event.what}" in SENTENCES else ""


@cache
def _forms(kind: str, what: str, actors: int, somewhere: bool) -> tuple[Form, ...]:
    """The forms for an event of this kind."""
    two, one = {"g", "both"}, {"both"}
    return tuple(
        form
        for form in FORMS
        if (form.kind, form.what) == (kind, what)
        and (somewhere or "in" not in form.slots)
        and (actors != 2 or two.intersection(form.slots))
        and (actors != 1 or not one.intersection(form.slots))
    )


class _Teller:
    """Turns one event after another into words, and remembers the sentences before."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.focus = Focus()
        self.cast: dict[str, str] = {}
        """The creature of each character."""

    def sentence(self, event: Event) -> str:
        somewhere = event.place != HOME
        form = self.dice.choose(_forms(event.kind, _what(event), len(event.who), somewhere))
        text = form.literals[0]
        for slot, literal in zip(form.slots, form.literals[1:], strict=True):
            text += self.word(slot, event) + literal
        self.focus = Focus.after(form, event.who, event.whom)
        if event.kind in ARRIVALS:
            self.cast[event.who[0]] = event.what
        return text[0].upper() + text[1:]

    def word(self, slot: str, event: Event) -> str:
        who, whom = event.who, event.whom
        match slot:
            case "a" | "g" | "both":
                return self.actor(who)
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
                name = self.actor(who)
                return f"{name} {slot}" if name in PRONOUNS else f"{slot} {name}"
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

    def actor(self, who: tuple[str, ...]) -> str:
        if len(who) == 1:
            known = self.focus.acted == who
            return HE[who[0]] if known and self.dice.chance(0.6) else self.called(who[0])
        known = set(self.focus.they()) == set(who)
        return "they" if known and self.dice.chance(0.7) else " and ".join(who)

    def called(self, name: str) -> str:
        """The name, sometimes with the creature: Lily the pig."""
        creature = self.cast[name]
        named = creature in ANIMALS and self.dice.chance(0.25)
        return f"{name} the {creature}" if named else name

    def whose(self, event: Event) -> str:
        if event.owner in event.who:
            alone = len(event.who) == 1
            return HIS[event.owner] if alone and self.dice.chance(0.7) else "the"
        return f"{event.owner}'s" if self.dice.chance(0.4) else "the"

    def described(self, whose: str, event: Event) -> str:
        colour = f"{event.colour} " if self.dice.chance(0.4) else ""
        return f"{whose} {colour}{event.thing}"
