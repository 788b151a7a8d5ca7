"""Speed of tokenizing, against the `tokenizers` library alone, and of training a tokenizer on 100 MB of text.

    python -m benchmarks.tokenizing encode fairy_tales.txt
    python -m benchmarks.tokenizing train fairy_tales.txt

The encoded documents are generated stories and the documents of the given text. The 100 MB are random text: each word
is drawn from the words that follow the previous word in the given text. Some words are new, made of parts of others,
since the number of distinct words keeps growing in real text.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import tokenizers
import tyro

from benchmarks import report
from benchmarks.rounds import compared, interleaved
from homespun import tokenizer
from homespun.data.corpus import survey
from homespun.data.documents import documents
from homespun.data.prepare import prepare
from homespun.stories import stories
from homespun.tokenizer import END_OF_TEXT

VOCAB_SIZE = 8000
WORDS_IN_DOCUMENT, DOCUMENTS_AT_A_TIME = 400, 100
NEW_WORDS = 0.01
"""Fraction of the words that are new."""

Text = Annotated[Path, tyro.conf.Positional]


def encode(text: Text, rounds: int = 5, n_stories: int = 32_000) -> None:
    """Compare the library, our encoding to a stream of tokens, and `prepare`, which also reads, checks and writes.

    Args:
        text: file of the documents to encode.
        rounds: measured rounds over all documents.
        n_stories: generated stories to encode as well; 32,000 are 20 MB.
    """
    texts = [*stories(n_stories), *documents(text)]
    megabytes = sum(len(document.encode()) for document in texts) / 1e6
    ours = tokenizer.train(texts, VOCAB_SIZE)
    library = tokenizers.Tokenizer.from_str(ours.to_json())

    def rate(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return megabytes / (time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "text.txt"
        file.write_text(f"\n{END_OF_TEXT}\n".join(texts), encoding="utf-8")
        corpus = survey(file)

        def forgetful() -> tokenizer.Tokenizer:
            """Our tokenizer with an empty cache of words."""
            return tokenizer.Tokenizer.from_json(ours.to_json())

        def prepared() -> None:
            prepare(corpus, forgetful(), folder / "tokens")
            shutil.rmtree(folder / "tokens")

        variants = {
            "tokenizers, encode_batch": lambda: rate(lambda: library.encode_batch(texts)),
            "tokenizers, encode_batch_fast": lambda: rate(lambda: library.encode_batch_fast(texts)),
            "ours, to a stream": lambda: rate(lambda: forgetful().join(texts)),
            "ours, from file to shards": lambda: rate(prepared),
        }
        rows = compared(interleaved(variants, rounds), "MB/s", 2)
    title = f"{megabytes:.0f} MB in {len(texts):,} documents, vocabulary {VOCAB_SIZE:,}"
    report.save("tokenizing", {title: rows})


def train(text: Text, runs: int = 3, megabytes: int = 100, vocab_size: int = VOCAB_SIZE) -> None:
    """Measure seconds and peak memory of `homespun tokenizer` on a large text.

    Args:
        text: source of the large text.
        runs: number of runs, each with its own large text.
        megabytes: size of the large text.
        vocab_size: vocabulary of the tokenizer.
    """
    rows: list[report.Row] = []
    for seed in range(runs):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            n_words = write_large(folder / "text.txt", text, megabytes * 1_000_000, seed)
            words = ["tokenizer", "--data-file", "text.txt", "--vocab-size", str(vocab_size)]
            seconds, peak = measured(words, folder)
            rows.append(
                {"seed": seed, "MB": megabytes, "distinct words": n_words}
                | {"seconds": round(seconds, 1), "peak MB": peak}
            )
    report.save("tokenizer_training", {f"a vocabulary of {vocab_size:,}": rows})


def measured(words: list[str], folder: Path) -> tuple[float, int]:
    """Seconds and peak megabytes of a command. The peak is at least that of this small process, its parent."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "homespun", *words], cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"homespun {' '.join(words)} failed")
    return time.perf_counter() - start, round(usage.ru_maxrss * 1024 / 1e6)


def write_large(path: Path, text: Path, n_bytes: int, seed: int) -> int:
    """Write a large random text that resembles a small one, and return the number of its distinct words."""
    rng = np.random.default_rng(seed)
    written, distinct = 0, set[str]()
    with path.open("w", encoding="utf-8") as file:
        for document in endless(text.read_text(encoding="utf-8"), rng):
            distinct.update(document.split())
            file.write(f"{document}\n{END_OF_TEXT}\n")
            written += len(document.encode())
            if written >= n_bytes:
                return len(distinct)
    raise AssertionError("an endless text has ended")


def endless(text: str, rng: np.random.Generator) -> Iterator[str]:
    """Endless random documents. Each word is drawn from the words that follow the previous word in the text."""
    words = np.array(re.findall(r"\s*\S+", text.replace(END_OF_TEXT, "")), dtype=object)
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words])
    places = np.argsort(ids, kind="stable")  # positions of equal words are adjacent
    counts = np.bincount(ids)
    begins = np.cumsum(counts) - counts
    while True:
        at = rng.integers(len(words), size=DOCUMENTS_AT_A_TIME)
        columns = []
        for _ in range(WORDS_IN_DOCUMENT):
            columns.append(words[at])
            word = ids[at]
            at = (places[begins[word] + rng.integers(counts[word])] + 1) % len(words)
        grid = np.stack(columns, axis=1)
        new = rng.random(grid.shape) < NEW_WORDS
        grid[new] = [
            first[: len(first) // 2 + 1] + second.strip()[len(second.strip()) // 2 :]
            for first, second in zip(grid[new], rng.permutation(grid[new]), strict=True)
        ]
        yield from ("".join(row).strip() for row in grid)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"encode": encode, "train": train})
