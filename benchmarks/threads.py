"""Compares ways in which the threads of a step wait for each other, on a quiet machine and beside a busy process.

    python -m benchmarks.threads

Trains a large and a small model. The parallel sections of the small model are about as short as the time to wake a
thread.
"""

import subprocess
import sys
from functools import partial

import tyro

from benchmarks import report
from benchmarks.models import model_config
from benchmarks.rounds import Process, compared, interleaved
from benchmarks.training import ours
from homespun.config import ModelConfig

POLICIES = {
    "spin": {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": ""},
    "spin shortly, then sleep": {"OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": "2000"},
    "sleep": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": ""},
}


def tokens_per_second(policy: dict[str, str], config: ModelConfig, steps: int) -> float:
    """Speed in a process that ends after its turn, since spinning threads would disturb the next turn."""
    work = partial(ours, config, steps, "adamw", "bfloat16", False)
    with Process(work, environment=policy) as process:
        return process()


def main(
    rounds: int = 3, steps: int = 5, shapes: tuple[tuple[int, int], ...] = ((6, 384), (3, 192))
) -> None:
    """Measure and save.

    Args:
        rounds: measured turns of each policy.
        steps: steps in a turn.
        shapes: layers and width of the models.
    """
    tables = {}
    for beside in ("a quiet machine", "beside a busy process"):
        other = None
        if beside != "a quiet machine":
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for n_layers, d_model in shapes:
            config = model_config("gpt2", n_layers, d_model)
            variants = {
                name: partial(tokens_per_second, policy, config, steps)
                for name, policy in POLICIES.items()
            }
            title = f"{n_layers} x {d_model}, {beside}"
            tables[title] = compared(interleaved(variants, rounds), "tokens/s")
        if other:
            other.kill()
            other.wait()
    report.save("threads", tables)


if __name__ == "__main__":
    tyro.cli(main)
