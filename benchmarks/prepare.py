"""Is `homespun prepare` faster with more processes, and are the tokens the same, also after a kill?

    python -m benchmarks.prepare fairy_tales.txt --megabytes 300 --workers 1 2 4

The text is random, made from the given one as by `benchmarks.tokenizing`, in several files. For each number of
processes the command makes all tokens anew, in turn. It is then killed when half of the files of tokens are there, and
run again. At last the command meets its finished tokens, as every later start does.
"""

import functools
import hashlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks import report
from benchmarks.rounds import compared, interleaved
from benchmarks.tokenizing import write_large
from homespun.data.prepare import INDEX

N_FILES = 8
VOCAB_SIZE = 8000
TOKENS = Path("data/tokens")


def main(
    text: Annotated[Path, tyro.conf.Positional],
    megabytes: int = 300,
    workers: tuple[int, ...] = (1, 2, 4),
    rounds: int = 3,
    folder: Path | None = None,
) -> None:
    """Measure and save.

    Args:
        text: source of the large text.
        megabytes: size of the large text.
        workers: the numbers of processes; the first one is the measure of the others.
        rounds: measured turns of each number, after one that is not counted.
        folder: place for the large text and the tokens; it must not exist. If omitted, a temporary one.
    """
    with tempfile.TemporaryDirectory() as name:
        place = folder or Path(name)
        if folder:
            folder.mkdir(
                parents=True
            )  # one that is there may hold tokens, which `rate` would remove
        web = place / "web"
        web.mkdir()
        for number in range(N_FILES):
            write_large(web / f"{number}.txt", text, megabytes * 1_000_000 // N_FILES, number)
        os.chdir(place)
        run(["tokenizer", "--data-file", "web", "--vocab-size", str(VOCAB_SIZE)])
        variants = {str(n): functools.partial(rate, n, megabytes) for n in workers}
        rows = compared(interleaved(variants, rounds), "MB/s", 1)
        found: list[report.Row] = []
        digests = set()
        for n, row in zip(workers, rows, strict=True):
            rate(n, megabytes)
            digests.add(digest())
            killed(n)
            digests.add(digest())
            again = statistics.median(run(words(n)) for _ in range(3))
            is_equal = "yes" if len(digests) == 1 else "no"
            found.append(
                {"processes": row["variant"]}
                | {key: row[key] for key in ("MB/s", "ratio", "least", "most")}
                | {"same bytes": is_equal, "next start, s": round(again, 2)}
            )
    title = f"{megabytes} MB in {N_FILES} files, vocabulary {VOCAB_SIZE:,}"
    report.save("prepare", {title: found})


def words(n: int) -> list[str]:
    """The command with `n` processes."""
    return ["prepare", "--data-file", "web", "--workers", str(n)]


def run(words: list[str]) -> float:
    """Seconds of a command."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "homespun", *words], check=True)
    return time.perf_counter() - start


def rate(n: int, megabytes: int) -> float:
    """Megabytes of text per second, from the start of the command to its end."""
    shutil.rmtree(TOKENS, ignore_errors=True)
    return megabytes / run(words(n))


def killed(n: int) -> None:
    """Kill the command when half of the files of tokens are there, and run it again."""
    n_files = len(list(TOKENS.glob("*/*.tokens")))
    shutil.rmtree(TOKENS)
    process = subprocess.Popen(
        [sys.executable, "-m", "homespun", *words(n)], start_new_session=True
    )
    while len(list(TOKENS.glob("*/*.tokens"))) < n_files / 2:
        if process.poll() is not None:
            raise SystemExit("the command has ended before it could be killed")
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run(words(n))


def digest() -> str:
    """The SHA-256 of all tokens and their index."""
    [index] = TOKENS.glob(f"*/{INDEX}")
    found = hashlib.sha256()
    for path in [index, *sorted(index.parent.glob("*.tokens"))]:
        found.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


if __name__ == "__main__":
    tyro.cli(main)
