"""By which power of the width does the best learning rate of AdamW fall?

    python -m benchmarks.rate_by_width fairy_tales.txt --folder FOLDER

Small models of three widths learn the built-in stories and a given text at several rates, with three seeds each. For
each width, a parabola through the losses over the logarithm of the rate has its lowest point at the best rate. A line
through the logarithms of these best rates has the power as its slope. `homespun tune --transfer-from` uses the power of
the stories; the given text checks it. *Carried* is the best rate of the least width, carried over by the power that the
command uses. *Above the best* is the loss there minus the lowest loss, both by the parabola.

A folder that is named again goes on where it was. It takes about 25 minutes of one processor.
"""

import math
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks import report
from benchmarks.tuning import COMMON, STORIES, TOKENIZER, homespun
from homespun.records.reading import read_whole
from homespun.tuning.transfer import WIDTH_POWER

RATES = {
    32: (0.008, 0.0113, 0.016, 0.0226, 0.032),
    64: (0.0057, 0.008, 0.0113, 0.016, 0.0226),
    128: (0.0028, 0.004, 0.0057, 0.008, 0.0113),
}
"""By width, around the best one."""
TEXT = "text.txt"
"""The text of a folder."""


def main(
    text: Annotated[Path, tyro.conf.Positional],
    folder: Path,
    steps: int = 320,
    seeds: tuple[int, ...] = (0, 1, 2),
) -> None:
    """Measure and save.

    Args:
        text: on which the power is checked.
        folder: keeps text and runs.
        steps: length of a run.
        seeds: of the runs.
    """
    tables: dict[str, list[report.Row]] = {}
    for name in ("stories", "prose"):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "tokenizer_model").exists():
            if name == "stories":
                homespun(f"{STORIES} --output {TEXT}", place)
            else:
                shutil.copy(text, place / TEXT)
            homespun(f"{TOKENIZER} --data-file {TEXT}", place)
        losses: list[report.Row] = []
        parabolas: dict[int, Parabola] = {}
        for width, rates in RATES.items():
            found = {rate: [loss(place, width, rate, steps, s) for s in seeds] for rate in rates}
            parabolas[width] = Parabola.through(found)
            losses += [
                {
                    "width": str(width),
                    "rate": f"{rate:g}",
                    "loss": round(statistics.mean(each), 4),
                    "lowest": round(min(each), 4),
                    "highest": round(max(each), 4),
                }
                for rate, each in found.items()
            ]
        best = {width: parabola.rate for width, parabola in parabolas.items()}
        power = float(np.polyfit(np.log(list(best)), np.log(list(best.values())), 1)[0])
        tables[f"{name}, losses of {len(seeds)} seeds"] = losses
        least, rule = min(best), WIDTH_POWER["adamw"]
        carried = {width: best[least] * (width / least) ** rule for width in best}
        tables[f"{name}, best rates"] = [
            *(
                {
                    "width": str(width),
                    "best rate": f"{rate:.4f}",
                    "carried": f"{carried[width]:.4f}",
                    "above the best": f"{parabolas[width].above(carried[width]):.4f}",
                }
                for width, rate in best.items()
            ),
            {
                "width": "power",
                "best rate": f"{power:.2f}",
                "carried": f"{rule:g}",
                "above the best": "",
            },
        ]
    report.save("rate_by_width", tables)


def loss(place: Path, width: int, rate: float, steps: int, seed: int) -> float:
    """The validation loss at the end of a run, in nats per token."""
    name = f"w{width}-r{rate:g}-s{seed}"
    shape = f"--d-model {width} --n-heads {width // 16} --d-ff {4 * width}"
    run = f"--optimizer adamw --learning-rate {rate:g} --max-steps {steps} --seed {seed}"
    if not (found := evaluated(place / name)) or found[-1]["step"] < steps:
        words = COMMON.replace("--parallel 1 ", "") + f" --checkpoint-dir {name} --resume auto"
        homespun(f"train --data-file {TEXT} {shape} {words} {run}", place)
        found = evaluated(place / name)
    assert found[-1]["step"] == steps, f"{place / name} was trained for another number of steps"
    return float(found[-1]["val_loss"])


def evaluated(run: Path) -> list[dict[str, Any]]:
    """The evaluations of a run, if there are any."""
    path = run / "metrics.jsonl"
    return [r for r in read_whole(path) if "val_loss" in r] if path.exists() else []


@dataclass(frozen=True)
class Parabola:
    """The loss over the logarithm of the rate."""

    rate: float
    """At which the loss is lowest."""
    bend: float

    @classmethod
    def through(cls, losses: dict[float, list[float]]) -> "Parabola":
        """The parabola nearest to all losses."""
        points = [(math.log(rate), one) for rate, each in losses.items() for one in each]
        bend, slope, _ = np.polyfit(*zip(*points, strict=True), 2)
        rate = math.exp(-slope / (2 * bend))
        assert bend > 0, "the losses have no lowest point"
        assert min(losses) < rate < max(losses), "the best rate is at the edge: add other rates"
        return cls(rate, float(bend))

    def above(self, rate: float) -> float:
        """The loss at a rate, above the lowest one, in nats."""
        return self.bend * math.log(rate / self.rate) ** 2


if __name__ == "__main__":
    tyro.cli(main)
