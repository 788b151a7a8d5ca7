"""Final losses of the recipe by model, length and text, from which `homespun plan` expects the loss of a run.

    python -m benchmarks.curves --prose fairy_tales.txt

Each run decays its learning rate to zero at its own end, so that each gives one point. The points go into
`homespun/planning/curves.json` as well. A run whose point is there already is not repeated.
"""

import json
import math
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from benchmarks import report
from homespun import durable
from homespun.architectures.families import count_parameters
from homespun.architectures.presets import preset, shaped
from homespun.data.corpus import survey
from homespun.data.sizing import compressed_bits_per_byte
from homespun.language_model import load
from homespun.planning import curves
from homespun.records import reading

STORIES = "download --dataset stories --num-samples 50000 --plain"
SHAPES = {
    "pico": "--n-layers 2 --d-model 192 --n-heads 6 --d-ff 256",
    "nano": "--n-layers 4 --d-model 256 --n-heads 4",
}
FLAGS = "--architecture qwen3 --batch-size 8 --compile off --sample-interval 1000000 --eval-interval 1000000"


@dataclass(frozen=True)
class Case:
    """A run: the kind of text, the shape, the vocabulary and the length."""

    text: str
    shape: str
    vocab_size: int
    steps: int
    seed: int = 0

    @property
    def flags(self) -> str:
        return (
            f"{SHAPES[self.shape]} --vocab-size {self.vocab_size} --max-steps {self.steps} "
            f"--seed {self.seed} {FLAGS}"
        )


CASES = (
    Case("prose", "pico", 4096, 100),
    Case("prose", "pico", 4096, 200),
    Case("prose", "pico", 4096, 400),
    Case("prose", "pico", 4096, 800),
    Case("prose", "nano", 4096, 400),
    Case("stories", "pico", 1024, 100),
    Case("stories", "pico", 1024, 200),
    Case("stories", "pico", 1024, 400),
    Case("stories", "nano", 1024, 400),
    Case("prose", "nano", 4096, 800),
    Case("stories", "pico", 1024, 1000),
    Case("stories", "nano", 1024, 1000),
)


def demo_points() -> list[curves.Point]:
    """The points of the demo's runs (benchmarks/stories.py), which has the recipe's model and settings."""
    model = shaped(preset("pico"), {"vocab_size": 1024, "seq_len": 256})
    found = report.committed()["storytelling"]["tables"]["training"]
    return [
        curves.Point(
            text="stories",
            run=f"the demo, seed {row['seed']}",
            compressed=next(p.compressed for p in curves.points() if p.text == "stories"),
            parameters=count_parameters(model) - model.vocab_size * model.d_model,
            text_tokens=row["text tokens"],
            tokens=row["tokens"],
            bits_per_byte=row["bits/byte"],
            bytes_per_token=bytes_per_token(row["val loss"], row["bits/byte"]),
        )
        for row in found
    ]


def main(prose: Path, only: tuple[int, ...] = tuple(range(len(CASES)))) -> None:
    """Measure and save.

    Args:
        prose: a text of prose; the other text are the built-in stories.
        only: indices of the cases to measure.
    """
    known = {(p.text, p.run) for p in curves.points()}
    cases = [CASES[number] for number in only]
    if missing := [case for case in cases if (case.text, case.flags) not in known]:
        measure(missing, prose)
    earlier = demo_points()
    known = {point.run for point in earlier}
    write([*earlier, *(point for point in curves.points() if point.run not in known)])
    report.save("curves", {"final loss of the recipe": list(map(shown, curves.points()))})


def shown(point: curves.Point) -> report.Row:
    """A measured loss beside that of the law through all points, and that of the law through the others."""
    whole, others = curves.law(point.text), curves.law(point.text, without=point)
    return {
        "text": point.text,
        "M parameters": round(point.parameters / 1e6, 2),
        "M tokens of text": round(point.text_tokens / 1e6, 2),
        "M tokens seen": round(point.tokens / 1e6, 2),
        "bits/byte": round(point.bits_per_byte, 4),
        "by the law": round(whole.bits_per_byte(point), 4),
        "off, nats": off(whole, point),
        "by the others": round(others.bits_per_byte(point), 4),
        "others off, nats": off(others, point),
    }


def off(law: curves.Law, point: curves.Point) -> float:
    """The error of a prediction, in nats per token."""
    error = law.bits_per_byte(point) - point.bits_per_byte
    return round(curves.nats(error, point.bytes_per_token), 3)


def measure(cases: list[Case], prose: Path) -> None:
    """Add the points of these runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = both_texts(folder, prose)
        for case in cases:
            write([*curves.points(), measured(case, texts[case.text], folder)])


def write(points: list[curves.Point]) -> None:
    """Write the file from which plans are made."""
    rows = [asdict(point) for point in sorted(points, key=lambda p: (p.text, p.run))]
    durable.write(curves.FILE, (json.dumps(rows, indent=1) + "\n").encode())
    curves.points.cache_clear()


def measured(case: Case, text: Path, folder: Path) -> curves.Point:
    """Train with the real command."""
    words = ["homespun", "train", "--data-file", str(text), *shlex.split(case.flags)]
    run_in(words, folder)
    records = list(reading.read(folder / "checkpoints/metrics.jsonl"))
    last = [record for record in records if record.get("val_bits_per_byte")][-1]
    model = load(folder / "checkpoints").config
    corpus = survey(text)
    per_token = bytes_per_token(last["val_loss"], last["val_bits_per_byte"])
    return curves.Point(
        text=case.text,
        run=case.flags,
        compressed=compressed_bits_per_byte(corpus),
        parameters=count_parameters(model) - model.vocab_size * model.d_model,
        text_tokens=round((corpus.n_bytes - corpus.validation_bytes) / per_token),
        tokens=last["tokens"],
        bits_per_byte=last["val_bits_per_byte"],
        bytes_per_token=per_token,
    )


def bytes_per_token(loss: float, bits_per_byte: float) -> float:
    """Of the text on which both were measured; the loss in nats per token."""
    return loss / math.log(2) / bits_per_byte


def both_texts(folder: Path, prose: Path) -> dict[str, Path]:
    """Write the stories into a folder. Returns the texts by their kind."""
    run_in(shlex.split(f"homespun {STORIES}"), folder)
    return {"stories": folder / "data/stories_50000.txt", "prose": prose.resolve()}


def run_in(words: list[str], folder: Path) -> None:
    """Run a command in a folder, and show it."""
    print("$", shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", *words], cwd=folder, check=True)


if __name__ == "__main__":
    tyro.cli(main)
