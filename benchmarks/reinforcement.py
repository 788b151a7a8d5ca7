"""From a model of stories to one that answers: exact answers to unseen questions after each stage.

    python -m benchmarks.reinforcement FOLDER

A small model learns plain stories, then to answer questions about stories (supervised fine-tuning, with the stories
replayed), then from a reward, 1 for the exact answer to a harder question (`homespun reinforce`, with the stories
replayed). There are two controls. One fine-tunes without replay, for as many steps on the questions. The other
fine-tunes on instead of the last stage, for the same time, on the questions that reinforcement asks, so that the reward
is not credited with the time or the data. All questions of the test have courses of events that no training question
has; the stories of the first stage are not divided in this way. The last columns are bits per byte of plain stories
that no stage has read, how they changed since the first stage, the share of consistent stories among those that the
model tells, and the minutes of the stage. Each seed begins with a model of stories of its own; the controls have the
first seed alone.

Data and runs stay in FOLDER. What is there already is used again, so the benchmark can be interrupted.
"""

import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

import homespun
from benchmarks import report
from homespun import durable
from homespun.config import JudgeConfig, TrainConfig
from homespun.errors import UserError
from homespun.evaluation.storytelling import summarised, told
from homespun.records.reading import read_whole
from homespun.terminal import counted

CONTEXT = 384
UNREAD = 77
"""The seed of the stories for bits per byte."""
EVALUATION = ("--eval-tokens", "20000")
"""Of the runs' own evaluations, which decide nothing here but the best weights."""
GENTLY = ("--muon-learning-rate", "0.0017", "--learning-rate", "0.004", "--eval-tokens", "1000")
"""Of the control that fine-tunes on: with a tenth of the rates, since it begins where a run has ended. With the whole
ones it was never better than at its start."""
STAGES = {
    "stories": "base",
    "without replay": "forgetful",
    "fine-tuned": "tuned",
    "fine-tuned on": "on",
    "reinforced": "rewarded",
}
"""The stages, and the folders of their runs."""
PARTS = ("easy", "medium", "hard", "all")
STORIES = 100
"""That each model tells."""


