"""Do choices and the judge rank the checkpoints of a run alike? Scores each checkpoint by both.

    python -m benchmarks.choices demo/checkpoints

Choices need no sampling and seconds. If they rank models as free stories do, they can stand for them. The run has to
keep its checkpoints, for example with `homespun train --max-steps 2670 --save-interval 267 --keep 10`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from benchmarks import report
from benchmarks.stories import choices
from homespun.config import JudgeConfig
from homespun.errors import UserError
from homespun.evaluation.storytelling import Tally, continued, sampling_shown, told
from homespun.language_model import load


def main(run: Annotated[Path, tyro.conf.Positional], n_samples: int = 200) -> None:
    """Measure and save.

    Args:
        run: the folder of the run.
        n_samples: stories that each checkpoint writes, and beginnings that it continues.
    """
    config = JudgeConfig(num_samples=n_samples)
    files = sorted(run.glob("checkpoint_step_*.npz"), key=step)
    rows = [scored(file, config) for file in files if not file.stem.endswith(".state")]
    names = [name for name in rows[0] if name not in ("step", "choices")]
    agreement = [
        {
            "choices and": name,
            "Spearman": round(
                spearman([row["choices"] for row in rows], [row[name] for row in rows]), 3
            ),
        }
        for name in names
    ]
    report.save("choices", {"checkpoints of a run": rows, "agreement": agreement})


def step(file: Path) -> int:
    return int(file.name.split(".")[0].rpartition("_")[2])


def scored(file: Path, config: JudgeConfig) -> dict[str, float]:
    """Shares of right choices, of consistent free stories, and of consistent stories with a given beginning."""
    model = load(file)
    row: dict[str, float] = {"step": step(file), "choices": float(choices(file)["all"])}
    try:
        stories = list(told(model, config))
        tally = Tally(len(stories), sum(story.verdict.consistent for story in stories))
        shares = {"free stories": tally.share}
        for column in continued(model, config):
            shares[f"beginnings, {column.settings}"] = column.overall.share
    except UserError as error:  # a model that knows nothing yet
        print(f"{file}: {error}", flush=True)
        own = f"beginnings, {sampling_shown(JudgeConfig(temperature=1, min_p=0))}"
        shares = {"free stories": 0.0, own: 0.0, f"beginnings, {sampling_shown(config)}": 0.0}
    row |= {name: round(share, 3) for name, share in shares.items()}
    print(report.table([row]), flush=True)
    return row


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The rank correlation of two sequences. Equal values share the mean of their ranks."""
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, from 0; equal values have the mean of their ranks."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


if __name__ == "__main__":
    tyro.cli(main)
