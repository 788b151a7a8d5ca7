"""The best engine for this machine, made on demand: the one place outside the engines that loads one."""

import os

from homespun.config import ModelConfig
from homespun.engine.base import Engine, OptimizerSettings

THREADING = {
    # A thread count that follows the load of the machine would change the order of sums from step to step.
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    # Threads that go on spinning while they wait for each other lose a quarter to a third of the speed as soon as
    # anything else runs on the machine, so they spin shortly and then sleep (GNU's OpenMP, as in PyTorch for Linux;
    # benchmarks/threads.py).
    "GOMP_SPINCOUNT": "2000",
}


def create(
    config: ModelConfig,
    *,
    name: str = "auto",
    optimizer: OptimizerSettings | None = None,
    precision: str = "auto",
    compiled: bool = False,
    gradient_checkpointing: bool = False,
    threads: int | None = None,
    seed: int | None = 0,
) -> Engine:
    """An engine with freshly initialised weights. Without `optimizer` it can evaluate and generate only; without `seed`
    its weights are zeros until some are loaded."""
    _settle_threading()
    from homespun.engine.torch_engine.engine import TorchEngine

    return TorchEngine(
        config,
        optimizer=optimizer,
        precision=precision,
        compiled=compiled,
        gradient_checkpointing=gradient_checkpointing,
        threads=threads,
        seed=seed,
    )


def flops_per_second(precision: str = "auto") -> float:
    """Of large matrix products on this machine, measured in a moment."""
    _settle_threading()
    from homespun.engine.torch_engine import machine

    return machine.flops_per_second(precision)


def computes_in_half(precision: str) -> bool:
    """Whether `--precision` means bfloat16 on this machine."""
    _settle_threading()
    from homespun.engine.torch_engine import machine

    return machine.computes_in_half(precision)


def can_compile() -> bool:
    """Whether compiled kernels can be made on this machine; takes a few seconds."""
    _settle_threading()
    from homespun.engine.torch_engine import machine

    return machine.can_compile()


def memory_capacity() -> int:
    """Bytes of memory that the device of the engine has."""
    from homespun.engine.torch_engine import machine

    return machine.memory_capacity()


def _settle_threading() -> None:
    """Before a framework is loaded, which reads these once; what the user has set stays."""
    for name, value in THREADING.items():
        os.environ.setdefault(name, value)
