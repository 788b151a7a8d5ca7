"""Dense models against mixtures of experts: at equal computation, at equal size, and in equal time.

    python -m benchmarks.mixture fairy_tales.txt

*Equal computation*: a token uses as many weights of the mixture as of the dense model, and both see the same tokens.
*Equal size*: the mixture has as many weights as the dense model in all, so a token uses fewer; both see the same
tokens. *Equal time*: the recipe for `--time-budget`, with and without `--experts`. Stories are made here; the prose is
the file. Each document belongs to one side, as in `benchmarks.prose`.
"""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks import report
from benchmarks.prose import scored, sides
from homespun.architectures.presets import preset
from homespun.stories import stories
from homespun.tokenizer import END_OF_TEXT

EXPERTS, PER_TOKEN = 8, 2
SETTINGS = """
    --seq-len 256 --batch-size 8 --optimizer muon --learning-rate 0.04 --muon-learning-rate 0.017
    --schedule linear --warmup-steps 10 --min-learning-rate-ratio 0 --beta2 0.99 --weight-decay 0.03
    --eval-interval 1000000 --sample-interval 1000000
"""
"""Those of the recipe, without its evaluations."""
DENSE = "dense"


def main(
    prose: Annotated[Path, tyro.conf.Positional],
    size: str = "nano",
    steps: int = 1500,
    budget: str = "10m",
    n_stories: int = 50_000,
    vocab_size: int = 4096,
    seeds: tuple[int, ...] = (0, 1, 2),
    save: bool = True,
) -> None:
    """Train and score every variant on both texts.

    Args:
        prose: a file of prose.
        size: the preset of the dense model at equal computation and equal size.
        steps: steps of 2,048 tokens there.
        budget: the time of a run at equal time.
        n_stories: stories to train on and to score on.
        vocab_size: vocabulary of the runs of both texts.
        seeds: seeds of the runs.
        save: write the results into `results/`.
    """
    fixed = f"--model-size {size} --max-steps {steps} {SETTINGS}"
    variants = {
        "equal computation": {
            DENSE: fixed,
            "mixture": f"{fixed} {_experts(size, PER_TOKEN)}",
        },
        "equal size": {
            DENSE: fixed,
            "mixture": f"{fixed} {_experts(size, EXPERTS)}",
        },
        "equal time": {
            DENSE: f"--time-budget {budget}",
            "mixture": f"--time-budget {budget} --experts {EXPERTS}",
        },
    }
    tables: dict[str, list[report.Row]] = {}
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "stories.txt"
        told.write_text(f"\n{END_OF_TEXT}\n".join(stories(n_stories, seed=0)), encoding="utf-8")
        for text, path in (("stories", told), ("prose", prose)):
            learned, held_out = sides(path, tune=False)
            known: dict[str, list[report.Row]] = {}  # the dense model at equal size is trained once
            for comparison, flags in variants.items():
                tables[f"{text}, {comparison}"] = _compared(
                    flags, learned, held_out, vocab_size, seeds, known
                )
    if save:
        report.save("mixture", tables)
    else:
        print(report.rendered(tables))


def _experts(size: str, divided_by: int) -> str:
    """The flags of experts that are as wide as a part of the dense feed-forward layer."""
    return (
        f"--experts {EXPERTS} --experts-per-token {PER_TOKEN} "
        f"--d-expert {preset(size).d_ff // divided_by}"
    )


def _compared(
    variants: Mapping[str, str],
    learned: Sequence[str],
    held_out: Sequence[str],
    vocab_size: int,
    seeds: Sequence[int],
    known: dict[str, list[report.Row]],
) -> list[report.Row]:
    """A row for each variant: the mean and the range of the loss over the seeds."""
    rows: list[report.Row] = []
    for name, flags in variants.items():
        if flags not in known:
            command = f"{flags} --vocab-size {vocab_size}"
            known[flags] = [scored(learned, held_out, command, seed) for seed in seeds]
        losses = [float(run["nats/token"]) for run in known[flags]]
        first = known[flags][0]
        rows.append(
            {
                "model": name,
                "M parameters": first["M parameters"],
                "M used by a token": first["M used by a token"],
                "mean nats/token": round(statistics.mean(losses), 4),
                "least": min(losses),
                "most": max(losses),
                "seconds": round(statistics.median(float(r["seconds"]) for r in known[flags])),
            }
        )
    return rows


if __name__ == "__main__":
    tyro.cli(main)
