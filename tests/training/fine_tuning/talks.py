"""Small conversations, from which a small model learns to answer within seconds."""

from collections.abc import Iterator
from typing import Any

NAMES = ["Anna", "Tim", "Zoe", "Ben"]
THINGS = ["ball", "kite", "robot", "doll"]
CONTEXT = 64
"""All of them fit into a context of so many tokens."""


def talks() -> Iterator[dict[str, Any]]:
    """Sentences with a question about each, and what was said before."""
    for n in range(96):
        name, thing = NAMES[n % 4], THINGS[n // 4 % 4]
        question = f"{name} has the {thing}. Who has it?"
        if n % 3 == 0:
            yield {"prompt": question, "answer": f"{name}."}
        else:
            yield {
                "prompt": f"{question} {'Now. ' * (n % 5)}What is it?",
                "answer": f"{name} has a {thing}.",
            }
