"""Commands that score models: on texts, questions and stories."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from homespun.cli.arguments import Settings
from homespun.cli.commands.loading import load_model
from homespun.config import EvalConfig, JudgeConfig
from homespun.terminal import bar, counted, printable, put, say, warn

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from homespun.evaluation.storytelling import Storytelling
    from homespun.language_model import LanguageModel

SHOWN_CONTRADICTIONS = 5
"""Stories whose contradictions `judge` prints; after that it only counts."""
SCORE_COLUMNS = {
    "tokens": 12,
    "window": 8,
    "slides": 10,
    "loss": 9,
    "perplexity": 13,
    "bits/byte": 11,
}
"""Titles and widths of the figures in the table of `eval`. Each row is printed as soon as its model is scored."""


def evaluate(settings: Settings) -> int:
    config = EvalConfig(**settings)
    from homespun.engine import hardware

    hardware.limit_workers(config.threads)
    if config.choices is not None:
        return _choose(config)
    if config.questions is not None:
        return _ask(config)
    from homespun.evaluation.evaluate import evaluate

    if config.json:
        for result in evaluate(config, warn):  # standard output is for a program
            put(_line_of_json(result))
        return 0
    name_width = max(map(len, ("model", *config.models)))
    for number, result in enumerate(evaluate(config, say)):
        if number == 0:
            titles = "".join(f"{title:>{width}}" for title, width in SCORE_COLUMNS.items())
            put("model".ljust(name_width) + titles)
        figures = (
            f"{result.n_tokens:,}",
            f"{result.seq_len:,}",
            "no" if result.stride == result.seq_len else f"by {result.stride:,}",
            f"{result.loss:.4f}",
            f"{result.perplexity:,.2f}",
            f"{result.bits_per_byte:.4f}",
        )
        cells = zip(figures, SCORE_COLUMNS.values(), strict=True)
        row = "".join(f"{figure:>{width}}" for figure, width in cells)
        put(printable(result.model).ljust(name_width) + row)
    return 0


def _choose(config: EvalConfig) -> int:
    from homespun.evaluation.choices import evaluate_choices
    from homespun.evaluation.intervals import percent_range

    for number, result in enumerate(evaluate_choices(config, warn if config.json else say)):
        if config.json:
            put(_line_of_json(result))
            continue
        if len(config.models) > 1:
            put(("\n" if number else "") + printable(result.model))
        scores = (*result.skills, result.overall)
        width = max(len("skill"), *(len(printable(score.skill)) for score in scores))
        put(f"{'skill':<{width}}{'pairs':>8}{'right':>8}  95% interval")
        for score in scores:
            name, interval = printable(score.skill), percent_range(score.low, score.high)
            put(f"{name:<{width}}{score.n_pairs:>8,}{score.share:>8.1%}  {interval}")
    return 0


def _ask(config: EvalConfig) -> int:
    from homespun.evaluation.intervals import percent_range
    from homespun.evaluation.questions import evaluate_questions

    for number, result in enumerate(evaluate_questions(config, warn if config.json else say)):
        if config.json:
            put(_line_of_json(result))
            continue
        if len(config.models) > 1:
            put(("\n" if number else "") + printable(result.model))
        for wrong in result.wrong[:SHOWN_CONTRADICTIONS]:
            put(printable(f"{wrong.question} {wrong.given!r}, not {wrong.right!r}"))
        parts = [rows for rows in (result.skills, result.difficulties, (result.overall,)) if rows]
        width = max(len("skill"), *(len(printable(row.of)) for rows in parts for row in rows))
        put(f"{'skill':<{width}}{'questions':>11}{'exact':>8}  {'95% interval':<14}one answer")
        for rows in parts:
            for row in rows:
                span = percent_range(row.low, row.high)
                put(
                    f"{printable(row.of):<{width}}{row.n_questions:>11,}{row.share:>8.1%}  {span:<14}"
                    f"{row.constant:>10.0%}"
                )
    return 0


def _line_of_json(result: "DataclassInstance") -> str:
    """The fields of a result. JSON has no infinite numbers: null stands for them."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in dataclasses.asdict(result).items()
    }
    return json.dumps(finite)


