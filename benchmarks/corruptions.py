"""Corruptions that put one false fact into a consistent story, for the benchmark of the judge.

Each takes a story and a random generator, and returns the story with one fact changed, or None if the story has no such
fact. Only facts that the story states or uses again are changed, since a change of another fact could give another
consistent story.
"""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from homespun.stories.events import ARRIVALS, ENDINGS, Event
from homespun.stories.judge import events
from homespun.stories.laws import Facts
from homespun.stories.lexicon import (
    ANIMALS,
    COLOURS,
    FOODS,
    HE,
    HEIGHTS,
    HIS,
    LIMBS,
    NAMES,
    PLACES,
    SPOTS,
    TASTES,
    TOYS,
)
from homespun.stories.teller import FORMS

Option = TypeVar("Option")
Corruption = Callable[[str, np.random.Generator], str | None]

# Only one sentence states that such an event happened, and a later event depends on it.
KEY_EVENTS = frozenset(
    [
        "intro",
        "live",
        "friend",
        "arrive",
        "lose",
        "leave_behind",
        "blow_away",
        "hide",
        "toss",
        "drop",
        "break",
        "find",
        "fetch",
        "get_down",
        "mend",
        "give_back",
        "ask_borrow",
        "sorry",
        "forgive",
        "weather",
        "clear",
        "fall",
        "tend",
        "afraid",
        "comfort",
        "hungry",
        "feed",
        "astray",
        "guide",
        "busy",
        "work",
        "gift",
        "wash",
        "stitch",
        "fish_out",
        "boast",
        "race",
        "win",
        "promise",
        "forget",
        "keep",
        "pity",
        "free",
        "warm",
        "carry",
        "quench",
        "help_down",
        "invite",
    ]
)
# Pairs of events of which the first makes the second possible.
ORDERED = frozenset(
    [
        "lose-find",
        "leave_behind-find",
        "blow_away-find",
        "find-show",
        "find-give_back",
        "show-give_back",
        "hide-miss",
        "miss-fetch",
        "confess-fetch",
        "fetch-give_back",
        "toss-get_down",
        "get_down-give_back",
        "drop-mend",
        "break-mend",
        "mend-give_back",
        "tell-offer",
        "ask_borrow-lend",
        "ask_borrow-refuse",
        "lend-give_back",
        "refuse-sorry",
        "sorry-forgive",
        "sorry-share",
        "weather-clear",
        "afraid-comfort",
        "fall-tend",
        "hungry-feed",
        "astray-guide",
        "busy-work",
        "work-gift",
        "wish-gift",
    ]
)
# Events that state the place of the same thing.
SPOTTED = frozenset({"hide", "confess", "fetch", "find", "show", "toss", "tell"})
# Events with only one possible actor.
ROLES = frozenset(
    [
        "lose",
        "leave_behind",
        "toss",
        "drop",
        "break",
        "give_back",
        "lend",
        "refuse",
        "sorry",
        "forgive",
        "gift",
        "hide",
        "confess",
        "show",
        "tend",
        "feed",
    ]
)


def _pick(rng: np.random.Generator, options: Sequence[Option]) -> Option:
    return options[int(rng.integers(len(options)))]


def _sentences(text: str) -> list[tuple[str, Event]]:
    told = []
    for sentence, reading in events(text):
        if reading is None or reading.event is None:
            raise ValueError(f"not a consistent story: {sentence}")
        told.append((sentence, reading.event))
    return told


def _rewrite(text: str, changes: Sequence[tuple[int, str]]) -> str:
    """The story with new text for some sentences, which are given by number."""
    new = dict(changes)
    parts, position = [], 0
    for number, (sentence, _) in enumerate(events(text)):
        start = text.index(sentence, position)
        parts += [text[position:start], new.get(number, sentence)]
        position = start + len(sentence)
    return "".join([*parts, text[position:]])


def _word(word: str) -> str:
    return rf"\b{re.escape(word)}\b"


def _swap(text: str, rng: np.random.Generator, words: Sequence[str]) -> str | None:
    """Replace one of `words` in one sentence, although other sentences have it too."""
    told = _sentences(text)
    mentions = {
        word: [n for n, (sentence, _) in enumerate(told) if _has(word, sentence)] for word in words
    }
    options = [
        (number, word)
        for word, numbers in mentions.items()
        if len(numbers) > 1
        for number in numbers
    ]
    if not options:
        return None
    number, word = _pick(rng, options)
    other = _pick(rng, [word for word, numbers in mentions.items() if not numbers])
    return _rewrite(text, [(number, re.sub(rf"\b{word}\b", other, told[number][0]))])


