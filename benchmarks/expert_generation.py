"""How much longer does a token take with a mixture of experts than with the dense model of equal computation?

    python -m benchmarks.expert_generation

Both generate one text at a time, with random weights, in each precision.
"""

from contextlib import ExitStack
from functools import partial

import tyro

from benchmarks import report
from benchmarks.generation import ours
from benchmarks.rounds import Process, compared, interleaved
from homespun.architectures.presets import preset, shaped
from homespun.config import Precision

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
VOCAB_SIZE = 8000


def main(rounds: int = 15, n_tokens: int = 200) -> None:
    """Measure and save.

    Args:
        rounds: measured texts of each model.
        n_tokens: length of a text.
    """
    tables = {}
    for precision in PRECISIONS:
        with ExitStack() as stack:
            processes = {
                name: stack.enter_context(
                    Process(
                        partial(
                            ours,
                            shaped(preset(name), {"vocab_size": VOCAB_SIZE}),
                            precision,
                            n_tokens,
                        )
                    )
                )
                for name in ("mini", "mini-moe")
            }
            tables[precision] = compared(interleaved(processes, rounds), "tokens/s", 0)
    report.save("expert_generation", tables)


if __name__ == "__main__":
    tyro.cli(main)
