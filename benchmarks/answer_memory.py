"""Does a run that learns from answers take the memory that `homespun plan` predicts?

    python -m benchmarks.answer_memory

Each run takes two steps in a process of its own. Its peak, above that of a process that has trained a tiny model, is
compared with the estimate. A reward adds the initial model and the writing of answers; preferences add neither. Where a
step has two updates, each learns from half of the groups.
"""

import contextlib
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import tyro

from benchmarks import report
from homespun.architectures.presets import PRESETS
from homespun.cli.arguments import parse
from homespun.cli.commands import COMMANDS
from homespun.engine import probe
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.forecast import speed
from homespun.forecast.forecast import forecast
from homespun.records import reading

BASE = "base"
"""The run whose model goes on."""
PREPARATION = (
    "download --dataset stories --num-samples 1000 --plain",
    f"train --model-size mini --vocab-size 1024 --max-steps 1 --checkpoint-dir {BASE}",
    "download --dataset stories-questions --plain --questions 1 --num-samples 100 --output questions.jsonl",
)
COMMON = (
    f"--init-from {BASE} --max-steps 2 --log-interval 1 --eval-tokens 300 --sample-prompts A --compile off "
    "--precision bfloat16"
)
QUESTIONS = "--data-file questions.jsonl --reward mine.py:length --answer-tokens 24 --grad-accumulation-steps 1"
CONFIGURATIONS = (
    f"{QUESTIONS} --group-size 8 --batch-size 16",
    f"{QUESTIONS} --group-size 8 --batch-size 16 --updates 1",
    f"{QUESTIONS} --group-size 8 --batch-size 16 --kl-factor 0",
    f"{QUESTIONS} --group-size 2 --batch-size 2",
    f"{QUESTIONS} --group-size 2 --batch-size 2 --lora-rank 8",
    "--preferences pairs.jsonl --batch-size 16",
)
REWARD = "def length(prompt, answers):\n    return [len(answer) for answer in answers]\n"
"""A reward that tells the answers of a new model apart. Groups with equal scores would cost no update."""
BARE = "from benchmarks.answer_memory import bare; print(bare())"


def main() -> None:
    """Measure and save."""
    rows: list[report.Row] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for words in PREPARATION:
            homespun(words)
        write_pairs()
        Path("mine.py").write_text(REWARD, encoding="utf-8")
        peak = int(output("-c", BARE))
        for flags in CONFIGURATIONS:
            rows.append(compared(flags, peak))
            print(report.table(rows[-1:]), flush=True)
    report.save("answer_memory", {"a run that learns from answers": rows})


def compared(flags: str, bare_peak: int) -> report.Row:
    """The estimate of a run beside its peak."""
    words = f"train {flags} {COMMON}"
    settings = parse(COMMANDS["train"], shlex.split(words)[1:])
    with (  # only the estimate counts
        mock.patch.object(speed, "probe", side_effect=probe.ProbeFailed),
        mock.patch.object(speed, "probe_decoding", side_effect=probe.ProbeFailed),
    ):
        memory = forecast(settings, lambda text: None).memory
    homespun(words)
    lines = reading.read(Path("checkpoints/metrics.jsonl"))
    measured = max(line.get("memory_bytes", 0) for line in lines) - bare_peak
    return {
        "flags": flags,
        "initial model MB": round(memory.initial_model / 1e6),
        "estimated MB": round(memory.total / 1e6),
        "measured MB": round(measured / 1e6),
        "memory ratio": round(memory.total / measured, 2),
    }


def write_pairs() -> None:
    """Pairs of answers to the questions."""
    questions = map(json.loads, Path("questions.jsonl").read_text(encoding="utf-8").splitlines())
    lines = [
        json.dumps({"prompt": one["messages"][0]["content"], "chosen": "Anna.", "rejected": "Tim."})
        for one in questions
    ]
    Path("pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def bare() -> int:
    """Peak bytes of this process after a step of a tiny model."""
    import homespun.training.train  # noqa: F401 - as a run has it

    options = EngineOptions(
        optimizer=OptimizerSettings(
            "adamw", weight_decay=0.0, beta1=0.9, beta2=0.99, max_grad_norm=1.0
        ),
        precision="bfloat16",
    )
    return probe._peak(probe._trained_a_little(PRESETS["mini"], options, "auto"))


def output(*words: str) -> str:
    """The output of a Python process."""
    command = [sys.executable, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def homespun(words: str) -> None:
    """Run a command in this folder."""
    output("-m", "homespun", *shlex.split(words))


if __name__ == "__main__":
    tyro.cli(main)
