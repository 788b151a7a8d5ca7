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
from homespun.config import BUILT_IN_PAIRS, EvalConfig, JudgeConfig
from homespun.errors import UserError
from homespun.evaluation.choices import ChoicesResult, evaluate_choices
from homespun.evaluation.storytelling import sampling_shown, told
from homespun.language_model import load


def main(run: Annotated[Path, tyro.conf.Positional], n_samples: int = 200) -> None:
    """Measure and save.

    Args:
        run: the folder of the run.
        n_samples: stories that each checkpoint writes.
    """
    config = JudgeConfig(num_samples=n_samples)
    files = [file for file in run.glob("checkpoint_step_*.npz") if ".state" not in file.name]
    models = tuple(map(str, sorted(files, key=step)))
    chosen = evaluate_choices(EvalConfig(models=models, choices=BUILT_IN_PAIRS), print)
    rows = [row(result, config) for result in chosen]
    agreement = spearman([one["choices"] for one in rows], [one["consistent"] for one in rows])
    report.save(
        "choices",
        {
            f"checkpoints of a run, {n_samples} stories at {sampling_shown(config)}": rows,
            "agreement": [{"checkpoints": len(rows), "Spearman": round(agreement, 3)}],
        },
    )


def step(file: Path) -> int:
    return int(file.name.split(".")[0].rpartition("_")[2])


def row(result: ChoicesResult, config: JudgeConfig) -> dict[str, float]:
    """Shares of right choices and of consistent stories of one checkpoint."""
    file = Path(result.model)
    try:
        stories = list(told(load(file), config))
        consistent = sum(story.verdict.consistent for story in stories) / len(stories)
    except UserError as error:  # a model that knows nothing yet
        print(error, flush=True)
        consistent = 0.0
    shares = {"choices": result.overall.share, "consistent": consistent}
    row = {"step": step(file), **{name: round(share, 3) for name, share in shares.items()}}
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
