"""The best engine for this machine, made on demand: the one place outside the engines that loads one."""

import importlib.util
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from homespun.architectures.families import count_parameters
from homespun.config import EngineName, LoadConfig, ModelConfig
from homespun.engine.base import Engine, EngineOptions, Machine, Reader
from homespun.errors import UserError

THREADING = {
    # A thread count that follows the load of the machine would change the order of sums from step to step.
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    # Threads that go on spinning while they wait for each other lose a quarter to a third of the speed as soon as
    # anything else runs on the machine, so they spin shortly and then sleep (GNU's OpenMP, as in PyTorch for Linux;
    # benchmarks/threads.py).
    "GOMP_SPINCOUNT": "2000",
}


SMALL = 100_000_000
"""Weights of a model that NumPy reads fast enough: with half as many it writes 1.6 times the tokens per second of
PyTorch in bfloat16 (benchmarks/generation.py)."""


INSTALL: dict[EngineName, str] = {"torch": "pip install torch", "mlx": "pip install 'mlx[cpu]'"}
"""What gets a framework (on a Mac, MLX's is for its GPU)."""


def available() -> tuple[EngineName, ...]:
    """The engines that are installed here; none is loaded."""
    names: tuple[EngineName, ...] = get_args(EngineName)
    return tuple(name for name in names if name != "auto" and importlib.util.find_spec(name))


def create(config: ModelConfig, options: EngineOptions, *, name: EngineName = "auto") -> Engine:
    """An engine for a model; `name` chooses the framework.

    Raises:
        UserError: it is not installed.
    """
    with _framework(name) as chosen:
        if chosen == "mlx":
            from homespun.engine.mlx.engine import MlxEngine

            return MlxEngine(config, options)
        from homespun.engine.torch.engine import TorchEngine

        return TorchEngine(config, options)


def reader(config: ModelConfig, wanted: LoadConfig) -> Reader:
    """What reads a trained model here, still without weights.

    Raises:
        UserError: the framework that is asked for is not installed.
    """
    name = wanted.engine
    if name == "auto":
        small = count_parameters(config) <= SMALL
        name = "numpy" if small and wanted.precision in ("auto", "float32") else "auto"
    if name == "numpy":
        from homespun.engine.numpy.engine import NumpyEngine

        return NumpyEngine(config, threads=wanted.threads)
    options = EngineOptions(precision=wanted.precision, threads=wanted.threads, seed=None)
    return create(config, options, name=name)


def machine(name: EngineName = "auto") -> Machine:
    """What an engine knows of this machine.

    Raises:
        UserError: it is not installed.
    """
    with _framework(name) as chosen:
        if chosen == "mlx":
            from homespun.engine.mlx import machine as mlx_machine

            return mlx_machine
        from homespun.engine.torch import machine as torch_machine

        return torch_machine


@contextmanager
def _framework(name: EngineName) -> Iterator[EngineName]:
    """Which one to load within; auto: MLX on Apple silicon, PyTorch elsewhere.

    Raises:
        UserError: it is not installed.
    """
    if name == "auto":
        apple_silicon = (platform.system(), platform.machine()) == ("Darwin", "arm64")
        name = "mlx" if apple_silicon else "torch"
    _settle_threading()
    try:
        yield name
    except ImportError as error:
        if (error.name or "").partition(".")[0] != name:
            raise
        raise UserError(f"--engine {name} is not installed here: {INSTALL[name]}") from error


def _settle_threading() -> None:
    """Before a framework is loaded, which reads these once; what the user has set stays."""
    for name, value in THREADING.items():
        os.environ.setdefault(name, value)
