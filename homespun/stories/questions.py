"""Seeds flow in, stories with questions flow out: each question has exactly one right answer by the simulation.

A question is made of the events of a story and the facts that they leave behind. A reader who has nothing but the words
of the story, see `judge.events`, comes to the same questions with the same answers; the tests compare the two.

Stories for training and stories for tests share no course of events: the hash of the course decides.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, zip_longest
from typing import Any, Literal, NamedTuple

import numpy as np

from homespun.stories import MIN_WORDS, lexicon
from homespun.stories.dice import PLAIN, WHOLE, Variety
from homespun.stories.events import ARRIVALS, HARMS, HOME, TROUBLES, Event
from homespun.stories.laws import Facts
from homespun.stories.lexicon import ANIMALS, FOODS, HE, HIS, an
from homespun.stories.teller import tell
from homespun.stories.world import simulate

Difficulty = Literal["easy", "medium", "hard"]
Part = Literal["training", "test"]

SEED = 0x71756573
"""Of the test's stories, far from the seeds of training texts."""
MOST_WORDS = 150
"""Longer stories are left out, so that a story and its questions fit a short context."""
TEST_SHARE = 10
"""One course of events in so many belongs to the test."""

SKILLS = (
    "who has it",
    "who did it",
    "who helped",
    "where is it",
    "what is it like",
    "why is she sad",
    "how many",
    "before or after",
    "what will he never do again",
)
DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "medium", "hard")

NUMBERS = ("none", "one", "two", "three", "four", "five")


class Question(NamedTuple):
    """A question about a story."""

    text: str
    answer: str
    """The only right one, word for word."""
    skill: str
    difficulty: Difficulty


class Asked(NamedTuple):
    """A story with questions about it."""

    story: str
    questions: tuple[Question, ...]
    course: tuple[str, ...]
    """The kinds of its events, in order."""


# Words.

WHO: dict[
    str, tuple[str, Difficulty]
] = {  # kind of event: the question whose answer is the actor, and its difficulty
    "hide": ("Who hid the {n}?", "easy"),
    "gobble": ("Who ate the {n} in secret?", "easy"),
    "refuse": ("Who did not want to share the {n}?", "easy"),
    "wish": ("Who wished for a thing like the {n}?", "easy"),
    "fall": ("Who got hurt?", "easy"),
    "afraid": ("Who was afraid of the {w}?", "easy"),
    "hungry": ("Who was hungry?", "easy"),
    "chill": ("Who was cold?", "easy"),
    "tire": ("Who was tired?", "easy"),
    "thirst": ("Who was thirsty?", "easy"),
    "climb": ("Who climbed too high?", "easy"),
    "astray": ("Who lost the way?", "easy"),
    "stray": ("Who lost the way?", "easy"),
    "apart": ("Who was too shy to play with the others?", "easy"),
    "boast": ("Who boasted?", "easy"),
    "promise": ("Who made a promise?", "easy"),
    "busy": ("Who had to {w}?", "easy"),
    "shirk": ("Who was too lazy to help?", "easy"),
    "ask_borrow": ("Who wanted to borrow the {n}?", "medium"),
    "find": ("Who found the {n}?", "medium"),
    "mend": ("Who mended the {n}?", "medium"),
    "get_down": ("Who got the {n} down?", "medium"),
    "wash": ("Who cleaned the {n}?", "medium"),
    "stitch": ("Who sewed up the {n}?", "medium"),
    "fish_out": ("Who got the {n} out of the water?", "medium"),
    "win": ("Who won the race?", "medium"),
    "sorry": ("Who said sorry?", "medium"),
}

HAPPENED = {  # a mishap as a sentence without its capital and its end
    "lose": "{a} lost the {n}",
    "leave_behind": "{a} left the {n} lying about",
    "blow_away": "the wind took the {n} away",
    "hide": "{a} hid the {n}",
    "toss": "the {n} got stuck",
    "drop": "the {n} broke",
    "break": "the {n} broke",
    "soil": "the {n} got muddy",
    "tear": "the {n} tore",
    "float": "the {n} fell into the water",
    "ask_borrow": "{a} asked for the {n}",
    "gobble": "{a} ate the {n}",
    "wish": "{a} wished for a thing like the {n}",
    "fall": "{a} got hurt",
    "hungry": "{a} was hungry",
    "chill": "{a} was cold",
    "tire": "{a} was tired",
    "thirst": "{a} was thirsty",
    "climb": "{a} climbed too high",
    "astray": "{a} lost the way",
    "stray": "{a} lost the way",
    "apart": "{a} was too shy to play",
    "boast": "{a} boasted",
    "forget": "{a} forgot the promise",
    "busy": "{a} had to {w}",
    "pity": "{a} saw the {w}",
    "weather": "the {w} came",
}

