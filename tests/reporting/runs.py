"""Runs that are broken on purpose, healthy ones of several kinds, and the flags of each.

    python -m tests.reporting.runs FOLDER

makes all of them in a folder and writes their records to `tests/reporting/records/`, from which the fast tests take
them: the lines of `metrics.jsonl`, the settings, and the numbers of the training state.
"""

import json
import random
import shlex
import string
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from homespun.reporting.run_record import RunRecord, read_run
from homespun.stories import stories
from homespun.training.checkpointing.position import Position

MARK = "\n<|endoftext|>\n"
RECORDS = Path(__file__).parent / "records"

LEFT_OUT = {"loss_hex", "batch", "perplexity", "val_perplexity", "active_memory_bytes"}

SHAPE = "--n-layers 2 --d-model 64 --n-heads 2 --seq-len 64 --vocab-size 512 --batch-size 8"
ADAMW = f"{SHAPE} --model-size pico --compile off --threads 1 --engine torch"
GPT2 = (
    "--model-size pico --architecture gpt2 --n-layers 3 --d-model 96 --n-heads 3 --seq-len 64 --vocab-size 512 "
    "--batch-size 8 --compile off --threads 1 --engine torch"
)
RECIPE = f"{SHAPE} --compile off --threads 1 --engine torch"


TOO_HIGH = ("divergence", "no fall", "overshoot", "standstill", "not finite")
TOO_LOW = ("no fall", "slow fall")


@dataclass(frozen=True)
class Case:
    """A run: its text, its flags, and the causes of which the doctor has to name one."""

    text: str
    flags: str
    causes: tuple[str, ...] = ()
    """None for a healthy run."""
    after: str | None = None
    """The run from which it goes on."""


BROKEN = {
    "rate_x100": Case("stories", f"{ADAMW} --learning-rate 0.3 --max-steps 400", TOO_HIGH),
    "gpt2_rate_x100": Case("stories", f"{GPT2} --learning-rate 0.1 --max-steps 400", TOO_HIGH),
    "rate_x0.01": Case("stories", f"{ADAMW} --learning-rate 3e-5 --max-steps 400", TOO_LOW),
    "gpt2_rate_x0.01": Case("stories", f"{GPT2} --learning-rate 1e-5 --max-steps 400", TOO_LOW),
    "muon_rate_x0.01": Case(
        "stories",
        f"{RECIPE} --learning-rate 4e-4 --muon-learning-rate 1.7e-4 --max-steps 400",
        TOO_LOW,
    ),
    "many_epochs": Case("short", f"{RECIPE} --max-epochs 60 --eval-interval 20", ("overfitting",)),
    "random_stretch": Case("random_stretch", f"{RECIPE} --max-steps 300", ("bad text",)),
    "repeated_line": Case("repeated_line", f"{RECIPE} --max-steps 300", ("bad text",)),
    "always_clipped": Case(
        "stories",
        f"{ADAMW} --learning-rate 3e-3 --max-grad-norm 0.01 --max-steps 400",
        ("constant clipping",),
    ),
}
HEALTHY = {
    "adamw": Case("stories", f"{ADAMW} --learning-rate 3e-3 --max-steps 400"),
    "gpt2": Case("stories", f"{GPT2} --learning-rate 1e-3 --max-steps 400"),
    "muon": Case("stories", f"{RECIPE} --max-steps 400"),
    "mixture": Case("stories", f"{RECIPE} --experts 4 --max-steps 400"),
    "lora": Case(
        "other",
        "--lora-rank 4 --max-steps 150 --compile off --threads 1 --engine torch",
        after="muon",
    ),
    "short": Case("stories", f"{RECIPE} --max-steps 5 --log-interval 1"),
}
CASES = BROKEN | HEALTHY
BAD_TEXTS = ("random_stretch", "repeated_line")


def write_texts(folder: Path, number: int = 3000) -> None:
    """The texts of the cases, of so many stories."""
    told = list(stories(number, seed=3))
    whole, half = MARK.join(told), number // 2
    (folder / "stories.txt").write_text(whole)
    (folder / "other.txt").write_text(
        MARK.join(stories(600, seed=4)).replace("Once upon a time", "Long ago")
    )
    (folder / "short.txt").write_text(MARK.join(told[:18]))
    symbols = string.ascii_letters + string.digits + string.punctuation
    noise = "".join(random.Random(0).choices(symbols, k=len(whole) // 10))
    line = "Click here to read the rest of this story and many others.\n"
    repeated = line * (len(whole) // 10 // len(line))
    for name, stretch in (("random_stretch", noise), ("repeated_line", repeated)):
        (folder / f"{name}.txt").write_text(MARK.join([*told[:half], stretch, *told[half:]]))


def homespun(words: str, folder: Path) -> None:
    """Run the real command."""
    command = [sys.executable, "-m", "homespun", *shlex.split(words)]
    subprocess.run(command, cwd=folder, check=False, capture_output=True)


def make(name: str, folder: Path) -> Path:
    """Run a case; the folder of the run."""
    case, run = CASES[name], folder / name
    if case.after and not (folder / case.after).exists():
        make(case.after, folder)
    start = f"--init-from {case.after}" if case.after else f"--tokenizer-path tokenizer_{case.text}"
    if not case.after and not (folder / f"tokenizer_{case.text}").exists():
        homespun(
            f"tokenizer --data-file {case.text}.txt --vocab-size 512 --output-dir tokenizer_{case.text}",
            folder,
        )
    homespun(
        f"train --data-file {case.text}.txt {start} --checkpoint-dir {name} {case.flags}", folder
    )
    return run


def keep(name: str, run: RunRecord) -> None:
    """Write what a diagnosis needs of a run to the folder of records."""
    RECORDS.mkdir(exist_ok=True)
    header = {key: value for key, value in run.header.items() if key != "tokenizer"}
    records = [
        {key: _short(value) for key, value in record.items() if key not in LEFT_OUT}
        for record in run.records
    ]
    position = run.position.stored() if run.position else None
    if position:
        position["guard"]["recent"] = []
    kept = {"header": header, "position": position, "records": records}
    (RECORDS / f"{name}.json").write_text(json.dumps(kept, separators=(",", ":")) + "\n")


def kept(name: str, texts: Path) -> RunRecord:
    """A run as it was kept, with its text, which may be shorter than it was, in a folder of texts."""
    stored = json.loads((RECORDS / f"{name}.json").read_text())
    header = stored["header"] | {"data_file": str(texts / stored["header"]["data_file"])}
    del header["data_sha256"]
    position = Position.restored(stored["position"]) if stored["position"] else None
    return RunRecord(Path(name), tuple(stored["records"]), header, position)


def _short(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main(folder: Path, names: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    if not (folder / "stories.txt").exists():
        write_texts(folder)
    for name in names or list(CASES):
        print(name, flush=True)
        keep(name, read_run(make(name, folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
