"""From a model of stories to one that answers: exact answers to unseen questions after each stage.

    python -m benchmarks.reinforcement FOLDER

A small model learns plain stories, then to answer questions about stories (supervised fine-tuning, with the stories
replayed), then from a reward, 1 for the exact answer to a harder question (`homespun reinforce`, with the stories
replayed). There are two controls. One fine-tunes without replay, for as many steps on the questions. The other
fine-tunes on instead of the last stage, for the same time, on the questions that reinforcement asks, so that the reward
is not credited with the time or the data. All questions of the test have courses of events that no training question
has; the stories of the first stage are not divided in this way. The last columns are bits per byte of plain stories
that no stage has read, how they changed since the first stage, the share of consistent stories among those that the
model tells, and the minutes of the stage. The first stage and the controls have the first seed alone: the other seeds
go on from the same model of stories.

Data and runs stay in FOLDER. What is there already is used again, so the benchmark can be interrupted.
"""

import math
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import tyro

import homespun
from benchmarks import report
from homespun import durable
from homespun.config import JudgeConfig, TrainConfig
from homespun.errors import UserError
from homespun.evaluation.questions import QuestionsResult
from homespun.evaluation.storytelling import summarised, told
from homespun.records.reading import read_whole
from homespun.terminal import counted

CONTEXT = 384
UNREAD = 77
"""The seed of the stories for bits per byte."""
EVALUATION = ("--eval-tokens", "20000")
"""Of the runs' own evaluations, which decide nothing here but the best weights."""
STAGES = {
    "stories": "base",
    "without replay": "forgetful",
    "fine-tuned": "tuned",
    "fine-tuned on": "on",
    "reinforced": "rewarded",
}
"""The stages, and the folders of their runs."""
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
        reward_steps: of reinforcement, of 16 prompts each. The control gets as much time as these take.
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
    start = math.nan
    rows: list[report.Row] = []
    by_skill: list[report.Row] = []
    curves: list[report.Row] = []
    for seed in seeds:
        place = {name: f"{runs}-{seed}" if seed else runs for name, runs in STAGES.items()}
        base = STAGES["stories"] + (f"-{first_seed}" if first_seed else "")
        tuned, rewarded = place["fine-tuned"], place["reinforced"]
        seeded = ["--seed", str(seed)]
        replay = ["--replay", stories, "--replay-share", str(replay_share)]
        if seed == first_seed:
            stage(base, "train", "--data-file", stories, "--seq-len", str(CONTEXT),
                  "--max-steps", str(base_steps), *seeded)  # fmt: skip
            stage(place["without replay"], "train", "--data-file", asked, "--init-from", base,
                  "--max-steps", str(tuning_steps), *EVALUATION, *seeded)  # fmt: skip
        stage(tuned, "train", "--data-file", asked, "--init-from", base, *replay,
              "--max-steps", str(round(tuning_steps / (1 - replay_share))), *EVALUATION, *seeded)  # fmt: skip
        stage(rewarded, "reinforce", tuned, "--data-file", harder, *replay,
              "--max-steps", str(reward_steps), *shlex.split(reward_flags), *seeded)  # fmt: skip
        if seed == first_seed:
            seconds = _seconds(folder / rewarded)
            stage(place["fine-tuned on"], "train", "--data-file", harder, "--init-from", tuned, *replay,
                  "--time-budget", f"{seconds}s", *EVALUATION, *seeded)  # fmt: skip
        else:
            place = {name: place[name] for name in ("fine-tuned", "reinforced")}
        asked_of = {name: path for name, path in place.items() if name != "stories"}
        results = homespun.evaluate(
            models=[str(folder / path) for path in asked_of.values()], questions="stories"
        )
        answered = dict(zip(asked_of, results, strict=True))
        read = homespun.evaluate(
            models=[str(folder / path) for path in place.values()],
            data_file=str(folder / unread),
            max_tokens=20_000,
            seq_len=CONTEXT,
            precision="float32",
        )
        start = read[0].bits_per_byte if seed == first_seed else start
        for (name, path), text in zip(place.items(), read, strict=True):
            bits = {
                "bits/byte": round(text.bits_per_byte, 4),
                "change": f"{text.bits_per_byte / start - 1:+.1%}",
            }
            shares = _shares(answered.get(name))
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


def consistent_stories(run: Path, n: int = STORIES) -> dict[str, float]:
    """The share of consistent stories among those that a model tells, the number of their courses of events, and that
    for each such story. They are kept in the folder of the run."""
    file = run / f"stories_{n}.json"
    if not file.exists():
        config = JudgeConfig(num_samples=n, seed=0)
        found = {"consistent": 0.0, "courses": 0.0, "courses for each": 0.0}
        try:
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
        durable.write_json(file, found)
    return durable.read_json(file)


def _seconds(run: Path) -> int:
    """The training time of a run, without its evaluations."""
    found = [
        record["seconds"] for record in read_whole(run / "metrics.jsonl") if "seconds" in record
    ]
    return math.ceil(found[-1])


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
            **{
                name: f"{answered[name].skills[number].share:.0%}" if name in answered else "-"
                for name in list(STAGES)[1:]
            },
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
