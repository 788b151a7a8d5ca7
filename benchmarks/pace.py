"""Overheads of a real training run: time to its first step, waiting for data, and memory.

    python -m benchmarks.pace

Trains the smallest preset, whose steps are the shortest, so that overheads weigh most, on the demo's stories or a given
text. The first run also trains the tokenizer and tokenizes the text; later runs reuse both. A step is done when its
line is printed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks import report
from benchmarks.stories import demo, homespun
from homespun.records import reading

RUN = "train --model-size pico --batch-size 4 --log-interval 1"
"""A model of 3 layers of width 192, with 1,024 tokens per step."""

TIMED = """
import sys, time
from homespun.cli.main import main
from homespun.data.samples import Batches

waited = 0.0
microbatches = Batches.microbatches

def timed(*arguments):
    global waited
    start = time.perf_counter()
    batches = microbatches(*arguments)
    waited += time.perf_counter() - start
    return batches

Batches.microbatches = timed
status = main(sys.argv[1:])
print("waited", waited)
sys.exit(status)
"""
"""Program that runs `homespun` and then prints the seconds that its steps waited for data."""


@dataclass(frozen=True)
class Observed:
    """Measurements of a run, from outside and from its own output."""

    seconds_to_first_step: float
    megabytes: dict[int, int]
    """Resident memory of the process after each step."""
    share_waited: float
    """Fraction of the time of all steps that was spent waiting for data."""


def main(
    text: Annotated[Path | None, tyro.conf.Positional] = None,
    runs: int = 3,
    steps: int = 1100,
    download_flags: str = "",
    train_flags: str = "",
) -> None:
    """Measure and save.

    Args:
        text: the training text; by default the demo's stories.
        runs: number of runs, each in its own folder.
        steps: steps of a run.
        download_flags: more flags for the demo's `homespun download`.
        train_flags: more flags for `homespun train`.
    """
    words = [*shlex.split(RUN), "--max-steps", str(steps), *shlex.split(train_flags)]
    watched = [steps * part // 11 for part in (1, 4, 7, 10, 11)]
    rows: list[report.Row] = []
    for run in range(runs):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if text:
                shutil.copy(text, folder / "text.txt")
                homespun(["download", "--dataset", "text.txt"], folder)
            else:
                homespun([*demo()[0], *shlex.split(download_flags)], folder)
            first = observed([*words, "--max-steps", "1"], folder)
            second = observed(words, folder)
        rows.append(
            {
                "run": run,
                "s to first step": round(first.seconds_to_first_step, 1),
                "next time": round(second.seconds_to_first_step, 1),
                "% waiting": round(100 * second.share_waited, 2),
                **{f"MB at {step:,}": second.megabytes[step] for step in watched},
            }
        )
    report.save("pace", {f"homespun {shlex.join(words)}": rows})


def observed(words: list[str], folder: Path) -> Observed:
    """Run a training command in a folder and measure it."""
    print("$ homespun", shlex.join(words), flush=True)
    step_done: dict[int, float] = {}
    megabytes: dict[int, int] = {}
    waited = 0.0
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", TIMED, *words], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if match := re.match(r"step\s+([\d,]+)\S*\s+loss", line):
                step = int(match[1].replace(",", ""))
                step_done[step] = time.perf_counter() - start
                megabytes[step] = _resident_megabytes(process.pid)
            elif line.startswith("waited"):
                waited = float(line.split()[1])
    if process.returncode:
        raise SystemExit(f"homespun {shlex.join(words)} failed")
    *_, last = (r for r in reading.read(folder / "checkpoints/metrics.jsonl") if "loss" in r)
    return Observed(step_done[1], megabytes, waited / last["seconds"])


def _resident_megabytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


if __name__ == "__main__":
    tyro.cli(main)
