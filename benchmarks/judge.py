"""Can the judge be trusted? True stories it has not met, the same with one false fact, and text that only sounds right.

    python -m benchmarks.judge

The last is by a 5-gram model of the demo's stories, which knows what follows four words and nothing else.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
import tyro

from benchmarks import report
from benchmarks.stories import TEMPERATURE, demo
from homespun.config import DownloadConfig
from homespun.stories import stories
from homespun.stories.judge import judge
from tests.stories.corruptions import CORRUPTIONS

FIRST_SEED = 100
"""Of the unseen stories; far from that of the demo."""
ORDER = 5
WORD = re.compile(r"\s*(?:[\w']+|[^\w\s])")
END = ""

NGrams = dict[tuple[str, ...], Counter[str]]
"""What follows each `ORDER - 1` words, and how often."""


def main(
    runs: int = 3, n_unseen: int = 1000, n_training: int | None = None, n_samples: int = 200
) -> None:
    """Measure and save.

    Args:
        runs: each with stories of its own.
        n_unseen: true stories a run.
        n_training: stories that the 5-gram model learns from; without it as many as the demo has.
        n_samples: stories that it writes a run.
    """
    download = tyro.cli(DownloadConfig, args=demo()[0][1:])
    training = list(stories(n_training or download.num_samples or 0, download.seed))
    known = set(training)
    unseen = {
        seed: list(
            islice((story for story in stories(2 * n_unseen, seed) if story not in known), n_unseen)
        )
        for seed in range(FIRST_SEED, FIRST_SEED + runs)
    }
    model = n_grams(training)
    report.save(
        "judge",
        {
            "unseen stories": [{"seed": seed, **judged(texts)} for seed, texts in unseen.items()],
            "the same with one false fact": [
                {"false fact": kind, **rejected(kind, unseen)} for kind in CORRUPTIONS
            ],
            f"stories by a {ORDER}-gram model of {len(training):,} stories": [
                {"seed": seed, **judged(written(model, n_samples, seed))} for seed in range(runs)
            ],
        },
    )


def judged(texts: Sequence[str]) -> report.Row:
    consistent = sum(judge(text).consistent for text in texts)
    n = len(texts)
    return {"stories": n, "consistent": consistent, "share": round(consistent / n, 4)}


def rejected(kind: str, runs: Mapping[int, Sequence[str]]) -> report.Row:
    """Of all stories, by the seed of their run, that hold a fact of this kind, with that fact made false."""
    tried, noticed = [], []
    for seed, texts in runs.items():
        rng = np.random.default_rng(seed)
        pairs = [(text, CORRUPTIONS[kind](text, rng)) for text in texts]
        false = [new for text, new in pairs if new is not None and new != text]
        tried.append(len(false))
        noticed.append(sum(not judge(text).consistent for text in false))
    return {
        "stories": sum(tried),
        "rejected": sum(noticed),
        "share": round(sum(noticed) / sum(tried), 4),
        "least in a run": round(min(n / of for n, of in zip(noticed, tried, strict=True)), 4),
    }


def n_grams(texts: Iterable[str]) -> NGrams:
    """Words and signs, each with the white space before it, and the end."""
    counts: NGrams = defaultdict(Counter)
    for text in texts:
        words = [END] * (ORDER - 1) + WORD.findall(text) + [END]
        for at in range(ORDER - 1, len(words)):
            counts[tuple(words[at - ORDER + 1 : at])][words[at]] += 1
    return counts


def written(model: NGrams, n: int, seed: int) -> list[str]:
    """Texts drawn at the temperature that language models are judged at."""
    rng = random.Random(seed)
    texts = []
    for _ in range(n):
        words = [END] * (ORDER - 1)
        while len(words) < ORDER or words[-1] != END:
            following = model[tuple(words[1 - ORDER :])]
            weights = [count ** (1 / TEMPERATURE) for count in following.values()]
            words += rng.choices(list(following), weights)
        texts.append("".join(words))
    return texts


if __name__ == "__main__":
    tyro.cli(main)