AILING = {  # a trouble of a person, as the end of a sentence that begins with "because"
    "afraid": "{he} was afraid of the {w}",
    "hungry": "{he} was hungry",
    "fall": "{his} {limb} hurt",
    "astray": "{he} had lost the way",
    "stray": "{he} had lost the way",
    "climb": "{he} could not get down",
    "chill": "{he} was cold",
    "tire": "{he} was tired",
    "thirst": "{he} was thirsty",
    "apart": "{he} was too shy to play",
}
STATES = {
    "lost": "was lost",
    "hidden": "was gone",
    "stuck": "was stuck",
    "broken": "was broken",
    "muddy": "was muddy",
    "torn": "was torn",
    "adrift": "was in the water",
    "gone": "was gone for good",
    "ruined": "was broken for good",
}
WRONGS = {
    "refuse": "{b} did not share the {n}",
    "forget": "{b} forgot the promise",
    "shirk": "{b} did not help",
}
WHEN = {"lost": "got lost", "stuck": "got stuck", "broken": "broke", "muddy": "got muddy",
        "torn": "tore", "adrift": "fell into the water"}  # fmt: skip
NEVER = {  # the lessons that are vows
    "care": "be careless with things",
    "borrow": "be careless with borrowed things",
    "joke": "hide things for a joke",
    "share": "be too greedy to share",
    "brave": "be afraid of bad weather",
    "alone": "walk too far alone",
    "ask": "eat without asking",
    "modest": "boast",
    "promise": "forget a promise",
    "diligent": "be lazy",
    "climb": "climb too high",
}
HELP = frozenset({"help", "find", "mend", "get_down", "wash", "stitch", "fish_out", "comfort", "feed", "tend", "guide",
                  "help_down", "warm", "carry", "quench", "invite", "work"})  # fmt: skip
"""Deeds that are help, whatever else they may be. To lend or to give is not."""


def worded(text: str, event: Event) -> str:
    """The text with the words of an event in its gaps."""
    who = event.who[0] if event.who else ""
    return text.format(a=who, n=event.thing, w=event.what)


def is_right(answer: str, right: str) -> bool:
    """Whether an answer is exactly the right one, but for white space, capitals, and a full stop at its end."""

    def plain(text: str) -> str:
        return " ".join(text.casefold().split()).removesuffix(".")

    return plain(answer) == plain(right)


# Questions about the events of one story.


def questions(events: Iterable[Event]) -> tuple[Question, ...]:
    """All questions that the events of a story answer, each once. One with two possible answers is left out."""
    course = list(events)
    asked: dict[str, Question] = {}
    answers: dict[str, set[str]] = {}
    for question in _Asker().about(course):
        asked.setdefault(question.text, question)
        answers.setdefault(question.text, set()).add(question.answer)
    return tuple(question for text, question in asked.items() if len(answers[text]) == 1)


