"""A model that learned from the built-in stories flows in; figures about the stories that it writes flow out.

The share of consistent stories says little alone: a model that tells one safe story again and again reaches all of it.
So each figure has its interval, only different stories count, and plots, creatures and things are compared with those
of the generator. In the second test the model goes on from beginnings that it has not chosen.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, count, islice
from pathlib import Path

import numpy as np

from homespun import workspace
from homespun.checkpoint.origin import started_in
from homespun.config import TOKENS_DIR, JudgeConfig, SamplingConfig
from homespun.data.corpus import Corpus, survey
from homespun.data.files import is_pattern
from homespun.errors import UserError
from homespun.evaluation.intervals import interval
from homespun.language_model import LanguageModel
from homespun.model_formats.stored_model import learned_texts
from homespun.stories.dice import PLAIN
from homespun.stories.judge import Verdict, events, judge
from homespun.stories.outline import (
    Outline,
    beginning,
    courses_in,
    first_mishaps,
    generated,
    outline,
    outline_of_text,
    total_variation,
)
from homespun.stories.teller import tell
from homespun.terminal import bar

FIRST_STORIES = 5
"""After so many stories, it is decided whether the model knows the built-in stories at all."""
LEAST_UNDERSTOOD = 0.25
"""A model that learned from the stories writes far more sentences of their kind, one that did not next to none."""
GENERATED = 2000
"""Stories of the generator that those of a model are compared with."""
BATCH = 16
"""Beginnings that are continued together."""
BEGINNINGS_SEED = 0x62656769
"""Of the given beginnings, far from the seeds of training texts."""


@dataclass(frozen=True)
class Tally:
    """Consistent stories among some stories."""

    n: int
    consistent: int

    @property
    def share(self) -> float:
        return self.consistent / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the share."""
        return interval(self.consistent, self.n)


@dataclass(frozen=True)
class Compared:
    """A share or a distance of a model's stories, and that of as many stories of the generator."""

    of: str
    model: float
    generator: float


@dataclass(frozen=True)
class Told:
    """A story by a model, with its verdict."""

    number: int
    """From 1."""
    text: str
    verdict: Verdict


@dataclass(frozen=True)
class Storytelling:
    """Stories that a model has written freely."""

    n_told: int
    tally: Tally
    """Of the different stories: one that was told several times counts once."""
    n_courses: int
    """Different courses of events among the consistent stories."""
    n_known_courses: int | None
    """Those of them that a story of the training text has; None if this text is not at hand."""
    n_with_new_course: int | None
    """Consistent stories with a course of events that no story of the training text has."""
    compared: tuple[Compared, ...]


def told(model: LanguageModel, config: JudgeConfig) -> Iterator[Told]:
    """Let a model write stories, and judge each.

    Raises:
        UserError: the model did not learn from the built-in stories.
    """
    samples = model.samples(None, config, config.num_samples)
    numbered = enumerate(samples, start=1)
    first = list(islice(numbered, FIRST_STORIES))
    readings = [reading is not None for _, story in first for _, reading in events(story.text)]
    check_understood(sum(readings), len(readings))
    for number, sample in chain(first, numbered):
        yield Told(number, sample.text, judge(sample.text))


def check_understood(understood: int, sentences: int) -> None:
    """Raises UserError: most sentences are of another kind than those of the built-in stories."""
    if understood < LEAST_UNDERSTOOD * sentences or not sentences:
        raise UserError(
            f"this judge knows the built-in stories only, and it understands {understood} of the first {sentences} "
            "sentences: name a model that learned from homespun download --dataset stories, or train this one longer"
        )


def summarised(stories: Sequence[Told], known: Iterable[str] | None) -> Storytelling:
    """The figures of some stories.

    Args:
        stories: at least one.
        known: the documents of the training text; None if it is not at hand.
    """
    different = list({story.text: story for story in stories}.values())
    outlines = [outline_of_text(story.text) for story in different]
    if known is None:
        expected = _of_the_generator()
    else:
        known = iter(known)
        some = list(islice(known, GENERATED))
        expected, known = [outline_of_text(text) for text in some], chain(some, known)
    consistent = [
        found.course
        for story, found in zip(different, outlines, strict=True)
        if story.verdict.consistent
    ]
    learned = None if known is None else courses_in(known, consistent)
    return Storytelling(
        n_told=len(stories),
        tally=Tally(len(different), len(consistent)),
        n_courses=len(set(consistent)),
        n_known_courses=None if learned is None else len(learned),
        n_with_new_course=None
        if learned is None
        else sum(course not in learned for course in consistent),
        compared=tuple(compared(outlines, expected)),
    )


