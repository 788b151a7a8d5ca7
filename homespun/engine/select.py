"""A model's shape and the user's settings flow in, an engine for this machine comes out.

Only this module loads engines, so that nothing loads a framework before it is needed.
"""

import importlib.util
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from homespun.architectures.families import count_parameters
from homespun.config import EngineName, ModelConfig, ReaderConfig
from homespun.engine import hardware, launcher
from homespun.engine.base import Engine, EngineOptions, Machine, Reader
from homespun.errors import UserError

THREADING = {
    # A thread count that follows the load of the machine would change the order of sums from step to step.
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    # Waiting threads spin for a short time and then sleep. If they only spun, training would lose a quarter to a third
    # of its speed as soon as another program runs (GNU's OpenMP, as in PyTorch for Linux; benchmarks/threads.py).
    "GOMP_SPINCOUNT": "2000",
}
"""Environment variables that a framework reads once, while it is loaded."""

MAX_NUMPY_WEIGHTS = 100_000_000
"""NumPy reads models up to this size in float32, unless another precision is asked for (benchmarks/generation.py)."""

INSTALL: dict[EngineName, str] = {"torch": "pip install torch", "mlx": "pip install 'mlx[cpu]'"}
"""The command that installs a framework. On a Mac, mlx[cpu] computes on the GPU, too."""


def available() -> tuple[EngineName, ...]:
    """The engines that are installed here. None is loaded."""
    names: tuple[EngineName, ...] = get_args(EngineName)
    return tuple(name for name in names if name != "auto" and importlib.util.find_spec(name))


def create(config: ModelConfig, options: EngineOptions, *, name: EngineName = "auto") -> Engine:
    """An engine that trains a model; `name` chooses the framework.

    `THREADING` stays in the environment for the rest of the process, where the user has not set these variables. An
    engine without an optimizer is of this process alone, also if several train.

    Raises:
        UserError: the framework is not installed, or other processes are to train with this one, but do not follow it.
    """
    os.environ.update(_missing_threading())
    if options.optimizer is None or launcher.place() is None:
        return _create(config, options, name)
    if options.low_memory:
        raise UserError(
            "--memory low trains in one process: leave it out, or start without a launcher"
        )
    if options.averaging:
        raise UserError(
            "this run averages its weights, which a single process does: start without a launcher, or add "
            "--averaging 0"
        )
    with _framework(_of_ranks(name)):
        from homespun.engine.torch import group, ranks

        return ranks.create(config, options, group.led())


@contextmanager
def leading() -> Iterator[None]:
    """In the body, rank 0 of several trains: the engine that it creates tells the others about each step. They end with
    the body. A process that trains alone does nothing.

    Raises:
        UserError: the framework is not installed, or the other ranks cannot be reached.
    """
    if launcher.place() is None:
        yield
        return
    os.environ.update(_missing_threading())
    with _framework(_of_ranks("auto")):
        from homespun.engine.torch import group
    with group.join().leading():
        yield


def follow() -> None:
    """Repeat the steps of rank 0, until it ends.

    Raises:
        UserError: the framework is not installed, or another rank has died or does not answer.
    """
    os.environ.update(_missing_threading())
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a wait for rank 0 is no warning
    with _framework(_of_ranks("auto")):
        from homespun.engine.torch import group, ranks
    ranks.follow(group.join())


def _of_ranks(name: EngineName) -> EngineName:
    """
    Raises:
        UserError: this framework trains in one process only.
    """
    if name not in ("auto", "torch"):
        raise UserError(f"--engine {name} trains in one process: several need --engine torch")
    return "torch"


def _create(config: ModelConfig, options: EngineOptions, name: EngineName) -> Engine:
    with _framework(name) as chosen:
        if chosen == "mlx":
            from homespun.engine.mlx.engine import MlxEngine

            return MlxEngine(config, options)
        from homespun.engine.torch.engine import TorchEngine

        return TorchEngine(config, options)


