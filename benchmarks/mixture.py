"""Dense models against mixtures of experts: at equal computation, at equal size, and in equal time.

    python -m benchmarks.mixture fairy_tales.txt --folder FOLDER

*Equal computation*: a token uses as many weights of the mixture as of the dense model, and both see the same tokens.
The same with *finer experts*: four times as many, of a quarter of the width, and a token uses four times as many.
*Equal size*: the mixture has as many weights as the dense model in all, so a token uses fewer; both see the same
tokens. *Equal time*: the first mixture again, against a dense model that takes as many more steps as its steps are
faster; short runs in turn measure how much faster. So the comparison does not depend on other work on the machine.

Stories are made here; the prose is the file. Each document belongs to one side, as in `benchmarks.prose`.
"""

import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks import report
from benchmarks.prose import scored, sides
from benchmarks.rounds import compared, interleaved
from homespun import durable
from homespun.architectures.presets import preset
from homespun.records import reading
from homespun.stories import stories
from homespun.tokenizer import END_OF_TEXT

EXPERTS, PER_TOKEN = 8, 2
FINER = 4
"""How many times as many experts the mixture with finer experts has."""
SETTINGS = """
    --seq-len 256 --batch-size 8 --learning-rate 0.04 --muon-learning-rate 0.017
    --schedule linear --warmup-steps 10 --min-learning-rate-ratio 0 --beta2 0.99 --weight-decay 0.03
    --eval-interval 1000000 --sample-interval 1000000 --eval-tokens 20000
"""
"""Those of the recipe, without its evaluations."""
TOKENS = 8 * 256
"""Of a step."""
LARGER = "mini"
"""A size whose steps are timed as well."""
TIMED_STEPS, SKIPPED, ROUNDS, SOME_STORIES = 20, 5, 3, 500
"""The runs that measure the time of a step, their first steps that do not count, and the stories that they read."""


@dataclass(frozen=True)
class Plan:
    """The flags of each model."""

    size: str
    steps: int
    vocab_size: int
    optimizer: str = "muon"

    def models(self) -> dict[str, str]:
        return {
            "dense": self.dense(self.steps),
            "mixture, equal computation": self._mixture(PER_TOKEN),
            "mixture, equal computation, finer experts": self._mixture(PER_TOKEN, FINER),
            "mixture, equal size": self._mixture(EXPERTS),
        }

    def dense(self, steps: int) -> str:
        """The preset."""
        return (
            f"--model-size {self.size} --vocab-size {self.vocab_size} --max-steps {steps} "
            f"--optimizer {self.optimizer} {SETTINGS}"
        )

    def _mixture(self, divided_by: int, finer: int = 1) -> str:
        """With experts that are as wide as a part of the dense feed-forward layer, each divided into finer ones."""
        width = preset(self.size).d_ff // divided_by // finer
        experts = f"--experts {EXPERTS * finer} --experts-per-token {PER_TOKEN * finer} --d-expert {width}"
        return f"{self.dense(self.steps)} {experts}"


def main(
    prose: Annotated[Path, tyro.conf.Positional],
    folder: Path,
    size: str = "pico",
    steps: int = 1000,
    n_stories: int = 20_000,
    vocab_size: int = 2048,
    seeds: tuple[int, ...] = (0, 1, 2),
) -> None:
    """Train and score every variant on both texts, and save.

    Args:
        prose: a file of prose.
        folder: keeps the figures of each run, so that a measurement that was interrupted goes on. Use a new one for
            other flags.
        size: the preset of the dense model.
        steps: steps of each run but the longer one at equal time.
        n_stories: stories to train on and to score on.
        vocab_size: vocabulary of the runs of both texts.
        seeds: seeds of the runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told, some = folder / "stories.txt", folder / "some.txt"
    for file, n in ((told, n_stories), (some, SOME_STORIES)):
        if not file.exists():
            durable.write(file, f"\n{END_OF_TEXT}\n".join(stories(n, seed=0)).encode())
    plan = Plan(size, steps, vocab_size)
    tables: dict[str, list[report.Row]] = {}
    for timed_size, optimizer in ((size, "muon"), (LARGER, "muon"), (LARGER, "adamw")):
        short = Plan(timed_size, TIMED_STEPS, vocab_size, optimizer)
        tables[f"seconds of a step, {timed_size}, {optimizer}"] = step_seconds(
            short.models(), some, folder / f"seconds_{timed_size}_{optimizer}.json"
        )
    ratio = float(tables[f"seconds of a step, {size}, muon"][1]["ratio"])
    models = {
        **plan.models(),
        f"dense, equal time: {ratio:g} times the steps": plan.dense(round(ratio * steps)),
    }
    for text, path in (("stories", told), ("prose", prose)):
        known = Known(folder / f"{text}.json", path)
        runs = {name: [known(flags, seed) for seed in seeds] for name, flags in models.items()}
        tables[f"{text}, nats per token"] = [
            row(name, found, runs["dense"]) for name, found in runs.items()
        ]
        report.save("mixture", tables)


class Known:
    """Scores of runs on a text, kept in a file."""

    def __init__(self, file: Path, text: Path) -> None:
        self._file = file
        self._sides = sides(text, tune=False)
        self._rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def __call__(self, flags: str, seed: int) -> report.Row:
        """The score of a run, which is made if it is not known."""
        name = f"{' '.join(flags.split())}, seed {seed}"
        if name not in self._rows:
            self._rows[name] = scored(*self._sides, flags, seed)
            durable.write(self._file, json.dumps(self._rows, indent=1).encode())
        found: report.Row = self._rows[name]
        return found


def row(name: str, runs: Sequence[report.Row], dense: Sequence[report.Row]) -> report.Row:
    """The mean and the range of the loss over the seeds, and the number of seeds whose dense run has a larger loss."""
    losses, of_dense = ([float(run["nats/token"]) for run in found] for found in (runs, dense))
    below = sum(loss < other for loss, other in zip(losses, of_dense, strict=True))
    return {
        "model": name,
        "M parameters": runs[0]["M parameters"],
        "M used by a token": runs[0]["M used by a token"],
        "mean": round(statistics.mean(losses), 4),
        "least": min(losses),
        "most": max(losses),
        "below dense": f"{below} of {len(losses)} seeds",
    }


def step_seconds(flags: Mapping[str, str], text: Path, file: Path) -> list[report.Row]:
    """The time of a step of each model, from short runs in turn. The file keeps it."""
    if not file.exists():
        with tempfile.TemporaryDirectory() as name:
            turns = {
                model: partial(timed, words, text, Path(name)) for model, words in flags.items()
            }
            durable.write(file, json.dumps(interleaved(turns, ROUNDS)).encode())
    return compared(json.loads(file.read_text(encoding="utf-8")), "seconds", digits=4)


def timed(flags: str, text: Path, folder: Path) -> float:
    """The median time of a step of a short run, in seconds, without the first ones."""
    words = [
        "train",
        "--data-file",
        str(text.resolve()),
        *shlex.split(flags),
        "--log-interval",
        "1",
    ]
    command = [sys.executable, "-m", "homespun", *words]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    records = list(reading.read(folder / "checkpoints/metrics.jsonl"))
    steps = [record for record in records if "loss" in record][SKIPPED:]
    return TOKENS / statistics.median(step["tokens_per_second"] for step in steps)


if __name__ == "__main__":
    tyro.cli(main)
