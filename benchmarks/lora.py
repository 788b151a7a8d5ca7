"""How much memory does a training step take with LoRA, and how much without? Peak of a whole process of its own.

    python -m benchmarks.lora

The shape is that of SmolLM2-135M, with random weights. Each engine takes its weights tensor by tensor, as from a file.
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import numpy.typing as npt
import tyro

from benchmarks import report
from benchmarks.models import MAX_GRAD_NORM, RATES, random_tokens
from homespun.architectures.families import parameters
from homespun.architectures.lora import Lora
from homespun.config import EngineName, ModelConfig
from homespun.data.batch import Batch
from homespun.engine import select, traits
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.planning.estimate import Computing, training_memory

SMOLLM2 = ModelConfig(
    architecture="llama", vocab_size=49152, seq_len=256, n_layers=30, d_model=576, n_heads=9, n_kv_heads=3,
    head_dim=64, d_ff=1536, tie_embeddings=True,
)  # fmt: skip
LORA = Lora(8, 16.0)
STEPS = 2


@dataclass(frozen=True)
class Case:
    """The settings that both runs share."""

    engine: EngineName
    precision: str
    batch_size: int
    checkpointing: bool = False

    def estimate(self, lora: Lora | None) -> int:
        """The estimate in bytes, without the process itself."""
        half = self.precision == "bfloat16"
        use = (
            traits.mlx(half) if self.engine == "mlx" else traits.torch_on_cpu(half, SMOLLM2.seq_len)
        )
        computing = Computing("adamw", use, self.checkpointing, masked=False, lora=lora)
        return training_memory(SMOLLM2, self.batch_size, computing).total


CASES = (
    Case("torch", "bfloat16", 2),
    Case("torch", "bfloat16", 4, checkpointing=True),
    Case("torch", "float32", 1),
    Case("torch", "float32", 2),
)


def main(only: tuple[int, ...] = tuple(range(len(CASES)))) -> None:
    """Measure and save.

    Args:
        only: indices of the cases to measure.
    """
    rows: list[report.Row] = []
    for case in (CASES[number] for number in only):
        (whole, _), (ours, seconds) = (measured(case, lora) for lora in (None, LORA))
        rows.append(
            {
                "engine": case.engine,
                "precision": case.precision + (", checkpointing" if case.checkpointing else ""),
                "tokens": f"{case.batch_size} x {SMOLLM2.seq_len}",
                "whole model MB": round(whole / 1e6),
                "LoRA MB": round(ours / 1e6),
                "LoRA / whole": round(ours / whole, 2),
                "estimated MB": round(case.estimate(LORA) / 1e6),
            }
        )
        print(report.table(rows[-1:]), f"{seconds:.1f} s", flush=True)
    report.save("lora", {"a training step of SmolLM2-135M, adapters of rank 8": rows})


def measured(case: Case, lora: Lora | None) -> tuple[int, float]:
    """Peak bytes of some steps in a new process, and the seconds of the last one."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(theirs, case, lora))
    process.start()
    theirs.close()
    peak, seconds = ours.recv()
    process.join()
    return peak, seconds


def _measure(connection: Connection, case: Case, lora: Lora | None) -> None:
    settings = OptimizerSettings("adamw", 0.0, beta1=0.9, beta2=0.99, max_grad_norm=MAX_GRAD_NORM)
    options = EngineOptions(
        settings,
        case.precision,
        gradient_checkpointing=case.checkpointing,
        seed=None if lora is None else 0,
        lora=lora,
    )
    engine = select.create(SMOLLM2, options, name=case.engine)
    (engine.load if lora is None else engine.load_base)(_weights())
    ids = random_tokens(SMOLLM2, case.batch_size)
    batch = Batch(ids[:, :-1].copy(), ids[:, 1:].copy())
    seconds = 0.0
    for step in range(STEPS):
        began = time.perf_counter()
        engine.train_step([batch], RATES, step).result()
        seconds = time.perf_counter() - began
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    connection.send((unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, seconds))


def _weights() -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    rng = np.random.default_rng(0)
    for p in parameters(SMOLLM2):
        values = rng.standard_normal(p.shape, np.float32)
        values *= 0.02
        values += p.mean
        yield p.name, values


if __name__ == "__main__":
    tyro.cli(main)
