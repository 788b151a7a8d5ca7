"""Models and questions flow in, the share of exact answers flows out, by skill and by difficulty.

Nothing is sampled: a model answers with its likeliest token each time. An answer counts if it is the right one but for
white space, capitals and a full stop at its end.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from homespun.config import BUILT_IN_QUESTIONS, EvalConfig
from homespun.data.conversations import conversations
from homespun.data.text_formats.formats import WITH_COLUMNS, format_of
from homespun.errors import UserError
from homespun.evaluation.intervals import interval
from homespun.language_model import LanguageModel, load_stored
from homespun.model_formats.formats import open_model
from homespun.stories.questions import DIFFICULTIES, is_right, unseen
from homespun.terminal import Say, bar, counted
from homespun.tokenizer import Message

QUESTIONS_PER_SKILL = 50
"""Built-in questions for each skill."""
LONGEST_ANSWER = 48
"""Tokens after which an answer is cut off. It is wrong then."""
TOGETHER = 64
"""Questions between two movements of the progress bar."""


@dataclass(frozen=True)
class Item:
    """A question with its answer."""

    messages: tuple[Message, ...]
    """Up to the question."""
    answer: str
    skill: str = ""
    difficulty: str = ""


@dataclass(frozen=True)
class Exact:
    """Exact answers among some questions."""

    of: str
    """The skill or the difficulty; `all` for all questions."""
    n_questions: int
    right: int
    share: float
    low: float
    """The lower end of the 95% interval of the share."""
    high: float
    """The upper end."""
    constant: float
    """The share that the most frequent answer alone would reach, as a model that does not read the story."""


@dataclass(frozen=True)
class Wrong:
    """A question that was not answered exactly."""

    question: str
    """Its last line."""
    given: str
    right: str


@dataclass(frozen=True)
class QuestionsResult:
    """The answers of a model."""

    model: str
    """Its path."""
    questions: str
    """The file of the questions, or `stories` for the built-in ones."""
    overall: Exact
    skills: tuple[Exact, ...]
    """The same by skill; empty if the questions name none."""
    difficulties: tuple[Exact, ...]
    """From easy to hard; empty if the questions name none."""
    wrong: tuple[Wrong, ...]


def evaluate_questions(config: EvalConfig, say: Say) -> Iterator[QuestionsResult]:
    """Ask each model, one after the other.

    Args:
        config: the models, and the questions in `questions`.
        say: receives messages.

    Yields:
        The result of each model, as soon as it is known.

    Raises:
        UserError: a model or the questions cannot be read, or a model has not learned to answer.
    """
    assert config.questions
    models = [open_model(Path(path), report=say) for path in config.models]
    items = built_in() if config.questions == BUILT_IN_QUESTIONS else read(Path(config.questions))
    for path, stored in zip(config.models, models, strict=True):
        model = load_stored(stored, config)
        yield scored(path, config.questions, items, answers(model, items, say))


def built_in(n: int = QUESTIONS_PER_SKILL) -> list[Item]:
    """Questions about plain stories whose courses of events no training text of questions has."""
    return [
        Item(
            tuple(record["messages"][:-1]),
            record["answer"],
            record["skill"],
            record["difficulty"],
        )
        for record in unseen(n)
    ]


def read(path: Path) -> list[Item]:
    """The questions of a file of conversations. Raises UserError: it cannot be read, or has none."""
    if not path.is_dir() and format_of(path.name).records is None:
        raise UserError(
            f"{path}: questions are in {WITH_COLUMNS} files, each with its answer, such as "
            '{"prompt": "Who has the ball?", "answer": "Anna"}'
        )
    items = []
    for one in conversations(path, ("skill", "difficulty")):
        labels = {
            name: value[-1] if isinstance(value, list) and value else value
            for name, value in one.fields.items()
        }
        items.append(
            Item(
                one.messages[:-1],
                one.messages[-1]["content"],
                str(labels["skill"] or ""),
                str(labels["difficulty"] or ""),
            )
        )
    if not items:
        raise UserError(f"{path}: there is no conversation with an answer in it")
    return items


def answers(model: LanguageModel, items: Sequence[Item], say: Say) -> list[str]:
    """The answer of a model to each question; none to one that is longer than its context, which is told."""
    template, context = model.template, model.config.seq_len
    prompts = {number: template.prompt(one.messages) for number, one in enumerate(items)}
    fitting = [number for number, prompt in prompts.items() if len(prompt) < context]
    if n_long := len(items) - len(fitting):
        say(f"{counted(n_long, 'question')} longer than the context of {context:,} tokens: wrong.")
    given = [""] * len(items)
    with bar("Asking questions", len(fitting)) as advance:
        for first in range(0, len(fitting), TOGETHER):
            part = fitting[first : first + TOGETHER]
            written = model.generate_batch(
                [prompts[number] for number in part], max_tokens=LONGEST_ANSWER, temperature=0.0
            )
            for number, one in zip(part, written, strict=True):
                given[number] = one.text if one.finish == "end" else f"{one.text} ..."
            advance(len(part))
    return given


def scored(path: str, name: str, items: Sequence[Item], given: Sequence[str]) -> QuestionsResult:
    """The score of answers to questions."""
    outcomes = [
        (one, is_right(answer, one.answer)) for one, answer in zip(items, given, strict=True)
    ]

    def by(label: Callable[[Item], str], order: Sequence[str]) -> tuple[Exact, ...]:
        names = [one for one in order if any(label(item) == one for item in items)]
        return tuple(_exact(one, [o for o in outcomes if label(o[0]) == one]) for one in names)

    skills = tuple(dict.fromkeys(item.skill for item in items if item.skill))
    return QuestionsResult(
        path,
        name,
        _exact("all", outcomes),
        by(lambda item: item.skill, skills),
        by(lambda item: item.difficulty, DIFFICULTIES),
        tuple(
            Wrong(item.messages[-1]["content"].rpartition("\n")[2], answer, item.answer)
            for (item, right), answer in zip(outcomes, given, strict=True)
            if not right
        ),
    )


def _exact(name: str, outcomes: Sequence[tuple[Item, bool]]) -> Exact:
    n, right = len(outcomes), sum(one for _, one in outcomes)
    most = max(Counter(item.answer for item, _ in outcomes).values(), default=0)
    share = right / n if n else 0.0
    return Exact(name, n, right, share, *interval(right, n), most / n if n else 0.0)
