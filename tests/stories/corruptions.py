"""One false fact in a true story: what the judge has to notice.

Each function takes a consistent story and a generator, and gives the story back with one fact changed, or None where
the story has no such fact. What could by chance be another consistent story is left out: only facts that the story
states or uses a second time are changed.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from homespun.stories.judge import events
from homespun.stories.teller import FORMS, SENTENCES
from homespun.stories.world import (
    COLOURS,
    ENDINGS,
    HEIGHTS,
    NAMES,
    PLACES,
    SPOTS,
    TOYS,
    Dice,
    Event,
    Facts,
)

Corruption = Callable[[str, np.random.Generator], str | None]

KEY_EVENTS = frozenset(
    "intro live friend arrive lose leave_behind blow_away hide toss drop break find fetch get_down mend give_back "
    "ask_borrow sorry forgive weather clear fall tend afraid comfort hungry feed astray guide busy work gift".split()
)
"""Nothing else tells that these happened, and something later depends on them."""

ORDERED = (
    ("lose", "find"), ("leave_behind", "find"), ("blow_away", "find"), ("find", "give_back"),
    ("find", "show"), ("show", "give_back"), ("hide", "miss"), ("miss", "fetch"), ("confess", "fetch"),
    ("fetch", "give_back"), ("toss", "get_down"), ("get_down", "give_back"), ("drop", "mend"),
    ("break", "mend"), ("mend", "give_back"), ("tell", "offer"), ("ask_borrow", "lend"),
    ("ask_borrow", "refuse"), ("lend", "give_back"), ("refuse", "sorry"), ("sorry", "forgive"),
    ("sorry", "share"), ("weather", "clear"), ("afraid", "comfort"), ("fall", "tend"),
    ("hungry", "feed"), ("astray", "guide"), ("busy", "work"), ("work", "gift"), ("wish", "gift"),
)  # fmt: skip
"""The first makes the second possible."""

ROLES = frozenset(
    "lose leave_behind toss drop break give_back lend refuse sorry forgive gift hide confess show tend feed".split()
)
"""Only one of the characters can have done these."""


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return Dice(rng).choose(options)


def _sentences(text: str) -> list[tuple[str, Event]]:
    told = []
    for sentence, reading in events(text):
        if reading is None or reading.event is None:
            raise ValueError(f"not a consistent story: {sentence}")
        told.append((sentence, reading.event))
    return told


def _rewrite(text: str, changes: Sequence[tuple[int, str]]) -> str:
    """The story with some of its sentences (by number) replaced; all else, line breaks too, stays."""
    new = dict(changes)
    parts, position = [], 0
    for number, (sentence, _) in enumerate(events(text)):
        start = text.index(sentence, position)
        parts += [text[position:start], new.get(number, sentence)]
        position = start + len(sentence)
    return "".join([*parts, text[position:]])


def _word(word: str) -> str:
    return rf"\b{re.escape(word)}\b"


def _swap_word(
    text: str, rng: np.random.Generator, words: Sequence[str], skip: frozenset[str] = frozenset()
) -> str | None:
    """In one sentence, put another of `words` for one that other sentences have too."""
    told = _sentences(text)
    places = [
        (number, word)
        for word in words
        for numbers in [
            [n for n, (s, e) in enumerate(told) if re.search(_word(word), s) and e.kind not in skip]
        ]
        if len(numbers) > 1
        for number in numbers
    ]
    if not places:
        return None
    number, word = places[int(rng.integers(len(places)))]
    other = _pick(rng, [w for w in words if not re.search(_word(w), text)])
    return _rewrite(text, [(number, re.sub(_word(word), other, told[number][0]))])


def swap_thing(text: str, rng: np.random.Generator) -> str | None:
    """A thing is called by another name in one sentence."""
    return _swap_word(text, rng, TOYS)


def swap_colour(text: str, rng: np.random.Generator) -> str | None:
    """A thing has another colour in one sentence."""
    told = _sentences(text)
    numbers = [n for n, (_, e) in enumerate(told) if e.colour in COLOURS and e.kind != "own"]
    if not numbers:
        return None
    number = numbers[int(rng.integers(len(numbers)))]
    sentence, event = told[number]
    other = _pick(rng, [colour for colour in COLOURS if colour != event.colour])
    return _rewrite(text, [(number, sentence.replace(event.colour, other))])


def swap_name(text: str, rng: np.random.Generator) -> str | None:
    """A character is called by the name of somebody else, who is not in the story."""
    return _swap_word(text, rng, NAMES)


def swap_role(text: str, rng: np.random.Generator) -> str | None:
    """Somebody else of the story does what only one can have done."""
    told = _sentences(text)
    cast = [
        event.who[0] for _, event in told if event.kind in ("intro", "live", "friend", "arrive")
    ]
    options = [
        (number, other)
        for number, (sentence, event) in enumerate(told)
        if event.kind in ROLES and event.who[0] in sentence
        for other in cast
        if other not in (event.who[0], event.whom)
    ]
    if not options:
        return None
    number, other = options[int(rng.integers(len(options)))]
    sentence, event = told[number]
    return _rewrite(text, [(number, re.sub(_word(event.who[0]), other, sentence))])


def flip_pronoun(text: str, rng: np.random.Generator) -> str | None:
    """He for she, or the like, once."""
    options = list(re.finditer(r"\b([Hh]e|[Ss]he|[Hh]im|[Hh]er|[Hh]is)\b", text))
    if not options:
        return None
    found = options[int(rng.integers(len(options)))]
    word = found[0]
    possessive = re.match(r" [a-z]", text[found.end() :]) and not re.match(
        r" (to|for|the|for|look|get|mend|that)\b", text[found.end() :]
    )
    flipped = {
        "he": "she",
        "she": "he",
        "him": "her",
        "his": "her",
        "her": "his" if possessive else "him",
    }[word.lower()]
    if word[0].isupper():
        flipped = flipped.capitalize()
    return text[: found.start()] + flipped + text[found.end() :]


def swap_place(text: str, rng: np.random.Generator) -> str | None:
    """One sentence says that it was somewhere else."""
    return _swap_word(text, rng, tuple(PLACES))


def swap_spot(text: str, rng: np.random.Generator) -> str | None:
    """A thing is hidden, stuck or found in another spot than another sentence says."""
    return _swap_word(text, rng, SPOTS + HEIGHTS, skip=frozenset(("shelter", "look")))


def delete_event(text: str, rng: np.random.Generator) -> str | None:
    """Something must have happened, but is not told."""
    told = _sentences(text)
    numbers = [n for n, (_, event) in enumerate(told) if event.kind in KEY_EVENTS]
    number = numbers[int(rng.integers(len(numbers)))]
    return re.sub(
        r"[ \n]*\n[ \n]*", "\n", re.sub(" +", " ", _rewrite(text, [(number, "")]))
    ).strip()


def swap_order(text: str, rng: np.random.Generator) -> str | None:
    """What follows from something comes before it."""
    told = _sentences(text)
    options = [
        (i, j)
        for i, (_, first) in enumerate(told)
        for j, (_, second) in enumerate(told)
        if i < j and (first.kind, second.kind) in ORDERED and first.thing == second.thing
    ]
    if not options:
        return None
    i, j = options[int(rng.integers(len(options)))]
    return _rewrite(text, [(i, told[j][0]), (j, told[i][0])])


def change_owner(text: str, rng: np.random.Generator) -> str | None:
    """A thing is said to belong to somebody else."""
    told = _sentences(text)
    options = [
        (number, found)
        for number, (sentence, event) in enumerate(told)
        for found in re.finditer(
            r"\b(?:([A-Z][a-z]+)'s|my|your|his|her)(?= (?:[a-z]+ )?%s\b)" % event.thing, sentence
        )
        if event.thing and event.owner and event.kind != "own"
    ]
    if not options:
        return None
    number, found = options[int(rng.integers(len(options)))]
    sentence, event = told[number]
    if found[0] in ("my", "your"):
        owner = "my" if found[0] == "your" else "your"
    else:
        owner = (
            _pick(rng, [name for name in NAMES if name in text and name != event.owner] or NAMES)
            + "'s"
        )
    return _rewrite(text, [(number, sentence[: found.start()] + owner + sentence[found.end() :])])


def change_lesson(text: str, rng: np.random.Generator) -> str | None:
    """Somebody learns what nothing in the story teaches."""
    told = _sentences(text)
    facts = Facts()
    for number, (sentence, event) in enumerate(told):
        if event.kind == "learn":
            break
        facts.happen(event)
    else:
        return None
    (name,) = event.who
    lessons = [key.partition(":")[2] for key in SENTENCES if key.startswith("learn:")]
    lesson = _pick(rng, [what for what in lessons if (name, what) not in facts.lessons])
    form = next(form for form in FORMS if (form.kind, form.what) == ("learn", lesson))
    words = {"a": name, "his": "his" if " his " in f" {sentence} " else "her"}
    new = form.literals[0]
    for slot, literal in zip(form.slots, form.literals[1:], strict=True):
        new += words[slot] + literal
    return _rewrite(text, [(number, new)])


def change_ending(text: str, rng: np.random.Generator) -> str | None:
    """Somebody of another story ends this one."""
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
    number = numbers[int(rng.integers(len(numbers)))]
    kept = [sentence for sentence, _ in told[: number + 1]]
    return " ".join([*kept, told[-1][0]])


def no_ending(text: str, rng: np.random.Generator) -> str | None:
    """The last sentence is missing."""
    return _rewrite(text, [(len(_sentences(text)) - 1, "")]).strip()


def cut_off(text: str, rng: np.random.Generator) -> str | None:
    """The text breaks off somewhere."""
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
        change_lesson,
        change_ending,
        early_ending,
        no_ending,
        cut_off,
    )
}