def judge(settings: Settings) -> int:
    config = JudgeConfig(**settings)
    from homespun.evaluation.storytelling import summarised, told, training_text

    model = load_model(config)
    if config.beginnings:
        return _judge_beginnings(config, model)
    stories, shown = [], 0
    with bar("Writing and judging stories", config.num_samples) as advance:
        for story in told(model, config):
            stories.append(story)
            if story.verdict.problems and shown < SHOWN_CONTRADICTIONS:
                shown += 1
                problem = story.verdict.problems[0]
                put(printable(f"story {story.number}: {problem.what}: {problem.text}"))
            advance(1)
    learned = training_text(model)
    n_bytes = learned.n_bytes - learned.validation_bytes if learned else None
    with bar("Comparing with the training text", n_bytes) as advance:
        result = summarised(stories, _counted(learned.training(), advance) if learned else None)
    for line in _figures(config, result, learned.path if learned else None):
        put(line)
    return 0


def _counted(documents: Iterable[str], advance: Callable[[float], object]) -> Iterator[str]:
    """The documents. Each moves a bar by its bytes."""
    for document in documents:
        yield document
        advance(len(document.encode()))


def _figures(config: JudgeConfig, result: "Storytelling", text: Path | None) -> Iterator[str]:
    """The lines of `judge` about all stories; `text` is the one that the model learned from."""
    from homespun.evaluation.intervals import percent_range
    from homespun.evaluation.storytelling import sampling_shown

    tally = result.tally
    is_repeated = tally.n < result.n_told
    noun = "different stor" if is_repeated else "stor"
    stories = counted(tally.n, f"{noun}y is", f"{noun}ies are")
    yield f"{tally.consistent} of {stories} consistent from start to end."
    seed = "random seed" if config.seed is None else f"seed {config.seed}"
    facts = {
        "share": f"{tally.share:.0%}, 95% interval {percent_range(*tally.interval)}",
        "sampling": f"{sampling_shown(config)}, {seed}",
    }
    if is_repeated:
        facts["repeated"] = f"{result.n_told} stories were told; each counts once"
    if tally.consistent:
        courses = counted(result.n_courses, "course", "different courses")
        facts["courses"] = f"{courses} of events in the consistent stories"
        new = "not known, for the training text is not here"
        if result.n_with_new_course is not None:
            share = result.n_with_new_course / tally.consistent
            follow = counted(
                result.n_with_new_course, "consistent story follows", "consistent stories follow"
            )
            new = f"{follow} a course of events that is not in {text} ({share:.0%})"
        facts["new"] = new
    for name, fact in facts.items():
        yield f"{name:<10}{fact}"
    width = max(len(row.of) for row in result.compared)
    yield f"{'':<{width}}{'model':>8}{'generator':>11}"
    for row in result.compared:
        yield f"{row.of:<{width}}{row.model:>8.0%}{row.generator:>11.0%}"


def _judge_beginnings(config: JudgeConfig, model: "LanguageModel") -> int:
    from homespun.evaluation.intervals import percent_range
    from homespun.evaluation.storytelling import continued

    columns = list(continued(model, config))
    put(f"{columns[0].overall.n} unseen beginnings, continued; consistent from start to end:")
    titles = [column.settings for column in columns]
    kinds = {kind: kind.replace("_", " ") for kind in columns[0].mishaps}
    name = max(len("mishap"), *map(len, kinds.values()))
    put(f"{'mishap':<{name}}{'stories':>9}" + "".join(f"  {title}" for title in titles))
    for kind, label in kinds.items():
        cells = "".join(
            f"  {column.mishaps[kind].consistent:>{len(title)},}"
            for column, title in zip(columns, titles, strict=True)
        )
        put(f"{label:<{name}}{columns[0].mishaps[kind].n:>9,}{cells}")
    for column in columns:
        interval = percent_range(*column.overall.interval)
        put(
            f"{column.settings}: {column.overall.consistent} of {column.overall.n}, "
            f"{column.overall.share:.0%}, 95% interval {interval}"
        )
    return 0
