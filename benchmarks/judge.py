"""Can the judge be trusted? It reads unseen true stories, the same stories with one false fact, and 5-gram text.

    python -m benchmarks.judge

The 5-gram text comes from a model of the demo's stories that sees only the last four words, so that its text sounds
right but is rarely consistent.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
import tyro

from benchmarks import report
from benchmarks.corruptions import CORRUPTIONS
from benchmarks.stories import TEMPERATURE, demo
from homespun.config import DownloadConfig
from homespun.stories import stories
from homespun.stories.judge import judge

FIRST_SEED = 100
"""Seed of the first run's unseen stories, far from the demo's seed."""
ORDER = 5
WORD = re.compile(r"\s*(?:[\w']+|[^\w\s])")
END = ""

NGrams = dict[tuple[str, ...], Counter[str]]
"""For each `ORDER - 1` words, the words that follow them and their counts."""


def main(
    runs: int = 3, n_unseen: int = 1000, n_training: int | None = None, n_samples: int = 200
) -> None:
    """Measure and save.

    Args:
        runs: number of runs, each with its own stories.
        n_unseen: true stories per run.
        n_training: stories that the 5-gram model learns from; by default as many as in the demo.
        n_samples: stories that the 5-gram model writes per run.
    """
    download = tyro.cli(DownloadConfig, args=demo()[0][1:])
    n = n_training or download.num_samples or 0
    training = list(stories(n, download.seed, download.plain))
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
    """Make one fact of this kind false in each story that has such a fact, and count the rejected stories.

    Args:
        kind: a kind of fact, a key of `CORRUPTIONS`.
        runs: true stories by the seed of their run.
    """
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
    """Count n-grams of words and punctuation, each with the white space before it, and of the end of the text."""
    counts: NGrams = defaultdict(Counter)
    for text in texts:
        words = [END] * (ORDER - 1) + WORD.findall(text) + [END]
        for at in range(ORDER - 1, len(words)):
            counts[tuple(words[at - ORDER + 1 : at])][words[at]] += 1
    return counts


def written(model: NGrams, n: int, seed: int) -> list[str]:
    """`n` texts sampled at the temperature at which language models are judged."""
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