def main(
    folder: Annotated[Path, tyro.conf.Positional],
    base_steps: int = 3000,
    tuning_steps: int = 2000,
    reward_steps: int = 160,
    seeds: tuple[int, ...] = (0,),
    replay_share: float = TrainConfig.replay_share,
    reward_flags: str = "--group-size 16",
    threads: int | None = None,
) -> None:
    """Train the stages, and ask each.

    Args:
        folder: for data and runs.
        base_steps: of the first stage, of five rows of 384 tokens each.
        tuning_steps: of the second, without the part of the replay.
        reward_steps: of reinforcement, of 16 prompts each. The control has as many steps as fit into its time.
        seeds: seeds of the runs.
        replay_share: of the stories in the later stages.
        reward_flags: more settings of reinforcement.
        threads: of the runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first_seed = seeds[0]

    def run(*words: str) -> None:
        print("$ homespun", shlex.join(words), flush=True)
        subprocess.run([sys.executable, "-m", "homespun", *words], cwd=folder, check=True)

    def data(dataset: str, n: int, file: str, *more: str) -> str:
        if not (folder / file).exists():
            size = ["--num-samples", str(n), "--output", file]
            run("download", "--dataset", dataset, "--plain", *size, *more)
        return file

    def stage(name: str, command: str, *words: str) -> None:
        if not (folder / name / "training.png").exists():  # drawn at the end of a run
            pinned = ["--threads", str(threads)] if threads else []
            run(command, *words, *pinned, "--checkpoint-dir", name)

    stories = data("stories", 50_000, "stories.txt")
    if not (folder / "tokenizer_model").exists():
        run("tokenizer", "--data-file", stories, "--vocab-size", "1024")
    asked = data("stories-questions", 20_000, "asked.jsonl")
    harder = data("stories-questions", 12_000, "harder.jsonl", "--questions", "1", "--seed", "1",
                  "--difficulty", "medium", "hard")  # fmt: skip
    unread = data("stories", 400, "unread.txt", "--seed", str(UNREAD))
    rows: list[report.Row] = []
    by_skill: list[report.Row] = []
    curves: list[report.Row] = []
    for seed in seeds:
        place = {name: f"{runs}-{seed}" if seed else runs for name, runs in STAGES.items()}
        base, tuned, rewarded = (place[name] for name in ("stories", "fine-tuned", "reinforced"))
        seeded = ["--seed", str(seed)]
        replay = ["--replay", stories, "--replay-share", str(replay_share)]
        stage(base, "train", "--data-file", stories, "--seq-len", str(CONTEXT),
              "--max-steps", str(base_steps), *seeded)  # fmt: skip
        if seed == first_seed:
            stage(place["without replay"], "train", "--data-file", asked, "--init-from", base,
                  "--max-steps", str(tuning_steps), *EVALUATION, *seeded)  # fmt: skip
        stage(tuned, "train", "--data-file", asked, "--init-from", base, *replay,
              "--max-steps", str(round(tuning_steps / (1 - replay_share))), *EVALUATION, *seeded)  # fmt: skip
        stage(rewarded, "reinforce", tuned, "--data-file", harder, *replay,
              "--max-steps", str(reward_steps), *shlex.split(reward_flags), *seeded)  # fmt: skip
        if seed == first_seed:
            seconds_per_step = _seconds(folder / tuned) * (1 - replay_share) / tuning_steps
            steps = round(_seconds(folder / rewarded) / seconds_per_step)
            stage(place["fine-tuned on"], "train", "--data-file", harder, "--init-from", tuned, *replay,
                  "--max-steps", str(steps), *GENTLY, *seeded)  # fmt: skip
        else:
            place = {name: place[name] for name in ("stories", "fine-tuned", "reinforced")}
        start = bits_per_byte(folder / base, folder / unread)
        answered = {
            name: exact_answers(folder / path) for name, path in place.items() if name != "stories"
        }
        for name, path in place.items():
            now = bits_per_byte(folder / path, folder / unread)
            bits = {"bits/byte": round(now, 4), "change": f"{now / start - 1:+.1%}"}
            shares = answered[name]["shares"] if name in answered else dict.fromkeys(PARTS, "-")
            consistent = consistent_stories(folder / path)
            minutes = round(_seconds(folder / path) / 60, 1)
            rows.append(
                {"after": name, "seed": str(seed), **shares, **bits}
                | {"consistent": f"{consistent['consistent']:.0%}", "minutes": minutes}
            )
        by_skill += _by_skill(seed, answered)
        curves += _curve(seed, folder / rewarded)
    size = f"{base_steps:,}, {tuning_steps:,} and {reward_steps:,} steps"
    size += f", {counted(threads, 'thread')}" if threads else ""
    report.save(
        "reinforcement",
        {
            f"exact answers to unseen questions; {size}": rows,
            "by skill": by_skill,
            "the run with a reward": curves,
        },
    )


def exact_answers(run: Path) -> dict[str, Any]:
    """The exact answers of a model to the built-in questions: their shares by difficulty, and the figures of each
    skill. They are kept in the folder of the run."""

    def measured() -> dict[str, Any]:
        [found] = homespun.evaluate(models=[str(run)], questions="stories")
        return {
            "shares": {
                part.of: f"{part.share:.1%}" for part in (*found.difficulties, found.overall)
            },
            "skills": {
                skill.of: {
                    "questions": skill.n_questions,
                    "one answer": f"{skill.constant:.0%}",
                    "exact": f"{skill.share:.0%}",
                }
                for skill in found.skills
            },
        }

    return _kept(run / "answers.json", measured)


def bits_per_byte(run: Path, text: Path) -> float:
    """Bits per byte of a text, kept in the folder of the run."""

    def measured() -> dict[str, float]:
        [found] = homespun.evaluate(
            models=[str(run)],
            data_file=str(text),
            max_tokens=20_000,
            seq_len=CONTEXT,
            precision="float32",
        )
        return {"bits per byte": found.bits_per_byte}

    return float(_kept(run / "bits_per_byte.json", measured)["bits per byte"])


def _kept(file: Path, measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A measurement, which is done once and kept in this file."""
    if not file.exists():
        durable.write_json(file, measured())
    return durable.read_json(file)


def consistent_stories(run: Path, n: int = STORIES) -> dict[str, float]:
    """The share of consistent stories among those that a model tells, the number of their courses of events, and that
    for each such story. They are kept in the folder of the run."""

    def measured() -> dict[str, float]:
        found = {"consistent": 0.0, "courses": 0.0, "courses for each": 0.0}
        try:
            config = JudgeConfig(num_samples=n, seed=0)
            result = summarised(list(told(homespun.load(run), config)), None)
        except UserError as forgotten:  # how to tell stories
            print(forgotten, flush=True)
        else:
            consistent = result.tally.consistent
            found = {
                "consistent": consistent / result.n_told,
                "courses": float(result.n_courses),
                "courses for each": result.n_courses / max(1, consistent),
            }
        return found

    return _kept(run / f"stories_{n}.json", measured)


def _seconds(run: Path) -> int:
    """The training time of a run, without its evaluations."""
    found = [
        record["seconds"] for record in read_whole(run / "metrics.jsonl") if "seconds" in record
    ]
    return math.ceil(found[-1])


def _by_skill(seed: int, answered: Mapping[str, Any]) -> list[report.Row]:
    skills = next(iter(answered.values()))["skills"]
    return [
        {
            "skill": skill,
            "seed": str(seed),
            "questions": one["questions"],
            "one answer": one["one answer"],
        }
        | {
            name: answered[name]["skills"][skill]["exact"] if name in answered else "-"
            for name in list(STAGES)[1:]
        }
        for skill, one in skills.items()
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
