"""The built-in corpus: short children's stories from a small simulated world.

A number of stories and a seed flow in, texts flow out, and nothing is downloaded. `judge` uses the laws of this world
to decide whether a text is consistent.
"""

from collections.abc import Iterator

import numpy as np

from homespun.stories.dice import PLAIN, WHOLE, Variety
from homespun.stories.teller import tell
from homespun.stories.world import simulate

MIN_WORDS, MAX_WORDS = 80, 190


def stories(n: int, seed: int = 0, plain: bool = False) -> Iterator[str]:
    """Yield `n` different stories of 80 to 190 words, each with one or several lines.

    The same seed gives the same stories on every machine. Each story is a function of (`seed`, number), and duplicates
    are skipped.

    Args:
        plain: fewer words, wordings and kinds of mishaps, so that a small model learns them sooner.
    """
    variety = PLAIN if plain else WHOLE
    told: set[str] = set()
    index = 0
    while len(told) < n:
        story = _story(seed, index, variety)
        index += 1
        if story not in told:
            told.add(story)
            yield story


def _story(seed: int, index: int, variety: Variety) -> str:
    rng = np.random.Generator(np.random.PCG64([seed, index]))
    while True:
        text = tell(simulate(rng, variety), rng, variety)
        if MIN_WORDS <= text.count(" ") + text.count("\n") + 1 <= MAX_WORDS:
            return text