def _has(word: str, sentence: str) -> bool:
    return re.search(rf"\b{word}\b", sentence) is not None


def swap_thing(text: str, rng: np.random.Generator) -> str | None:
    """A thing is called by another name in one sentence."""
    return _swap(text, rng, TOYS)


def swap_colour(text: str, rng: np.random.Generator) -> str | None:
    """A thing has another colour in one sentence."""
    told = _sentences(text)
    numbers = [n for n, (_, e) in enumerate(told) if e.colour in COLOURS and e.kind != "own"]
    if not numbers:
        return None
    number = _pick(rng, numbers)
    sentence, event = told[number]
    other = _pick(rng, [colour for colour in COLOURS if colour != event.colour])
    return _rewrite(text, [(number, sentence.replace(event.colour, other))])


def swap_name(text: str, rng: np.random.Generator) -> str | None:
    """A character has a name in one sentence that nobody in the story has."""
    return _swap(text, rng, NAMES)


def swap_role(text: str, rng: np.random.Generator) -> str | None:
    """Another character does something that only one of them can have done."""
    told = _sentences(text)
    cast = [event.who[0] for _, event in told if event.kind in ARRIVALS]
    options = [
        (number, other)
        for number, (sentence, event) in enumerate(told)
        if event.kind in ROLES and event.who[0] in sentence
        for other in cast
        if other not in (event.who[0], event.whom)
    ]
    if not options:
        return None
    number, other = _pick(rng, options)
    sentence, event = told[number]
    return _rewrite(text, [(number, re.sub(_word(event.who[0]), other, sentence))])


def flip_pronoun(text: str, rng: np.random.Generator) -> str | None:
    """One pronoun has the wrong gender."""
    options = list(re.finditer(r"\b([Hh]e|[Ss]he|[Hh]im|[Hh]er|[Hh]is)\b", text))
    if not options:
        return None
    found = _pick(rng, options)
    owned = (*TOYS, *FOODS, *COLOURS, *TASTES, *LIMBS, "bag", "birthday", "things")
    possessive = re.match(rf" ({'|'.join(owned)})\b", text[found.end() :])
    her = "his" if possessive else "him"
    swap = {"he": "she", "she": "he", "him": "her", "his": "her", "her": her}
    flipped = swap[found[0].lower()]
    if found[0][0].isupper():
        flipped = flipped.capitalize()
    return text[: found.start()] + flipped + text[found.end() :]


def swap_place(text: str, rng: np.random.Generator) -> str | None:
    """One sentence names another place."""
    told = _sentences(text)
    places = [event.place for _, event in told if event.place]
    numbers = [n for n, (_, event) in enumerate(told) if places.count(event.place) > 1]
    if not numbers:
        return None
    number = _pick(rng, numbers)
    sentence, event = told[number]
    other = _pick(rng, [place for place in PLACES if place not in places])
    there = sentence.replace(PLACES[event.place], PLACES[other])
    return _rewrite(text, [(number, there.replace(f"to the {event.place}", f"to the {other}"))])


def swap_spot(text: str, rng: np.random.Generator) -> str | None:
    """A thing is stuck, hidden or found at another spot than in another sentence."""
    told = _sentences(text)
    lies = [n for n, (_, event) in enumerate(told) if event.kind in SPOTTED]
    spots = [told[number][1].spot for number in lies]
    twice = [number for number, spot in zip(lies, spots, strict=True) if spots.count(spot) > 1]
    if not twice:
        return None
    number = _pick(rng, twice)
    sentence, event = told[number]
    alike = HEIGHTS if event.spot in HEIGHTS else SPOTS
    other = _pick(rng, [spot for spot in alike if spot not in text])
    return _rewrite(text, [(number, sentence.replace(event.spot, other))])


def delete_event(text: str, rng: np.random.Generator) -> str | None:
    """A necessary event is missing."""
    told = _sentences(text)
    numbers = [n for n, (_, event) in enumerate(told) if event.kind in KEY_EVENTS]
    number = _pick(rng, numbers)
    return re.sub(
        r"[ \n]*\n[ \n]*", "\n", re.sub(" +", " ", _rewrite(text, [(number, "")]))
    ).strip()