def compared(outlines: Sequence[Outline], everything: Sequence[Outline]) -> Iterator[Compared]:
    """Shares and distances of some stories, and those of as many stories of the generator.

    A distance is the total variation distance from many stories of the generator. Few stories are always some way off,
    even if they are the generator's own, so its own distance stands beside the model's.

    Args:
        everything: stories of the generator: those of the training text if it is at hand, which may be plainer.
    """
    n = len(outlines)
    groups = [everything[first : first + n] for first in range(0, len(everything) - n + 1, n)]
    groups = groups or [everything]

    def mean(figure: Callable[[Sequence[Outline]], float]) -> float:
        return float(np.mean([figure(group) for group in groups]))

    def animals(group: Sequence[Outline]) -> float:
        return float(np.mean([bool(story.animals) for story in group]))

    def several(group: Sequence[Outline]) -> float:
        return float(np.mean([len(story.plot) > 1 for story in group]))

    yield Compared("stories with an animal", animals(outlines), mean(animals))
    yield Compared("stories with several mishaps", several(outlines), mean(several))

    def distance(values: Callable[[Outline], Sequence[object]]) -> Callable[..., float]:
        def figure(group: Sequence[Outline]) -> float:
            samples = ([str(v) for story in s for v in values(story)] for s in (group, everything))
            return total_variation(*samples)

        return figure

    for of, values in (
        ("distance of plots", lambda story: [story.plot]),
        ("distance of creatures", lambda story: story.creatures),
        ("distance of things", lambda story: story.things),
    ):
        figure = distance(values)
        yield Compared(of, figure(outlines), mean(figure))


@cache
def _of_the_generator() -> list[Outline]:
    return [outline(story) for story, _ in generated(GENERATED)]


def training_text(model: LanguageModel) -> Corpus | None:
    """The text that a model learned from, if it is at hand. If the model does not record it, as in a GGUF file, it is
    taken to be the last download."""
    recorded = model.stored.header.get("data_file")
    last = workspace.recall("data")
    started = started_in(model.stored.path.parent, model.stored.header)
    places = [Path(recorded), started / recorded] if recorded else [last]
    folder = Path(TOKENS_DIR)
    for path in places:
        try:
            if path and (path.exists() or is_pattern(path)):
                corpus = survey(path, None, folder if folder.is_dir() else None, keeps=False)
                if not recorded or corpus.sha256 in learned_texts(model.stored):
                    return corpus
        except (OSError, UserError):
            continue
    return None


# Given beginnings.


@dataclass(frozen=True)
class Beginning:
    """The first sentences of an unseen story."""

    mishap: str
    """The kind of the event in the last one."""
    text: str


@dataclass(frozen=True)
class Continued:
    """Consistent stories among those that a model went on with, at some settings."""

    settings: str
    overall: Tally
    mishaps: dict[str, Tally]
    """By the kind of the first mishap."""


def beginnings(n: int) -> list[Beginning]:
    """Unseen stories up to their first mishap: equally many of each kind of mishap, up to one."""
    kinds = sorted(first_mishaps())
    wanted = {kind: len(range(first, n, len(kinds))) for first, kind in enumerate(kinds)}
    found: dict[str, list[Beginning]] = {kind: [] for kind in kinds}
    for seed in count(BEGINNINGS_SEED):
        for story, _ in generated(GENERATED, seed, PLAIN):
            first = beginning(story)
            kind = first[-1].kind
            if kind in found and len(found[kind]) < wanted[kind]:
                number = sum(map(len, found.values()))
                rng = np.random.Generator(np.random.PCG64([BEGINNINGS_SEED, number]))
                found[kind].append(Beginning(kind, tell(first, rng, PLAIN)))
            if all(len(found[kind]) == wanted[kind] for kind in kinds):
                return [one for kind in kinds for one in found[kind]]
    raise AssertionError


def continued(model: LanguageModel, config: JudgeConfig) -> Iterator[Continued]:
    """Let a model go on from given beginnings: by its own distribution, and at the settings of `config`.

    Raises:
        UserError: the model did not learn from the built-in stories.
    """
    with bar("Making the beginnings", None):
        given = beginnings(config.num_samples)
    own = replace(config, temperature=1.0, top_k=None, top_p=1.0, min_p=0.0, repetition_penalty=1.0)
    for sampling in (own, config):
        consistent = dict.fromkeys((one.mishap for one in given), 0)
        with bar(f"Going on at {sampling_shown(sampling)}", len(given)) as advance:
            for first in range(0, len(given), BATCH):
                batch = given[first : first + BATCH]
                seed = None if config.seed is None else config.seed + first
                prompts = [one.text for one in batch]
                written = model.generate_batch(prompts, replace(sampling, seed=seed))
                for one, continuation in zip(batch, written, strict=True):
                    consistent[one.mishap] += judge(one.text + continuation.text).consistent
                if not first:
                    readings = [
                        reading is not None for text in written for _, reading in events(text.text)
                    ]
                    check_understood(sum(readings), len(readings))
                advance(len(batch))
        tallies = {
            kind: Tally(sum(one.mishap == kind for one in given), right)
            for kind, right in consistent.items()
        }
        overall = Tally(len(given), sum(consistent.values()))
        yield Continued(sampling_shown(sampling), overall, tallies)


def sampling_shown(config: SamplingConfig) -> str:
    """How tokens are drawn, in words."""
    words = [f"temperature {config.temperature:g}"]
    if config.temperature > 0:
        words += [f"top-k {config.top_k}"] * (config.top_k is not None)
        words += [f"top-p {config.top_p:g}"] * (config.top_p < 1)
        words += [f"min-p {config.min_p:g}"] * (config.min_p > 0)
    if config.repetition_penalty != 1:
        words.append(f"repetition penalty {config.repetition_penalty:g}")
    return ", ".join(words)