class _Asker:
    """Follows a story, and finds questions on the way."""

    def __init__(self) -> None:
        self.facts = Facts()
        self.owned: dict[str, str] = {}
        """The first owner of each thing."""
        self.outings: list[Event] = []
        self.parted = False
        """Whether the characters were at different places, so that nobody says "they"."""
        self.looked: dict[str, list[int]] = {}
        """For each time that a thing was gone, the number of spots that were searched in vain, by thing."""
        self.mishaps: list[str] = []
        """As sentences."""

    def about(self, course: Sequence[Event]) -> Iterator[Question]:
        for event in course:
            mishap = self.facts.is_mishap(event)
            yield from self.before(event)
            self.facts.happen(event)
            self.follow(event)
            yield from self.after(event)
            if mishap and event.kind in HAPPENED:
                self.mishaps.append(worded(HAPPENED[event.kind], event))
        yield from self.at_the_end()

    def follow(self, event: Event) -> None:
        """Remember what facts forget."""
        match event.kind:
            case "own":
                self.owned[event.thing] = event.who[0]
            case "set_out" | "take" | "go_on":
                self.outings.append(event)
            case "walk_off" | "follow":
                self.parted = True
            case "look":
                if spots := self.looked.get(event.thing):
                    spots[-1] += 1
        if HARMS.get(event.kind) in ("lost", "hidden"):
            self.looked.setdefault(event.thing, []).append(0)

    def before(self, event: Event) -> Iterator[Question]:
        """Questions that an event answers together with the facts before it."""
        state = HARMS.get(event.kind)
        thing = self.facts.things.get(event.thing)
        if state in WHEN and thing is not None and event.who:
            text = f"Who had the {event.thing} when it {WHEN[state]}?"
            borrowed = thing.owner != event.who[0]
            yield Question(text, event.who[0], "who has it", "hard" if borrowed else "medium")
        if self.facts.is_mishap(event) and event.kind in HAPPENED and self.outings:
            names = event.who or self.facts.at(self.facts.scene)
            place = self.facts.people[names[0]].place if names else HOME
            if place and len(event.who) == 1:
                text = f"Where were they when {worded(HAPPENED[event.kind], event)}?"
                if self.parted or len(self.facts.people) == 1:
                    text = text.replace("were they", f"was {event.who[0]}")
                moved = len(self.outings) > 1 or self.parted
                difficulty: Difficulty = "hard" if moved else "medium"
                yield Question(text, lexicon.PLACES[place], "where is it", difficulty)

    def after(self, event: Event) -> Iterator[Question]:
        """Questions that an event answers together with the facts after it."""
        kind, who = event.kind, event.who
        if kind in WHO and len(who) == 1:
            text, difficulty = WHO[kind]
            yield Question(worded(text, event), who[0], "who did it", difficulty)
        if kind in ARRIVALS:
            noun = "kind of animal" if event.what in ANIMALS else "kind of child"
            text = f"What {noun} was {who[0]}?"
            yield Question(text, an(event.what), "what is it like", "easy")
        match kind:
            case "own":
                text = f"Who had the {event.thing} at the beginning?"
                yield Question(text, who[0], "who has it", "easy")
                if event.colour and event.thing not in FOODS:
                    text = f"What colour was the {event.thing}?"
                    yield Question(text, event.colour, "what is it like", "easy")
            case "hide":
                text = f"Where did {who[0]} hide the {event.thing}?"
                yield Question(text, event.spot, "where is it", "easy")
            case "toss":
                text = f"Where did the {event.thing} get stuck?"
                yield Question(text, event.spot, "where is it", "easy")
            case "find":
                text = f"Where was the {event.thing} found?"
                yield Question(text, event.spot, "where is it", "easy")
            case "set_out" | "take":
                group = "they" if len(who) > 1 else who[0]
                text = f"Where did {group} go first?"
                yield Question(text, f"to the {event.place}", "where is it", "easy")
            case "sad":
                text = f"Why was {who[0]} sad?"
                for reason in self.reasons(who[0]):  # with several reasons there is no one answer
                    yield Question(text, f"because {reason}", "why is she sad", "medium")
            case "learn" if event.what in NEVER:
                text = f"What will {who[0]} never do again?"
                skill = "what will he never do again"
                yield Question(text, NEVER[event.what], skill, "hard")

    def reasons(self, name: str) -> list[str]:
        """Why somebody is sad now."""
        facts, person = self.facts, self.facts.people[name]
        reasons = []
        if text := AILING.get(person.ailment):
            weather, limb = facts.weather, person.limb
            reasons.append(text.format(he=HE[name], his=HIS[name], w=weather, limb=limb))
        if person.wish:
            reasons.append(f"{HE[name]} wished for a thing like the {person.wish}")
        for noun, thing in facts.things.items():
            known = thing.state in ("gone", "ruined") or (
                thing.state in TROUBLES and name in thing.known
            )
            if thing.owner == name and known:
                reasons.append(f"the {noun} {STATES[thing.state]}")
            elif (
                thing.owner == name and thing.state == "eaten" and facts.is_wronged(name, "gobble")
            ):
                reasons.append(f"the {noun} was gone")
        for wrong, state in facts.wrongs.items():
            if wrong.victim == name and state != "forgiven" and wrong.what in WRONGS:
                reasons.append(WRONGS[wrong.what].format(b=wrong.culprit, n=wrong.thing))
        return reasons

    def at_the_end(self) -> Iterator[Question]:
        """Questions about the story as a whole."""
        facts = self.facts
        text = "How many characters are in the story?"
        yield Question(text, NUMBERS[len(facts.people)], "how many", "easy")
        for name in facts.people:
            owned = sum(owner == name for owner in self.owned.values())
            if owned:
                text = f"How many things did {name} have at the beginning?"
                yield Question(text, NUMBERS[owned], "how many", "medium")
            helpers = {deed.helper for deed in facts.deeds
                       if deed.helped == name and deed.what in HELP}  # fmt: skip
            for helper in helpers:
                yield Question(f"Who helped {name}?", helper, "who helped", "medium")
        for noun, spots in self.looked.items():
            text = f"How many times did somebody look for the {noun} in the wrong place?"
            if len(spots) == 1:
                yield Question(text, NUMBERS[spots[0]], "how many", "hard")
        for noun, thing in facts.things.items():
            if noun in FOODS or noun not in self.owned or thing.state not in ("fine", "gone"):
                continue
            holder = "nobody" if thing.state == "gone" else thing.holder
            same = holder == self.owned[noun]
            text = f"Who had the {noun} at the end?"
            yield Question(text, holder, "who has it", "medium" if same else "hard")
        for number, first in enumerate(self.mishaps):
            for second in self.mishaps[number + 1 :]:
                for one, other, answer in ((first, second, "before"), (second, first, "after")):
                    text = f"{one[0].upper()}{one[1:]}. Was that before or after {other}?"
                    yield Question(text, answer, "before or after", "hard")