def swap_order(text: str, rng: np.random.Generator) -> str | None:
    """A consequence comes before its cause."""
    told = _sentences(text)
    options = [
        (i, j)
        for i, (_, first) in enumerate(told)
        for j, (_, second) in enumerate(told)
        if i < j and f"{first.kind}-{second.kind}" in ORDERED and first.thing == second.thing
    ]
    if not options:
        return None
    i, j = _pick(rng, options)
    return _rewrite(text, [(i, told[j][0]), (j, told[i][0])])


def change_owner(text: str, rng: np.random.Generator) -> str | None:
    """A thing belongs to another character in one sentence."""
    told = _sentences(text)
    options = [
        (number, found)
        for number, (sentence, event) in enumerate(told)
        if event.owner and event.kind != "own"
        for found in re.finditer(
            rf"\b([A-Z][a-z]+'s|my|your|his|her)(?= (?:[a-z]+ )?{event.thing}\b)", sentence
        )
    ]
    if not options:
        return None
    number, found = _pick(rng, options)
    sentence, event = told[number]
    others = [name for name in NAMES if name in text and name != event.owner]
    someone_else = _pick(rng, others or [name for name in NAMES if name != event.owner]) + "'s"
    owner = {"my": "your", "your": "my"}.get(found[0], someone_else)
    return _rewrite(text, [(number, sentence[: found.start()] + owner + sentence[found.end() :])])


def swap_creature(text: str, rng: np.random.Generator) -> str | None:
    """A character is another creature than at the beginning."""
    told = _sentences(text)
    options = [
        (number, name, creature)
        for number, (_, event) in enumerate(told)
        for name, creature in event.called
    ]
    if not options:
        return None
    number, name, creature = _pick(rng, options)
    other = _pick(rng, [animal for animal in ANIMALS if animal != creature])
    sentence = told[number][0].replace(f"{name} the {creature}", f"{name} the {other}")
    return _rewrite(text, [(number, sentence)])


def change_lesson(text: str, rng: np.random.Generator) -> str | None:
    """A character learns a lesson that the story does not teach."""
    told = _sentences(text)
    facts = Facts()
    for number, (_, event) in enumerate(told):
        if event.kind != "learn":
            facts.happen(event)
            continue
        (name,) = event.who
        forms = [form for form in FORMS if form.kind == "learn"]
        wrong = [form for form in forms if (name, form.what) not in facts.lessons]
        form = _pick(rng, wrong)
        said = {"said": f"said {name}", "asked": f"asked {name}", "he": HE[name], "his": HIS[name]}
        sentence = ""
        for slot, literal in zip(("", *form.slots), form.literals, strict=True):
            sentence += said.get(slot, name if slot else "")
            sentence += "".join(choice[0] for choice in literal)
        return _rewrite(text, [(number, sentence)])
    return None


def change_ending(text: str, rng: np.random.Generator) -> str | None:
    """The ending has a character of another story."""
    told = _sentences(text)
    if told[-1][1].kind not in ENDINGS:
        return None
    stranger = _pick(rng, [name for name in NAMES if name not in text])
    return _rewrite(text, [(len(told) - 1, f"Then {stranger} went home with a smile.")])


def early_ending(text: str, rng: np.random.Generator) -> str | None:
    """The story ends while something is still wrong."""
    told = _sentences(text)
    facts = Facts()
    numbers = []
    for number, (_, event) in enumerate(told):
        facts.happen(event)
        if facts.open_matters():
            numbers.append(number)
    if not numbers:
        return None
    number = _pick(rng, numbers)
    kept = [sentence for sentence, _ in told[: number + 1]]
    return " ".join([*kept, told[-1][0]])


def no_ending(text: str, rng: np.random.Generator) -> str | None:
    """The last sentence is missing."""
    return _rewrite(text, [(len(_sentences(text)) - 1, "")]).strip()


def cut_off(text: str, rng: np.random.Generator) -> str | None:
    """The text is cut off after a random character."""
    return text[: int(rng.integers(1, len(text) - 1))].strip()


CORRUPTIONS: dict[str, Corruption] = {
    function.__name__: function
    for function in (
        swap_thing,
        swap_colour,
        swap_name,
        swap_role,
        flip_pronoun,
        swap_place,
        swap_spot,
        delete_event,
        swap_order,
        change_owner,
        swap_creature,
        change_lesson,
        change_ending,
        early_ending,
        no_ending,
        cut_off,
    )
}
