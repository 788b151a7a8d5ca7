"""Loss over tokens of healthy runs, which `homespun report` draws behind the curves of a user's run.

    python -m benchmarks.reference_curves --prose fairy_tales.txt

Each run is made with the real command and ends at its own length. Its curve goes into
`homespun/reporting/reference.json`. A run whose curve is there already is not repeated.
"""

import json
import math
import shlex
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from benchmarks import report
from benchmarks.curves import SHAPES, both_texts, run_in
from homespun import durable
from homespun.architectures.families import count_parameters
from homespun.checkpoint.names import METRICS
from homespun.checkpoint.opening import open_weights
from homespun.data.documents import documents
from homespun.language_model import load
from homespun.records import reading
from homespun.reporting import reference

QWEN3 = "--architecture qwen3"
ADAMW = "--model-size pico"
"""The preset's settings in place of the recipe's: AdamW with its usual rate."""
FLAGS = (
    "--batch-size 8 --compile off --sample-interval 1000000 --log-interval 10 --eval-tokens 50000"
)
EVALUATIONS = 20


@dataclass(frozen=True)
class Case:
    """A run: the kind of text, the flags of the model, the vocabulary and the length."""

    text: str
    model: str
    vocab_size: int
    steps: int
    seed: int = 0

    @property
    def flags(self) -> str:
        return (
            f"{self.model} --vocab-size {self.vocab_size} --max-steps {self.steps} "
            f"--eval-interval {self.steps // EVALUATIONS} --seed {self.seed} {FLAGS}"
        )


CASES = (
    Case("prose", f"{SHAPES['pico']} {QWEN3}", 4096, 400),
    Case("stories", f"{SHAPES['pico']} {QWEN3}", 1024, 400),
    Case("prose", f"{SHAPES['pico']} {QWEN3}", 4096, 1000),
    Case("stories", f"{SHAPES['nano']} {QWEN3}", 1024, 400),
    Case("stories", ADAMW, 1024, 400),
    Case("prose", ADAMW, 4096, 400),
    Case("prose", f"{SHAPES['nano']} {QWEN3}", 4096, 400),
    Case("stories", f"{SHAPES['pico']} {QWEN3}", 1024, 1000),
)


def main(prose: Path, only: tuple[int, ...] = tuple(range(len(CASES)))) -> None:
    """Measure and save.

    Args:
        prose: a text of prose; the other text are the built-in stories.
        only: indices of the cases to measure.
    """
    known = {(curve.text, curve.run) for curve in reference.curves()}
    cases = [CASES[number] for number in only]
    if missing := [case for case in cases if (case.text, case.flags) not in known]:
        measure(missing, prose)
    shown: list[report.Row] = [
        {
            "text": curve.text,
            "optimizer": curve.optimizer,
            "M parameters": round(curve.parameters / 1e6, 2),
            "M tokens of text": round(curve.text_tokens / 1e6, 2),
            "M tokens seen": round(curve.tokens[-1] / 1e6, 2),
            "at a tenth": round(curve.at(curve.tokens[-1] / 10), 3),
            "at the half": round(curve.at(curve.tokens[-1] / 2), 3),
            "at the end": round(curve.bits_per_byte[-1], 3),
        }
        for curve in reference.curves()
    ]
    report.save("reference_curves", {"validation loss over tokens, bits per byte": shown})


def measure(cases: list[Case], prose: Path) -> None:
    """Add the curves of these runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = both_texts(folder, prose)
        for case in cases:
            curve = measured(case, texts[case.text], folder)
            write([*reference.curves(), curve])


def write(curves: list[reference.Curve]) -> None:
    """Write the file that the report reads."""
    rows = [asdict(curve) for curve in sorted(curves, key=lambda c: (c.text, c.run))]
    text = ",\n".join(json.dumps(row) for row in rows)
    durable.write(reference.FILE, f"[\n{text}\n]\n".encode())
    reference.curves.cache_clear()


def measured(case: Case, text: Path, folder: Path) -> reference.Curve:
    """Train with the real command."""
    words = ["homespun", "train", "--data-file", str(text), *shlex.split(case.flags)]
    run_in(words, folder)
    run = folder / "checkpoints"
    records = list(reading.read(run / METRICS))
    evaluations = [record for record in records if record.get("val_bits_per_byte")]
    resolved = open_weights(run).header["resolved"]
    model = load(run).config
    per_nat = evaluations[-1]["val_bits_per_byte"] / evaluations[-1]["val_loss"]
    n_bytes = sum(len(document.encode()) for document in documents(text))
    return reference.Curve(
        text=case.text,
        run=case.flags,
        compressed=round(reference.compressed(text), 4),
        optimizer=resolved["optimizer"],
        parameters=count_parameters(model) - model.vocab_size * model.d_model,
        text_tokens=round(0.9 * n_bytes * per_nat * math.log(2)),
        tokens=[record["tokens"] for record in evaluations],
        bits_per_byte=[round(record["val_bits_per_byte"], 4) for record in evaluations],
    )


if __name__ == "__main__":
    tyro.cli(main)
