"""Does `homespun tune` find what a full grid finds, for less? Does a rate carried over to a wider model hold?

    python -m benchmarks.tuning --folder FOLDER

All runs are on the built-in stories, with Muon; for AdamW see `benchmarks.rate_by_width`. A folder that is named again
goes on where it was, trials included. It takes about eight minutes of one processor.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import report
from homespun import durable
from homespun.tuning.transfer import WIDTH_POWER

STORIES = "download --dataset stories --num-samples 6000"
TOKENIZER = "tokenizer --vocab-size 512"
COMMON = (
    "--n-layers 2 --seq-len 64 --batch-size 8 --compile off --parallel 1 --eval-tokens 20000 --threads 1 "
    "--architecture qwen3"
)
SMALL, WIDE = 32, 128
"""Widths."""
RATES = "x0.25,x0.5,x1,x2,x4"
"""Learning rates for the question of the width, as factors on the recipe's. Every one runs to the end."""


@dataclass(frozen=True)
class Tune:
    """A tune, and its results."""

    name: str
    """Of its folder."""
    width: int
    flags: str

    def run(self, place: Path, steps: int) -> "Tune":
        """Run it, or go on with it."""
        shape = f"--d-model {self.width} --n-heads {self.width // 16} --d-ff {4 * self.width}"
        length = f"--max-steps {steps} --checkpoint-dir {self.name} --resume auto"
        homespun(f"tune {shape} {COMMON} {length} {self.flags}", place)
        return self

    def results(self, place: Path) -> dict[str, Any]:
        return durable.read_json(place / self.name / "results.json")


def main(folder: Path, steps: int = 320) -> None:
    """Measure and save.

    Args:
        folder: keeps text and tunes.
        steps: length of a whole run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer_model").exists():
        homespun(STORIES, folder)
        homespun(TOKENIZER, folder)
    tables = {"20 trials and the full grid": searched(folder, steps)}
    report.save("tuning", tables)  # a part is worth having
    tables[f"learning rates at widths {SMALL} and {WIDE}, muon"] = carried(folder, steps)
    report.save("tuning", tables)


def searched(place: Path, steps: int) -> list[report.Row]:
    """The cost of a search and its loss, beside those of all points of the grid."""
    rows: list[report.Row] = []
    for tune in (Tune("search", SMALL, ""), Tune("grid", SMALL, "--method grid")):
        found = tune.run(place, steps).results(place)
        best = min(
            (row for row in found["rows"] if row["state"] == "whole run"),
            key=lambda row: row["val_loss"],
        )
        trials = [row for row in found["rows"] if "seed" not in row["trial"]]
        rows.append(
            {
                "method": tune.name,
                "trials": len(trials),
                "whole runs": round(found["cost"], 2),
                "best rate of Muon": f"{best['muon_learning_rate']:g}",
                "batch": best["batch_size"],
                "loss": round(best["val_loss"], 4),
                "recipe": round(found["recipe_val_loss"], 4),
                "spread of seeds": round(found["spread"], 4),
            }
        )
    return rows


def carried(place: Path, steps: int) -> list[report.Row]:
    """The loss of each rate at both widths, that of the rate that was carried over, and the lowest of the tune that
    tries other rates around it, all with the decay that was carried over."""
    flags = "--optimizer muon"
    grid = f"{flags} --method grid --search learning_rate={RATES}"
    small = Tune("muon-small", SMALL, f"{grid} --spread-runs 0").run(place, steps)
    wide = Tune("muon-wide", WIDE, grid).run(place, steps)
    over = Tune(
        "muon-carried",
        WIDE,
        f"{flags} --transfer-from {small.name} --pruning off --spread-runs 0",
    ).run(place, steps)
    by_rate = {row["learning_rate"]: row for row in small.results(place)["rows"]}
    found = wide.results(place)
    whole = [row for row in found["rows"] if "seed" not in row["trial"]]
    best = min(row["val_loss"] for row in whole if row["val_loss"] is not None)
    rows: list[report.Row] = [
        {
            "rate of AdamW": f"{row['learning_rate']:g}",
            f"loss at {SMALL}": shown(by_rate[row["learning_rate"]]["val_loss"]),
            f"loss at {WIDE}": shown(row["val_loss"]),
            "above the best": shown(row["val_loss"], best),
        }
        for row in sorted(whole, key=lambda row: row["learning_rate"])
    ]
    rate = small.results(place)["best"]["learning_rate"] * (WIDE / SMALL) ** WIDTH_POWER["muon"]
    tried = [row for row in over.results(place)["rows"] if row["val_loss"] is not None]
    first = min(tried, key=lambda row: abs(row["learning_rate"] - rate))
    around = min(tried, key=lambda row: row["val_loss"])
    rows += [
        {
            "rate of AdamW": f"{name}: {row['learning_rate']:g}",
            f"loss at {SMALL}": "",
            f"loss at {WIDE}": shown(row["val_loss"]),
            "above the best": shown(row["val_loss"], best),
        }
        for name, row in (("carried over", first), ("best of its tune", around))
    ]
    spread = f"{found['spread']:.4f}"
    rows.append(
        {
            "rate of AdamW": "spread of seeds",
            f"loss at {SMALL}": "",
            f"loss at {WIDE}": spread,
            "above the best": "",
        }
    )
    return rows


def shown(loss: float | None, less: float = 0.0) -> str:
    return "failed" if loss is None else f"{loss - less:.4f}"


def homespun(words: str, place: Path) -> None:
    """Run a command in a folder."""
    subprocess.run([sys.executable, "-m", "homespun", *words.split()], cwd=place, check=True)


if __name__ == "__main__":
    tyro.cli(main)
