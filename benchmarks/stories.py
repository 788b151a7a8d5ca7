"""Does the demo's model tell stories? Runs the demo's own commands with several training seeds, and the judge.

    python -m benchmarks.stories

Of the consistent stories it also counts those that are new: not copied from the training text.
"""

import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import tyro

from benchmarks import report
from homespun.config import JudgeConfig
from homespun.data.corpus import survey
from homespun.language_model import LanguageModel, load
from homespun.records import metrics
from homespun.stories import lexicon
from homespun.stories.judge import judge

ROOT = Path(__file__).parent.parent
TEMPERATURE = 0.8
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


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    n_samples: int = 200,
    download_flags: str = "",
    train_flags: str = "",
) -> None:
    """Measure and save.

    Args:
        seeds: seeds of the training runs.
        n_samples: stories that each model writes.
        download_flags: more flags for the demo's `homespun download`.
        train_flags: more flags for the demo's `homespun train`.
    """
    more = {"download": download_flags, "train": train_flags}
    commands = [[*words, *shlex.split(more.get(words[0], ""))] for words in demo()]
    rows: list[report.Row] = []
    complaints: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for words in commands:
            if words[0] != "train":
                homespun(words, folder)
        for seed in seeds:
            for words in commands:
                if words[0] == "train":
                    homespun([*words, "--seed", str(seed)], folder)
            row, first = judged(folder, n_samples)
            rows.append({"seed": seed, **row})
            complaints += first
            print(report.table(rows[-1:]))
    report.save(
        "stories",
        {
            f"{n_samples} stories at temperature {TEMPERATURE}": rows,
            "what the judge says first of the others": [
                {"complaint": kind, "stories": count}
                for kind, count in complaints.most_common(COMPLAINTS_SHOWN)
            ],
        },
    )


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


def judged(folder: Path, n_samples: int) -> tuple[report.Row, Counter[str]]:
    """Figures of the run in a folder, and counts of the judge's first complaint about each inconsistent story."""
    model = load(folder / "checkpoints")
    [data] = (folder / "data").glob("*.txt")
    learned = "\n\n".join(survey(data).training())
    consistent = new = 0
    complaints: Counter[str] = Counter()
    for story in sampled(model, n_samples):
        verdict = judge(story)
        if verdict.consistent:
            consistent += 1
            new += story.strip() not in learned
        else:
            complaints[kind(verdict.problems[0].what)] += 1
    records = list(metrics.read(folder / "checkpoints/metrics.jsonl"))
    row = {
        "val loss": round(min(r["val_loss"] for r in records if "val_loss" in r), 4),
        "tokens": records[-1]["tokens"],
        "consistent": consistent,
        "share": round(consistent / n_samples, 3),
        "new": new,
        "share of those": round(new / max(1, consistent), 3),
        "consistent without min-p": sum(
            judge(story).consistent for story in sampled(model, n_samples, min_p=0.0)
        ),
    }
    return row, complaints


def sampled(model: LanguageModel, n: int, **settings: float) -> list[str]:
    """Stories sampled as `homespun judge` samples them."""
    config = JudgeConfig(temperature=TEMPERATURE)
    written = model.continuations(None, config, num_samples=n, **settings)
    return [story.text for story in written]


def kind(complaint: str) -> str:
    """A complaint with placeholders for its words."""
    for general, words in GENERAL.items():
        complaint = re.sub(rf"(?<!of that )(?<!\w)(?:{'|'.join(words)})(?!\w)", general, complaint)
    return complaint


if __name__ == "__main__":
    tyro.cli(main)
