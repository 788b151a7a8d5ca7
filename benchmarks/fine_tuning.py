"""Loss on one author's prose after the same time: of a trained model that goes on, fully or with LoRA, and a new one.

    python -m benchmarks.fine_tuning andersen.txt smollm2

One document in ten, chosen by hash, is held out, as in benchmarks/prose.py. The scores are bits per byte of the first
of these documents, in float32, over windows that do not overlap. The tokenizers differ, so losses per token do not
compare. The settings were chosen on other texts. The curves are the runs' own evaluations, on the beginning of that
held-out text.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import tyro

import homespun
from benchmarks import report
from benchmarks.prose import sides
from homespun.tokenizer import END_OF_TEXT

CONTEXT = 256
TOKENS = 16_000
"""Tokens that are scored at most, of the model with the smaller vocabulary; the others are scored on the same text."""
WAYS = {
    "a new model": "--eval-tokens 20000",
    "all weights": "--init-from {model}",
    "LoRA": "--init-from {model} --lora-rank 16",
}
"""Flags by way of training."""


def main(
    text: Annotated[Path, tyro.conf.Positional],
    model: Annotated[Path, tyro.conf.Positional],
    budget: str = "10m",
    seeds: tuple[int, ...] = (0,),
    picture: Path = Path("docs/fine-tuning.png"),
) -> None:
    """Train in each way, and score.

    Args:
        text: the prose, with documents between end-of-text marks.
        model: the trained model.
        budget: the time of each run.
        seeds: seeds of the runs.
        picture: the file for the curves.
    """
    learned, held_out = sides(text, tune=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Each run holds out the same documents itself, for its evaluations.
        (folder / "text.txt").write_text(_joined([*learned, *held_out]), encoding="utf-8")
        (folder / "held_out.txt").write_text(_joined(held_out), encoding="utf-8")
        runs = {}
        for way, flags in WAYS.items():
            for seed in seeds:
                runs[way, seed] = folder / f"{len(runs)}"
                words = shlex.split(flags.format(model=shlex.quote(str(model.resolve()))))
                given = ["--data-file", "text.txt", "--time-budget", budget, "--seed", str(seed)]
                command = ["train", *given, *words, "--checkpoint-dir", runs[way, seed].name]
                print("$ homespun", shlex.join(command), flush=True)
                arguments = [sys.executable, "-m", "homespun", *command]
                subprocess.run(arguments, cwd=folder, check=True)
        results = homespun.evaluate(
            models=[str(path) for path in (model, *runs.values())],
            data_file=str(folder / "held_out.txt"),
            max_tokens=TOKENS,
            seq_len=CONTEXT,
            precision="float32",
        )
        labels = [("the trained model", ""), *((way, str(seed)) for way, seed in runs)]
        rows: list[report.Row] = [
            {
                "of": way,
                "seed": seed,
                "tokens": result.n_tokens,
                "bits/byte": round(result.bits_per_byte, 4),
            }
            for (way, seed), result in zip(labels, results, strict=True)
        ]
        curves: list[report.Row] = [
            {"of": way, "seed": seed, **point}
            for (way, seed), path in runs.items()
            for point in _curve(path)
        ]
    report.save("fine_tuning", {f"{budget} each": rows, "curves": curves})
    draw(curves, picture)


def _joined(documents: list[str]) -> str:
    return f"\n{END_OF_TEXT}\n".join(documents)


def _curve(run: Path) -> list[dict[str, float]]:
    """Bits per byte of a run's own evaluations, with the minutes of training before each."""
    points, seconds = [], 0.0
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record: dict[str, Any] = json.loads(line)
        seconds = record.get("seconds", seconds)
        if "val_bits_per_byte" in record:
            minutes, bits = round(seconds / 60, 2), round(record["val_bits_per_byte"], 4)
            points.append({"minutes": minutes, "bits/byte": bits})
    return points


def draw(curves: list[report.Row], picture: Path) -> None:
    """Draw the curves; those that go on begin with the trained model."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for number, way in enumerate(WAYS):
        for seed in sorted({row["seed"] for row in curves if row["of"] == way}):
            own = [row for row in curves if (row["of"], row["seed"]) == (way, seed)]
            axes.plot(
                [row["minutes"] for row in own],
                [row["bits/byte"] for row in own],
                color=f"C{number}",
                marker=".",
                label=way if seed == min(row["seed"] for row in curves) else None,
            )
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("bits per byte of held-out text")
    axes.legend()
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    tyro.cli(main)