def reader(
    config: ModelConfig,
    wanted: ReaderConfig,
    document_mark: int | None = None,
    *,
    generates: bool = True,
) -> Reader:
    """An engine that reads a trained model, still without weights. The environment of the process stays as it is.

    Args:
        document_mark: as in `EngineOptions`.
        generates: whether it is to generate text, rather than to compute losses. Text is generated one token at a time,
            so the memory limits its speed, and narrow weights help. Losses are limited by the products, and in 16 bits
            those of PyTorch are faster than those of NumPy.

    Raises:
        UserError: the framework is not installed, or the precision does not exist there.
    """
    name, precision = wanted.engine, wanted.precision
    small = count_parameters(config) <= MAX_NUMPY_WEIGHTS
    if name == "auto":
        if small and precision in ("auto", "float32"):
            name = "numpy"
        elif (precision == "int8" or (generates and precision in ("auto", "bfloat16"))) and (
            _numpy_has_narrow_weights()
        ):
            name = "numpy"
            precision = "int8" if precision == "int8" else "bfloat16"
    if name == "numpy":
        return _numpy_reader(config, wanted.threads, precision, document_mark, generates)
    options = EngineOptions(
        precision="auto" if precision == "int8" else precision,
        document_mark=document_mark,
        threads=wanted.threads,
        seed=None,
        eight_bits=precision == "int8",
    )
    with _threading_while_loading():
        return _create(config, options, name)


def _numpy_reader(
    config: ModelConfig,
    threads: int | None,
    precision: str,
    document_mark: int | None,
    generates: bool,
) -> Reader:
    """
    Raises:
        UserError: the precision needs a compiler, and there is none.
    """
    from homespun.engine.numpy.engine import NumpyEngine
    from homespun.engine.numpy.products import compiled

    if precision not in ("bfloat16", "int8"):
        # Losses are computed as fast by the products of NumPy.
        return NumpyEngine(
            config, threads, document_mark, products=compiled() if generates else None
        )
    products = compiled()
    if products is None:
        raise UserError(
            f"--engine numpy has {precision} on Linux with a C compiler only, and finds none: install gcc, or leave "
            "--engine out"
        )
    return NumpyEngine(
        config, threads, document_mark, "int8" if precision == "int8" else "bfloat16", products
    )


def _numpy_has_narrow_weights() -> bool:
    """Whether NumPy is the fastest to generate in 16 and 8 bits: on a CPU, if its products can be compiled."""
    if hardware.has_gpu():
        return False
    from homespun.engine.numpy.products import compiled

    return compiled() is not None


def machine(name: EngineName = "auto") -> Machine:
    """The facts that an engine knows about this machine. Changes the environment as `create` does.

    Raises:
        UserError: the framework is not installed.
    """
    os.environ.update(_missing_threading())
    with _framework(name) as chosen:
        if chosen == "mlx":
            from homespun.engine.mlx import machine as mlx_machine

            return mlx_machine
        from homespun.engine.torch import machine as torch_machine

        return torch_machine


@contextmanager
def _framework(name: EngineName) -> Iterator[EngineName]:
    """The framework to import in the body. auto: MLX on Apple silicon, PyTorch elsewhere.

    Raises:
        UserError: the import in the body failed because the framework is not installed.
    """
    if name == "auto":
        apple_silicon = (platform.system(), platform.machine()) == ("Darwin", "arm64")
        name = "mlx" if apple_silicon else "torch"
    try:
        yield name
    except ImportError as error:
        if (error.name or "").partition(".")[0] != name:
            raise
        raise UserError(f"--engine {name} is not installed here: {INSTALL[name]}") from error


def _missing_threading() -> dict[str, str]:
    """The settings of `THREADING` that the user has not made."""
    return {name: value for name, value in THREADING.items() if name not in os.environ}


@contextmanager
def _threading_while_loading() -> Iterator[None]:
    """Add the missing settings of `THREADING` to the environment of the body."""
    added = _missing_threading()
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
