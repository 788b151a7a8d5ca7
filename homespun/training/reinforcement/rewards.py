"""The name of a reward flows in, a function that scores answers comes out; its mistakes end a run with a clear message.

A reward is the user's own code. So it may raise anything, return anything, or never return.
"""

import copy
import importlib
import importlib.util
import math
import sys
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from homespun.config.reinforcement import CONSISTENCY, QUESTIONS, STORIES
from homespun.errors import UserError
from homespun.stories.judge import judge
from homespun.stories.outline import outline_of_text
from homespun.stories.questions import is_right

Prompt = Mapping[str, Any]
"""`messages` up to the question, and all other fields of its record, such as `answer`. Where the model goes on from a
text, there are no messages, and `text` is the beginning."""
Reward = Callable[[Prompt, Sequence[str]], Sequence[float]]
"""(prompt, answers) -> a score for each answer; the higher the better."""

LONGEST_SHOWN = 200
"""Characters of a message of the user's code that are repeated."""


def questions(prompt: Prompt, answers: Sequence[str]) -> list[float]:
    """1 for the exact answer of the data, else 0."""
    return [float(is_right(answer, prompt["answer"])) for answer in answers]


def consistency(prompt: Prompt, answers: Sequence[str]) -> list[float]:
    """1 for a story of the built-in world without a contradiction, 1/2 with one, 1/3 with two, and so on: a small model
    tells so few without any that 0 for all others would teach it next to nothing."""
    found = [judge(_story(prompt, answer)).problems for answer in answers]
    return [1.0 / (1 + len(problems)) for problems in found]


def stories(prompt: Prompt, answers: Sequence[str]) -> list[float]:
    """The same, divided by the number of stories in the group with the same course of events.

    A model that is paid for consistency alone soon tells the few stories that it can tell safely. Here such stories
    share what one of them would get (fitness sharing; Goldberg and Richardson 1987, "Genetic Algorithms with Sharing
    for Multimodal Function Optimization").
    """
    found = consistency(prompt, answers)
    courses = [_course(prompt, answer) for answer in answers]
    sharing = Counter(courses)
    return [score / sharing[course] for course, score in zip(courses, found, strict=True)]


def _story(prompt: Prompt, answer: str) -> str:
    """A story that the model has told, or gone on with."""
    return str(prompt.get("text", "")) + answer


def _course(prompt: Prompt, answer: str) -> Hashable:
    """The course of events in a story."""
    return outline_of_text(_story(prompt, answer)).course


def _words(prompt: Prompt, answer: str) -> Hashable:
    return " ".join(answer.split())


BUILT_IN: dict[str, Reward] = {
    QUESTIONS: questions,
    STORIES: stories,
    CONSISTENCY: consistency,
}


def distinguished_by(name: str) -> Callable[[Prompt, str], Hashable]:
    """In what two answers to a prompt have to differ to count as two, under the reward with this name."""
    return _course if name in (STORIES, CONSISTENCY) else _words


def reward_named(name: str) -> Reward:
    """The reward with this name: a built-in one, FILE.py:FUNCTION or MODULE:FUNCTION.

    Raises:
        UserError: there is none.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    place, colon, function = name.rpartition(":")
    if not colon or not place or not function:
        raise UserError(
            f"--reward {name}: {', '.join(BUILT_IN)}, FILE.py:FUNCTION or MODULE:FUNCTION is expected"
        )
    module = _from_file(Path(place)) if place.endswith(".py") else _module(place)
    found = getattr(module, function, None)
    if not callable(found):
        raise UserError(f"--reward {name}: {place} has no function {function}")
    return found  # type: ignore[no-any-return]


def _from_file(path: Path) -> ModuleType:
    """Load the user's file. Raises UserError: it cannot be loaded."""
    if not path.is_file():
        raise UserError(f"--reward: there is no file {path}")
    specification = importlib.util.spec_from_file_location(f"homespun_reward_{path.stem}", path)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"--reward: {path} cannot be loaded: {_reason(error)}") from error
    return module


def _module(name: str) -> ModuleType:
    """Import the user's module, from the working directory, too. Raises UserError: it cannot be imported."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise UserError(f"--reward: module {name} cannot be imported: {_reason(error)}") from error


def scores(
    reward: Reward, name: str, prompt: Prompt, answers: Sequence[str], seconds: float
) -> list[float]:
    """The scores of the answers to a prompt.

    Args:
        reward: the function.
        name: its name, for messages.
        prompt: the prompt.
        answers: the answers to it.
        seconds: the longest time that the function may take.

    Raises:
        UserError: the function raised an exception, took too long, or did not return a finite number for each answer.
    """
    begins = f"the reward {name}"
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def call() -> None:
        try:
            outcome.append(reward(copy.deepcopy(dict(prompt)), list(answers)))
        except BaseException as error:  # of the user's code, even SystemExit
            failure.append(error)

    thread = threading.Thread(target=call, name="reward", daemon=True)
    thread.start()
    thread.join(seconds)
    asked = _shortened(_question(prompt))
    if thread.is_alive():
        raise UserError(
            f"{begins} took more than {seconds:g} s for {len(answers)} answers to {asked}: make it faster, or allow "
            "more with --reward-seconds"
        )
    if failure:
        raise UserError(f"{begins} raised {_reason(failure[0])}, for {asked}") from failure[0]
    return _checked(outcome[0], len(answers), begins, asked)


def _checked(given: Any, n: int, begins: str, asked: str) -> list[float]:
    expected = f"a list of {n} finite numbers is expected, one for each answer"
    try:
        values = [float(value) for value in given]
    except (TypeError, ValueError):
        raise UserError(
            f"{begins} returned {_shortened(repr(given))} for {asked}: {expected}"
        ) from None
    if len(values) != n:
        raise UserError(f"{begins} returned {len(values)} scores for {asked}: {expected}")
    if bad := [value for value in values if not math.isfinite(value)]:
        raise UserError(f"{begins} returned {bad[0]} as a score for {asked}: {expected}")
    return values


def _question(prompt: Prompt) -> str:
    messages = prompt.get("messages") or [{"content": prompt.get("text", "")}]
    return str(messages[-1]["content"]).rpartition("\n")[2]


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "...")


def _reason(error: BaseException) -> str:
    message = " ".join(str(error).split())[:LONGEST_SHOWN]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
