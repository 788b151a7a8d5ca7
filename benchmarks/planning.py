"""Does a run take the memory and the time that `homespun plan` predicts?

    python -m benchmarks.planning

For each configuration, a plan and a real run take turns. The memory is that of the plan's estimate against the peak of
real steps in a process of their own; the time of a step is that of the plan's probe against the run's.
"""

import contextlib
import itertools
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import tyro

from benchmarks import report
from homespun.cli.arguments import parse
from homespun.cli.commands import COMMANDS
from homespun.forecast.forecast import forecast
from homespun.records import reading

TEXT = "download --dataset stories --num-samples 2000"
COMMON = "--vocab-size 1024 --eval-tokens 500 --sample-prompts A --log-interval 1 --compile off"
BASE = "base"
"""The run whose model gets adapters."""
SKIPPED = 2
"""Steps at the beginning of a run whose time does not count."""

CONFIGURATIONS = (
    "--model-size pico --batch-size 8 --optimizer muon",
    "--model-size pico --batch-size 8 --grad-accumulation-steps 2",
    "--model-size nano --batch-size 4 --seq-len 1024 --optimizer muon",
    "--model-size mini --batch-size 4 --optimizer muon",
    "--model-size tiny --n-layers 4 --d-model 384 --batch-size 8 --gradient-checkpointing",
    "--model-size nano-moe --batch-size 8 --optimizer muon",
    f"--init-from {BASE} --lora-rank 16 --batch-size 8",
    "--engine mlx --model-size pico --batch-size 2 --optimizer muon",
)


def main(
    rounds: int = 3,
    steps: int = 12,
    seconds: float = 15.0,
    only: tuple[int, ...] = tuple(range(len(CONFIGURATIONS))),
) -> None:
    """Measure and save.

    Args:
        rounds: plans and runs of each configuration.
        steps: least steps of a run.
        seconds: least time of a run. Steps of some milliseconds are many, so that a short disturbance does not count.
        only: indices of the configurations to measure.
    """
    rows: list[report.Row] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        homespun(TEXT)
        homespun(f"train --model-size mini --max-steps 1 --checkpoint-dir {BASE} {COMMON}")
        for flags in (CONFIGURATIONS[number] for number in only):
            rows.append(compared(flags, rounds, steps, seconds))
            print(report.table(rows[-1:]), flush=True)
    report.save("planning", {"predicted and measured": rows})


def compared(flags: str, rounds: int, steps: int, seconds: float) -> report.Row:
    """A configuration's predictions beside its measurements."""
    words = f"train {flags} {COMMON} --max-steps {steps}"
    memory, predicted, taken = [], [], []
    estimate = 0
    for _ in range(rounds):
        plan = forecast(parse(COMMANDS["train"], shlex.split(words)[1:]), lambda text: None)
        enough = max(steps, round(seconds / plan.speed.seconds_per_step))
        homespun(f"train {flags} {COMMON} --max-steps {enough}")
        records = list(reading.read(Path("checkpoints/metrics.jsonl")))
        times = [record["seconds"] for record in records if "loss" in record]
        single = [later - one for one, later in itertools.pairwise(times)]
        estimate = plan.memory.total
        memory.append(plan.memory_measured or 0)
        predicted.append(plan.speed.seconds_per_step)
        taken.append(statistics.median(single[SKIPPED - 1 :]))
    ratios = [one / other for one, other in zip(predicted, taken, strict=True)]
    return {
        "flags": flags,
        "estimated MB": round(estimate / 1e6),
        "measured MB": round(statistics.median(memory) / 1e6),
        "memory ratio": round(estimate / statistics.median(memory), 2),
        "planned s/step": round(statistics.median(predicted), 3),
        "real s/step": round(statistics.median(taken), 3),
        "time ratio": round(statistics.median(ratios), 2),
        "least": round(min(ratios), 2),
        "most": round(max(ratios), 2),
    }


def homespun(words: str) -> None:
    """Run a command in this folder."""
    command = [sys.executable, "-m", "homespun", *shlex.split(words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    tyro.cli(main)
