"""Measures how rewards for consistent stories change a model and the variety of its stories.

    python -m benchmarks.story_reward BASE FOLDER

BASE is a run on plain built-in stories. It goes on with the judge of the stories as its reward, in several ways: for
consistency alone and without any tie to the initial model, with the usual tie, with the reward that stories with the
same course of events share, with this reward and the stories of the base replayed, and from given beginnings. The
share of consistent stories says how well a model pursues the reward; the courses of events, and the bits per byte of
stories that no run has read, say what it gives up for that.

Runs stay in FOLDER. What is there already is used again, so the benchmark can be interrupted.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import tyro

import homespun
from benchmarks import report
from benchmarks.reinforcement import consistent_stories
from homespun.records.reading import read_whole

WAYS = {
    "consistency, no tie": "--reward consistency --kl-factor 0",
    "consistency": "--reward consistency",
    "stories": "--reward stories",
    "stories, replayed": "--reward stories --replay {text}",
    "stories, beginnings": "--reward stories --prompt-words 12",
}
"""The settings of each way; `text` are the stories that the base has read."""
UNREAD = 77
"""The seed of the stories for bits per byte."""


def main(
    base: Annotated[Path, tyro.conf.Positional],
    folder: Annotated[Path, tyro.conf.Positional],
    steps: int = 40,
    stories: int = 100,
    flags: str = "",
    ways: tuple[str, ...] = tuple(WAYS),
    seeds: tuple[int, ...] = (0,),
    name: str = "story_reward",
) -> None:
    """Train in each way, and compare.

    Args:
        base: the folder of a run on plain stories.
        folder: for the runs.
        steps: of each run, of 16 groups of 8 stories.
        stories: that each model tells to be judged.
        flags: more settings of the runs.
        ways: those to try.
        seeds: seeds of the runs.
        name: of the file of the results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = Path(homespun.load(base).stored.header["data_file"])
    text = next(path for path in (text, base.parent / text) if path.exists())
    unread = folder / "unread.txt"
    if not unread.exists():
        homespun.download(
            dataset="stories", plain=True, num_samples=400, seed=UNREAD, output=str(unread)
        )
    rows: list[report.Row] = []
    curves: list[report.Row] = []
    for seed in seeds:
        for way in ways:
            run = folder / f"{way.replace(', ', ' ').replace(' ', '-')}-{seed}"
            if not (run / "training.png").exists():  # drawn at the end of a run
                words = ["reinforce", os.path.relpath(base, folder), "--seed", str(seed)]
                read = os.path.relpath(text, folder)
                words += ["--data-file", read, "--answer-tokens", "230"]
                words += ["--max-steps", str(steps), "--checkpoint-dir", run.name]
                words += [*shlex.split(WAYS[way].format(text=read)), *shlex.split(flags)]
                print("$ homespun", shlex.join(words), flush=True)
                subprocess.run([sys.executable, "-m", "homespun", *words], cwd=folder, check=True)
            rows.append({"reward": way, "seed": str(seed), **_figures(run, unread, stories)})
            curves += _curve(way, seed, run)
        rows.append({"reward": "none", "seed": str(seed), **_figures(base, unread, stories)})
    report.save(name, {f"after {steps} steps": rows, "the runs": curves})


def _figures(run: Path, unread: Path, stories: int) -> report.Row:
    found = consistent_stories(run, stories)
    [read] = homespun.evaluate(models=[str(run)], data_file=str(unread), max_tokens=20_000)
    return {
        "consistent": f"{found['consistent']:.0%}",
        "courses": int(found["courses"]),
        "courses for each": round(found["courses for each"], 2),
        "bits/byte": round(read.bits_per_byte, 4),
    }


def _curve(way: str, seed: int, run: Path) -> list[report.Row]:
    """The first and the last step of a run, and a few between."""
    steps = [record for record in read_whole(run / "metrics.jsonl") if "reward" in record]
    names = ("reward", "distinct", "entropy", "kl", "answer_tokens")
    rows = steps[:: max(1, (len(steps) - 1) // 4)]
    return [
        {"reward given": way, "seed": str(seed), "step": record["step"]}
        | {name: round(record.get(name, 0.0), 3) for name in names}
        for record in rows
    ]


if __name__ == "__main__":
    tyro.cli(main)
