"""Do two processes train twice as fast as one, and do two that divide the model need half the memory of one?

    python -m benchmarks.ranks

All processes have one thread each and share this machine, so what they lose to each other's use of memory and cache
counts as a loss, too. To tell it from the cost of exchanging gradients, one variant computes the same two halves of a
step without any exchange. Another one exchanges through connections, as on two machines, and not through memory that
both processes see. Memory is the peak of a process above its peak with a tiny model.
"""

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal, get_args

import tyro

from benchmarks import report
from benchmarks.models import RATES, model_config, random_tokens
from benchmarks.rounds import NextTurn, Process, compared, interleaved
from homespun.config import ModelConfig
from homespun.data.batch import Batch
from homespun.engine import select
from homespun.engine.base import Engine, EngineOptions, OptimizerSettings

Kind = Literal["one process", "two halves", "whole copies", "whole copies that send", "divided"]
BATCH_SIZE = 8
SHAPE, LARGE = (6, 384), (12, 576)
"""Layers and width of the models of 13.8 M and 52.6 M parameters."""
FOLLOWER = "from benchmarks import ranks; ranks.follow()"
BESIDE = "import sys; from benchmarks import ranks; ranks.beside(*sys.argv[1:])"
PEAKS = "HOMESPUN_BENCHMARK_PEAKS"
"""Names the file to which rank 1 writes the peak of its memory."""


@dataclass(frozen=True)
class Case:
    """The training of a process."""

    kind: Kind
    config: ModelConfig
    optimizer: str
    precision: str

    @property
    def n_sequences(self) -> int:
        """Of a step of one process."""
        return BATCH_SIZE // 2 if self.kind == "two halves" else BATCH_SIZE

    def engine(self) -> Engine:
        settings = OptimizerSettings(self.optimizer, 0.1, 0.9, 0.95, 1.0)
        divides = self.kind == "divided"
        options = EngineOptions(settings, self.precision, threads=1, sharded=divides)
        return select.create(self.config, options)

    def group(self) -> contextlib.AbstractContextManager[None]:
        """In the body, this process is rank 0, if there are ranks."""
        if self.kind in ("one process", "two halves"):
            return contextlib.nullcontext()
        return ranks_of_two(1 if self.kind == "whole copies that send" else 2)


def trained(case: Case, steps: int, turn: NextTurn) -> None:
    """Train in turns. The figure is tokens per second of both processes."""
    with case.group(), other_half(case, steps) as other:
        train = training(case, steps)
        while True:
            start = time.perf_counter()
            other()
            n_tokens = train() + other()
            turn(n_tokens / (time.perf_counter() - start))


def training(case: Case, steps: int) -> Callable[[], int]:
    """A function that takes some steps, and returns the number of their tokens."""
    engine, step = case.engine(), count()
    ids = random_tokens(case.config, case.n_sequences)
    batch = Batch(ids[:, :-1].copy(), ids[:, 1:].copy())

    def train() -> int:
        for _ in range(steps):
            engine.train_step([batch], RATES, next(step)).result()
        return steps * batch.inputs.size

    return train


@contextlib.contextmanager
def other_half(case: Case, steps: int) -> Iterator[Callable[[], int]]:
    """A function that lets a process beside this one begin its half of the work, and then one that waits for it."""
    if case.kind != "two halves":
        yield lambda: 0
        return
    words = [case.config.architecture, case.optimizer, case.precision, str(steps)]
    with subprocess.Popen(
        [sys.executable, "-c", BESIDE, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        asked, answers = process.stdin, process.stdout
        assert asked
        assert answers
        is_running = False

        def half() -> int:
            nonlocal is_running
            is_running = not is_running
            if is_running:
                print(file=asked, flush=True)
                return 0
            return int(answers.readline())

        try:
            yield half
        finally:
            asked.close()


def beside(architecture: str, optimizer: str, precision: str, steps: str) -> None:
    """The work of the process beside: some steps for each line of standard input."""
    config = model_config(architecture, *SHAPE)
    train = training(Case("two halves", config, optimizer, precision), int(steps))
    for _ in sys.stdin:
        print(train(), flush=True)


def held(case: Case, turn: NextTurn) -> None:
    """The peak of this process in some steps, above its peak with a tiny model. The first turn is the tiny model."""
    with case.group():
        training(dataclasses.replace(case, config=model_config("gpt2", 1, 64)), 1)()
        base = peak()
        turn(0.0)
        training(case, 3)()
        turn(peak() - base)


@contextlib.contextmanager
def ranks_of_two(on_machine: int) -> Iterator[None]:
    """This process is rank 0 of two, with so many on its machine, as far as they know; rank 1 is a new process."""
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": str(on_machine), "MASTER_ADDR": "127.0.0.1"}
    place |= {"MASTER_PORT": str(20000 + os.getpid() % 20000), "OMP_NUM_THREADS": "1"}
    os.environ.update(place | {"RANK": "0", "LOCAL_RANK": "0"})
    other = {**os.environ, "RANK": "1", "LOCAL_RANK": "1"}
    with subprocess.Popen([sys.executable, "-c", FOLLOWER], env=other), select.leading():
        yield


def follow() -> None:
    """The work of rank 1."""
    select.follow()
    if name := os.environ.get(PEAKS):
        Path(name).write_text(str(peak()), encoding="ascii")


def peak() -> int:
    """Peak bytes of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [line] = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def main(rounds: int = 7, steps: int = 4, precision: str = "auto") -> None:
    """Measure and save.

    Args:
        rounds: measured turns of each variant.
        steps: steps in a turn.
        precision: of the computation.
    """
    kinds: tuple[Kind, ...] = get_args(Kind)
    tables: dict[str, list[report.Row]] = {}
    for optimizer in ("adamw", "muon"):
        cases = [Case(kind, model_config("gpt2", *SHAPE), optimizer, precision) for kind in kinds]
        with contextlib.ExitStack() as stack:
            started = {
                case.kind: stack.enter_context(Process(partial(trained, case, steps)))
                for case in cases
            }
            rows = compared(interleaved(started, rounds), "tokens/s", 0)
        tables[f"6 x 384, {optimizer}, 8 x 256 tokens a step"] = [
            {**row, "efficiency": round(float(row["ratio"]) / (1 if row is rows[0] else 2), 2)}
            for row in rows
        ]
    config = model_config("gpt2", *LARGE)
    cases = [Case(kind, config, "adamw", "float32") for kind in kinds if kind != "two halves"]
    tables["12 x 576, adamw, float32, 8 x 256 tokens a step"] = memory(cases)
    report.save("ranks", tables)


def memory(cases: list[Case]) -> list[report.Row]:
    """The larger peak of the two ranks."""
    rows: list[report.Row] = []
    first = 0.0
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            name = Path(folder) / "peak"
            with Process(partial(held, case), {PEAKS: str(name)}) as process:
                megabytes, whole = process() / 1e6, process.peak_megabytes()
            base = whole - megabytes
            if name.exists():  # rank 1 has loaded the same code
                other = int(name.read_text(encoding="ascii")) / 1e6
                megabytes, whole = max(megabytes, other - base), max(whole, round(other))
        first = first or megabytes
        rows.append(
            {
                "variant": case.kind,
                "MB of a rank": round(megabytes),
                "ratio": round(megabytes / first, 2),
                "MB of its process": whole,
            }
        )
    return rows


if __name__ == "__main__":
    tyro.cli(main)
