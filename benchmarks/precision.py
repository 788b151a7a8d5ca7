"""How does bfloat16 change the loss? The same run in float32 and in bfloat16, with several seeds.

    python -m benchmarks.precision

Uses the recipe's settings for its smallest model, on built-in stories. The loss is the validation loss after the last
step, in the precision of the run.
"""

import shlex
import statistics
import tempfile
import time
from pathlib import Path

import tyro

from benchmarks import report
from benchmarks.stories import homespun
from homespun.records import reading

DATA = ("download --dataset stories --num-samples 4000", "tokenizer --vocab-size 1024")
RUN = """
    train --model-size pico --batch-size 4 --compile off
    --optimizer muon --muon-learning-rate 0.012 --learning-rate 0.04 --beta2 0.99 --weight-decay 0.01
    --schedule linear --warmup-steps 10 --min-learning-rate-ratio 0
    --eval-interval 1000000 --sample-interval 1000000
"""
PRECISIONS = ("float32", "bfloat16")


def main(seeds: tuple[int, ...] = (0, 1, 2), steps: int = 300, train_flags: str = "") -> None:
    """Measure and save.

    Args:
        seeds: seeds of the runs.
        steps: steps of a run, of 1,024 tokens each.
        train_flags: more flags for `homespun train`.
    """
    runs: list[report.Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for line in DATA:
            homespun(shlex.split(line), folder)
        for seed in seeds:
            for precision in PRECISIONS:
                given = f"--max-steps {steps} --precision {precision} --seed {seed} {train_flags}"
                start = time.perf_counter()
                homespun(shlex.split(f"{RUN} {given}"), folder)
                seconds = time.perf_counter() - start
                records = reading.read(folder / "checkpoints/metrics.jsonl")
                [loss] = [record["val_loss"] for record in records if "val_loss" in record]
                runs.append(
                    {
                        "precision": precision,
                        "seed": seed,
                        "val loss": round(loss, 4),
                        "seconds": round(seconds),
                    }
                )
                print(report.table(runs[-1:]), flush=True)
    report.save("precision", {"over the seeds": summary(runs), f"{steps} steps": runs})


def summary(runs: list[report.Row]) -> list[report.Row]:
    """Mean and range of the loss in each precision, and the difference between runs of equal seed."""
    losses = {
        precision: [float(run["val loss"]) for run in runs if run["precision"] == precision]
        for precision in PRECISIONS
    }
    losses["bfloat16 - float32"] = [
        narrow - full for full, narrow in zip(*losses.values(), strict=True)
    ]
    return [
        {
            "val loss": name,
            "mean": round(statistics.mean(figures), 4),
            "least": round(min(figures), 4),
            "most": round(max(figures), 4),
        }
        for name, figures in losses.items()
    ]


if __name__ == "__main__":
    tyro.cli(main)
