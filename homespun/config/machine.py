"""The settings of the machine: engine, precision, memory and threads.

They flow from flags and files to the choice of the engine and to the engine itself.
"""

from dataclasses import dataclass
from typing import Literal

from homespun.config.checked import Checked, setting

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Memory = Literal["full", "low"]
EngineName = Literal["auto", "torch", "mlx"]


@dataclass(frozen=True)
class MachineConfig(Checked):
    """Machine. Engine, precision, memory and threads."""

    engine: EngineName = setting(
        "auto",
        "Framework to train with, on the GPU if it finds one; auto: MLX on Apple silicon, PyTorch elsewhere.",
    )
    precision: Precision = setting(
        "auto",
        "Precision of the computation; weights and optimizer moments are float32 unless --memory is low.",
        on_resume="announced",
    )
    compile: Literal["auto", "on", "off"] = setting(
        "auto",
        "Compiled kernels; auto: if a compiler is available and the run is long enough to benefit.",
        on_resume="announced",
    )
    memory: Memory = setting(
        "full",
        "low: weights, gradients and means of the optimizer in bfloat16, and --gradient-checkpointing, for models that "
        "do not fit otherwise.",
        on_resume="fixed",
    )
    gradient_checkpointing: bool = setting(
        False, "Use less memory for activations, at about a third more computation."
    )
    auto_batch: bool = setting(
        False,
        "Choose the largest micro-batch that fits into memory, and the number of micro-batches that keeps the "
        "size of a step. A resumed run keeps the choice if it fits.",
    )
    shard: Literal["auto", "none", "full"] = setting(
        "auto",
        "If several ranks train together: `full` divides weights and gradients among them, `none` leaves a whole model "
        "on each; auto: full if a step does not fit otherwise. Optimizer moments are always divided.",
    )
    threads: int | None = setting(
        None, "CPU threads; if omitted, one per usable processor.", at_least=1, at_most=1024
    )
