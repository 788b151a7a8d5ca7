"""Measures how much a model forgets while it learns to answer, by the share of its earlier text that is replayed.

    python -m benchmarks.replay BASE CHATS TEXT FOLDER

BASE is the folder of a run on TEXT. Each run learns from as many samples of the conversations CHATS; the larger the
share, the more samples of TEXT come on top. The loss is that of held-out answers, in nats per token; the bits per byte
are those of the part of TEXT that no run has read.

Runs stay in FOLDER. What is there already is used again, so the benchmark can be interrupted.
"""

from pathlib import Path
from typing import Annotated

import tyro

import homespun
from benchmarks import report
from homespun.records.reading import read_whole


def main(
    base: Annotated[Path, tyro.conf.Positional],
    chats: Annotated[Path, tyro.conf.Positional],
    text: Annotated[Path, tyro.conf.Positional],
    folder: Annotated[Path, tyro.conf.Positional],
    shares: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4),
    steps: int = 240,
    threads: int | None = None,
) -> None:
    """Train with each share, and measure.

    Args:
        base: the model that learns.
        chats: the conversations.
        text: the text that it has learned before.
        folder: for the runs.
        shares: of the samples; 0 is no replay.
        steps: of a run without replay; the others have more.
        threads: of the runs.
    """
    rows = [{"share": "the base", "steps": 0, "answers": "-", "bits/byte": _bits(base, text)}]
    for share in shares:
        run, total = folder / f"share-{share:g}", round(steps / (1 - share))
        if not (run / "training.png").exists():  # drawn at the end of a run
            homespun.train(
                init_from=str(base),
                data_file=str(chats),
                replay=str(text) if share else None,
                **({"replay_share": share} if share else {}),
                max_steps=total,
                eval_interval=total // 3,
                eval_tokens=3000,
                sample_interval=10 * total,
                checkpoint_dir=str(run),
                threads=threads,
            )
        answers = [r["val_loss"] for r in read_whole(run / "metrics.jsonl") if "val_loss" in r]
        rows.append(
            {
                "share": f"{share:g}",
                "steps": total,
                "answers": f"{answers[-1]:.3f}",
                "bits/byte": _bits(run, text),
            }
        )
        print(rows[-1], flush=True)
    report.save("replay", {f"after {steps} steps on conversations": rows})


def _bits(run: Path, text: Path) -> float:
    """Bits per byte of the held-out part of the text."""
    [read] = homespun.evaluate(
        models=[str(run)], data_file=str(text), max_tokens=20_000, precision="float32"
    )
    return round(read.bits_per_byte, 3)


if __name__ == "__main__":
    tyro.cli(main)
