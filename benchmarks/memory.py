"""Does a large step take the memory that is predicted? Measured on a CPU, above the process without the model.

    python -m benchmarks.memory

Each shape runs in its own process, since the peak memory of a process never falls. The process first loads the
framework and trains a tiny model, then the measured model, for two steps. The parent process must stay small: on Linux
the peak of a new process starts at the memory of its parent.
"""

import multiprocessing
import resource
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection

import tyro

from benchmarks import report
from benchmarks.models import RATES, random_tokens, trainable
from homespun.architectures.families import count_parameters
from homespun.architectures.presets import preset, shaped
from homespun.config import ModelConfig
from homespun.data.batch import Batch
from homespun.engine.traits import torch_on_cpu
from homespun.planning.estimate import Computing, training_memory

STEPS = 2


@dataclass(frozen=True)
class Case:
    """A model shape and its training settings."""

    size: str
    batch_size: int
    seq_len: int = 256
    vocab_size: int = 50257
    n_layers: int | None = None
    d_model: int | None = None
    optimizer: str = "adamw"
    precision: str = "bfloat16"
    checkpointing: bool = False
    low_memory: bool = False

    @property
    def model(self) -> ModelConfig:
        """The preset with this case's sizes and heads of 64 channels."""
        names = ("seq_len", "vocab_size", "n_layers", "d_model")
        return shaped(preset(self.size), {name: getattr(self, name) for name in names})

    def estimate(self) -> int:
        """The estimate in bytes that `homespun models` shows."""
        traits = torch_on_cpu(self.precision == "bfloat16", self.seq_len)
        computing = Computing(
            self.optimizer, traits, self.checkpointing, masked=False, low_memory=self.low_memory
        )
        return training_memory(self.model, self.batch_size, computing).total


SMALLEST = Case("tiny", 8, vocab_size=8000, n_layers=6, d_model=384)
CASES = (
    SMALLEST,
    Case("tiny", 8, vocab_size=8000, n_layers=6, d_model=384, precision="float32"),
    Case("tiny", 16, optimizer="muon"),
    Case("tiny", 8, vocab_size=8000, n_layers=12, d_model=576, precision="float32"),
    Case("small", 16, vocab_size=8000),
    Case("small", 16, optimizer="muon", precision="float32"),
    Case("gpt2-small", 4, seq_len=512),
    Case("gpt2-small", 8, seq_len=1024, checkpointing=True),
    Case("gpt2-medium", 1, seq_len=512, optimizer="muon"),
    Case("nano-moe", 8),
    Case("nano-moe", 8, optimizer="muon", checkpointing=True),
    Case("mini-moe", 8, optimizer="muon"),
    Case("mini-moe", 8, checkpointing=True),
)


def main(only: tuple[int, ...] = tuple(range(len(CASES)))) -> None:
    """Measure and save.

    Args:
        only: indices of the cases to measure.
    """
    rows: list[report.Row] = []
    for case in (CASES[number] for number in only):
        measured, estimate = above_the_process(case), case.estimate()
        rows.append(
            {
                "model": f"{case.model.architecture} {case.model.n_layers} x {case.model.d_model}",
                "M parameters": round(count_parameters(case.model) / 1e6, 1),
                "tokens": f"{case.batch_size} x {case.seq_len}",
                "optimizer": case.optimizer,
                "precision": case.precision + (", checkpointing" if case.checkpointing else ""),
                "measured MB": round(measured / 1e6),
                "estimated MB": round(estimate / 1e6),
                "estimated / measured": round(estimate / measured, 3),
            }
        )
        print(report.table(rows[-1:]), flush=True)
    report.save("memory", {"a training step": rows})


def above_the_process(case: Case) -> int:
    """Peak bytes of some steps in a new process, above its peak before the model."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(theirs, case))
    process.start()
    theirs.close()
    measured = int(ours.recv())
    process.join()
    return measured


def _measure(connection: Connection, case: Case) -> None:
    """Train a tiny model to load the framework, then train the measured model."""
    warm = Case(
        "pico",
        1,
        seq_len=8,
        vocab_size=257,
        optimizer=case.optimizer,
        low_memory=case.low_memory,
    )
    before = _peak_after_training(warm)
    connection.send(_peak_after_training(case) - before)


def _peak_after_training(case: Case) -> int:
    engine = trainable(
        case.model,
        case.optimizer,
        case.precision,
        compiled=False,
        checkpointing=case.checkpointing,
        low_memory=case.low_memory,
    )
    ids = random_tokens(case.model, case.batch_size)
    batch = Batch(ids[:, :-1].copy(), ids[:, 1:].copy())
    for step in range(STEPS):
        engine.train_step([batch], RATES, step).result()
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    tyro.cli(main)