# Stories with questions.


def part_of(course: Sequence[str]) -> Part:
    """The part to which all stories with this course of events belong."""
    digest = hashlib.sha256("\n".join(course).encode()).digest()
    return "test" if digest[0] % TEST_SHARE == 0 else "training"


def asked(part: Part, seed: int, variety: Variety) -> Iterator[Asked]:
    """Stream stories with all their questions. Each is a function of `seed` and its number."""
    for index in count():
        rng = np.random.Generator(np.random.PCG64([seed, index]))
        events = simulate(rng, variety)
        course = tuple(event.kind for event in events)
        if part_of(course) == part:
            text = tell(events, rng, variety)
            if MIN_WORDS <= len(text.split()) <= MOST_WORDS:
                yield Asked(text, questions(events), course)


def conversations(
    n: int,
    seed: int = 0,
    *,
    plain: bool = False,
    per_story: int = 6,
    difficulties: Sequence[Difficulty] = (),
) -> Iterator[dict[str, Any]]:
    """Yield `n` conversations for training: a story with a first question, its answer, and more questions.

    The questions of a story have different skills as far as it allows, and go from easy to hard. The fields besides
    `messages` have an entry for each answer; with one question per story they are that entry alone.

    With `difficulties`, one of them is drawn for each story, and its questions have this one. A story without such
    questions is left out.
    """
    dice = np.random.Generator(np.random.PCG64([seed, 1]))
    number = 0
    for story, possible, _ in asked("training", seed, PLAIN if plain else WHOLE):
        if number == n:
            return
        if difficulties:
            drawn = difficulties[int(dice.integers(len(difficulties)))]
            possible = tuple(one for one in possible if one.difficulty == drawn)
        if possible:
            yield conversation(story, chosen(possible, per_story, dice))
            number += 1


def chosen(possible: Sequence[Question], n: int, dice: np.random.Generator) -> tuple[Question, ...]:
    """Up to `n` questions, one of each skill before a second one of any, from easy to hard. Which skills and questions
    come first is random."""

    def shuffled(options: Sequence[Any]) -> list[Any]:
        return [options[int(number)] for number in dice.permutation(len(options))]

    by_skill = {skill: [q for q in possible if q.skill == skill] for skill in SKILLS}
    columns = shuffled([shuffled(found) for found in by_skill.values() if found])
    in_turn = [q for row in zip_longest(*columns) for q in row if q is not None]
    return tuple(sorted(in_turn[:n], key=lambda question: DIFFICULTIES.index(question.difficulty)))


def conversation(story: str, taken: Sequence[Question]) -> dict[str, Any]:
    """The record of a story with these questions."""
    messages: list[dict[str, str]] = []
    for question in taken:
        text = question.text if messages else f"{story}\n\n{question.text}"
        messages += [
            {"role": "user", "content": text},
            {"role": "assistant", "content": question.answer},
        ]
    fields = {
        name: [getattr(question, name) for question in taken]
        for name in ("skill", "difficulty", "answer")
    }
    one = {name: values[0] for name, values in fields.items()}
    return {"messages": messages, **(one if len(taken) == 1 else fields)}


def unseen(n: int, seed: int = SEED, *, plain: bool = True) -> list[dict[str, Any]]:
    """`n` conversations of one question for each skill, in the order of `SKILLS`, about stories of the test.

    No story has two of them, and none has a course of events of a story for training.
    """
    dice = np.random.Generator(np.random.PCG64([seed, 1]))
    made: dict[str, list[dict[str, Any]]] = {skill: [] for skill in SKILLS}
    for story, possible, _ in asked("test", seed, PLAIN if plain else WHOLE):
        missing = [skill for skill, found in made.items() if len(found) < n]
        if not missing:
            break
        by_skill = {
            skill: [question for question in possible if question.skill == skill]
            for skill in missing
        }
        skills = [skill for skill in missing if by_skill[skill]]
        if skills:
            # The skill with the fewest questions so far comes first, since some are rare.
            skill = min(skills, key=lambda skill: len(made[skill]))
            options = by_skill[skill]
            question = options[int(dice.integers(len(options)))]
            made[skill].append(conversation(story, [question]))
    return [record for found in made.values() for record in found]
