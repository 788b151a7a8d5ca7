"""Runs the demo's own commands with several training seeds, and measures the model's knowledge of its world.

    python -m benchmarks.stories --folder demo-seeds

Three figures tell it: choices between true and false stories, given beginnings, and free stories. A seed whose figures
are in the folder is not trained again, so that a run that was interrupted goes on where it stopped.
"""

import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks import report
from homespun import durable
from homespun.config import EvalConfig, JudgeConfig
from homespun.evaluation.choices import evaluate_choices
from homespun.evaluation.storytelling import (
    continued,
    sampling_shown,
    summarised,
    told,
    training_text,
)
from homespun.language_model import LanguageModel, load
from homespun.records import reading
from homespun.stories import lexicon

ROOT = Path(__file__).parent.parent
TEMPERATURE = 0.8
"""At which the 5-gram model of `benchmarks.judge` writes."""
COMPLAINTS_SHOWN = 15

GENERAL = {
    "NAME": lexicon.NAMES,
    "THING": lexicon.TOYS + lexicon.FOODS,
    "LOOK": lexicon.COLOURS + lexicon.TASTES,
    "CREATURE": (*lexicon.ANIMALS, "girl", "boy"),
    "TRAIT": lexicon.TRAITS,
    "WEATHER": lexicon.WEATHER,
    "CHORE": lexicon.CHORES,
    "PRONOUN": ("'[A-Za-z]+'",),
}
"""Placeholders for the words in a complaint, so that equal mistakes count as one kind."""

Figures = dict[str, Any]
"""The rows of one seed, by table, and the judge's complaints."""


def main(
    folder: Path,
    seeds: tuple[int, ...] = (0, 1, 2),
    n_samples: int = 200,
    download_flags: str = "",
    train_flags: str = "",
    name: str = "storytelling",
) -> None:
    """Measure and save.

    Args:
        folder: receives the text, the tokenizer, a run and a file of figures for each seed. Use a new folder for other
            flags.
        seeds: seeds of the training runs.
        n_samples: stories that each model writes, and beginnings that it continues.
        download_flags: more flags for the demo's `homespun download`.
        train_flags: flags of `homespun train` in place of the demo's.
        name: of the file of the results.
    """
    commands = demo()
    for words in commands:
        if words[0] == "download":
            words += shlex.split(download_flags)
        if words[0] == "train" and train_flags:
            words[1:] = shlex.split(train_flags)
    folder.mkdir(exist_ok=True, parents=True)
    measured: list[Figures] = []
    for seed in seeds:
        file = folder / f"figures_{seed}.json"
        if not file.exists():
            for words in commands:
                if words[0] == "train":
                    run = f"seed_{seed}"
                    homespun([*words, "--seed", str(seed), "--checkpoint-dir", run], folder)
                elif not (folder / f"{words[0]}.done").exists():
                    homespun(words, folder)
                    (folder / f"{words[0]}.done").touch()
            figures = measure(folder / f"seed_{seed}", n_samples)
            durable.write(file, json.dumps(figures, indent=2).encode())
        measured.append(json.loads(file.read_text(encoding="utf-8")))
        for title, row in measured[-1]["rows"].items():
            print(f"seed {seed}, {title}\n{report.table([row])}", flush=True)
    complaints = sum((Counter(figures["complaints"]) for figures in measured), Counter[str]())
    tables = {
        title: [
            {"seed": seed, **figures["rows"][title]}
            for seed, figures in zip(seeds, measured, strict=True)
        ]
        for title in measured[0]["rows"]
    }
    tables["the judge's first complaint about the others"] = [
        {"complaint": kind, "stories": count}
        for kind, count in complaints.most_common(COMPLAINTS_SHOWN)
    ]
    report.save(name, tables)


def demo() -> list[list[str]]:
    """The commands of `make demo` up to a trained model, without the program's name."""
    recipe = subprocess.run(
        ["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    typed = re.findall(r"^cd demo && \S*/homespun (.+)$", recipe, re.MULTILINE)
    commands = [shlex.split(line) for line in typed]
    return [words for words in commands if words[0] in ("download", "tokenizer", "train")]


def homespun(words: Sequence[str], folder: Path) -> None:
    """Run a `homespun` command in a folder."""
    print("$ homespun", shlex.join(words), flush=True)
    command = [sys.executable, "-m", "homespun", *words]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def measure(run: Path, n_samples: int) -> Figures:
    """The three figures of a run."""
    model = load(run)
    config = JudgeConfig(num_samples=n_samples)
    records = list(reading.read(run / "metrics.jsonl"))
    free, complaints = free_stories(model, config)
    rows = {
        "training": {
            "val loss": round(min(r["val_loss"] for r in records if "val_loss" in r), 4),
            "bits/byte": round(
                min(r["val_bits_per_byte"] for r in records if "val_bits_per_byte" in r), 4
            ),
            "text tokens": next(r["run"]["training_tokens"] for r in records if "run" in r),
            "steps": records[-1]["step"],
            "tokens": records[-1]["tokens"],
        },
        "right choices": choices(run),
        "given beginnings": beginnings(model, config),
        f"free stories, {sampling_shown(config)}": free,
    }
    return {"rows": rows, "complaints": complaints}


def choices(model: Path) -> report.Row:
    """The share of right choices, of all pairs and of each skill."""
    [result] = evaluate_choices(EvalConfig(models=(str(model),), choices="stories"), print)
    scores = (result.overall, *result.skills)
    return {"pairs": result.overall.n_pairs, **{one.skill: round(one.share, 3) for one in scores}}


def beginnings(model: LanguageModel, config: JudgeConfig) -> report.Row:
    """Shares of consistent stories with a given beginning."""
    columns = list(continued(model, config))
    shares = {column.settings: round(column.overall.share, 3) for column in columns}
    return {"beginnings": columns[0].overall.n, **shares}


def free_stories(model: LanguageModel, config: JudgeConfig) -> tuple[report.Row, Counter[str]]:
    """Figures of stories that begin freely, and counts of the first complaint about each that is not consistent."""
    stories = list(told(model, config))
    learned = training_text(model)
    assert learned
    result = summarised(stories, learned.training())
    low, high = result.tally.interval
    row: dict[str, float] = {
        "different": result.tally.n,
        "consistent": round(result.tally.share, 3),
        "from": round(low, 3),
        "to": round(high, 3),
        "courses": result.n_courses,
        "new course": round((result.n_with_new_course or 0) / max(1, result.tally.consistent), 3),
    }
    for compared in result.compared:
        row |= {compared.of: round(compared.model, 3)}
        row |= {f"{compared.of} (generator)": round(compared.generator, 3)}
    problems = (story.verdict.problems for story in stories if not story.verdict.consistent)
    return row, Counter(kind(first.what) for first, *_ in problems)


def kind(complaint: str) -> str:
    """A complaint with placeholders for its words."""
    for general, words in GENERAL.items():
        complaint = re.sub(rf"(?<!of that )(?<!\w)(?:{'|'.join(words)})(?!\w)", general, complaint)
    return complaint


if __name__ == "__main__":
    tyro.cli(main)
