"""From a model of stories to one that answers: exact answers to unseen questions after each stage.

    python -m benchmarks.reinforcement

A small model learns plain stories, then to answer questions about stories (supervised fine-tuning), then from a
reward, 1 for the exact answer (`homespun reinforce`). The control of the last stage fine-tunes for the same time
instead, on the questions that reinforcement asks, so that the reward is not credited with the time or the data. All
questions of the test have courses of events that no training question has; the stories of the first stage are not
divided in this way. The last columns are bits per byte of plain stories that no stage has read, and how they changed
since the first stage.
"""

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import tyro

import homespun
from benchmarks import report
from homespun.evaluation.questions import QuestionsResult
from homespun.records.metrics import read_whole

CONTEXT = 384
UNREAD = 77
"""The seed of the stories for bits per byte."""
STAGES = ("stories", "fine-tuned", "fine-tuned on", "reinforced")


def main(
    base: str = "5m",
    tuning: str = "5m",
    last: str = "5m",
    seeds: tuple[int, ...] = (0,),
    fine_tuning_flags: str = "",
    reward_flags: str = "",
) -> None:
    """Train the stages, and ask each.

    Args:
        base: the time of the first stage.
        tuning: of the second.
        last: of reinforcement, and of its control.
        seeds: seeds of the runs.
        fine_tuning_flags: more settings of the second stage and of the control.
        reward_flags: more settings of reinforcement.
    """
    rows: list[report.Row] = []
    by_skill: list[report.Row] = []
    curves: list[report.Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def run(*words: str) -> None:
            print("$ homespun", shlex.join(words), flush=True)
            subprocess.run([sys.executable, "-m", "homespun", *words], cwd=folder, check=True)

        def data(dataset: str, n: int, file: str, *more: str) -> str:
            run(
                "download",
                "--dataset",
                dataset,
                "--plain",
                "--num-samples",
                str(n),
                "--output",
                file,
                *more,
            )
            return file

        stories = data("stories", 50_000, "stories.txt")
        run("tokenizer", "--vocab-size", "1024")
        asked = data("stories-questions", 20_000, "asked.jsonl")
        single = data(
            "stories-questions", 20_000, "single.jsonl", "--questions", "1", "--seed", "1"
        )
        unread = data("stories", 400, "unread.txt", "--seed", str(UNREAD))
        for seed in seeds:
            place = {stage: f"{stage} {seed}".replace(" ", "-") for stage in STAGES}
            first, tuned, on, rewarded = (place[stage] for stage in STAGES)
            seeded = ["--seed", str(seed)]
            tune = shlex.split(fine_tuning_flags)
            run("train", "--data-file", stories, "--seq-len", str(CONTEXT), "--time-budget", base,
                "--tokenizer-path", "tokenizer_model", *seeded, "--checkpoint-dir", first)  # fmt: skip
            run("train", "--data-file", asked, "--init-from", first, "--time-budget", tuning,
                *tune, *seeded, "--checkpoint-dir", tuned)  # fmt: skip
            run("train", "--data-file", single, "--init-from", tuned, "--time-budget", last,
                *tune, *seeded, "--checkpoint-dir", on)  # fmt: skip
            run("reinforce", tuned, "--data-file", single, "--time-budget", last,
                *shlex.split(reward_flags), *seeded, "--checkpoint-dir", rewarded)  # fmt: skip
            asked_of = [tuned, on, rewarded]
            answered = dict(
                zip(
                    asked_of,
                    homespun.evaluate(
                        models=[str(folder / path) for path in asked_of], questions="stories"
                    ),
                    strict=True,
                )
            )
            read = homespun.evaluate(
                models=[str(folder / place[stage]) for stage in STAGES],
                data_file=str(folder / unread),
                max_tokens=20_000,
                seq_len=CONTEXT,
                precision="float32",
            )
            start = read[0].bits_per_byte
            for stage, text in zip(STAGES, read, strict=True):
                bits = {
                    "bits/byte": round(text.bits_per_byte, 4),
                    "change": f"{text.bits_per_byte / start - 1:+.1%}",
                }
                shares = _shares(answered.get(place[stage]))
                rows.append({"after": stage, "seed": str(seed), **shares, **bits})
            by_skill += _by_skill(seed, {stage: answered[place[stage]] for stage in STAGES[1:]})
            curves += _curve(seed, folder / rewarded)
    report.save(
        "reinforcement",
        {
            f"exact answers to unseen questions; {base}, {tuning} and {last}": rows,
            "by skill": by_skill,
            "the run with a reward": curves,
        },
    )


def _shares(result: QuestionsResult | None) -> dict[str, str]:
    """Exact answers, with those of each difficulty; a dash for a model that has not learned to answer."""
    parts = (*result.difficulties, result.overall) if result else ()
    found = {part.of: f"{part.share:.1%}" for part in parts}
    return {name: found.get(name, "-") for name in ("easy", "medium", "hard", "all")}


def _by_skill(seed: int, answered: dict[str, QuestionsResult]) -> list[report.Row]:
    first = next(iter(answered.values()))
    return [
        {
            "skill": skill.of,
            "seed": str(seed),
            "questions": skill.n_questions,
            "one answer": f"{skill.constant:.0%}",
            **{stage: f"{result.skills[number].share:.0%}" for stage, result in answered.items()},
        }
        for number, skill in enumerate(first.skills)
    ]


def _curve(seed: int, run: Path) -> list[report.Row]:
    """The evaluations of the run with a reward, with the figures of the step before each."""
    points: list[report.Row] = []
    figures = {"reward": 0.0, "entropy": 0.0, "kl": 0.0, "groups_skipped": 0.0}
    for record in read_whole(run / "metrics.jsonl"):
        figures = {name: round(record.get(name, value), 3) for name, value in figures.items()}
        if "val_reward" in record:
            point = {"step": record["step"], "held-out reward": round(record["val_reward"], 3)}
            points.append({"seed": str(seed), **point, **figures})
    return points


if __name__ == "__main__":
    tyro.cli(main)
