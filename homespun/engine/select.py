"""The best engine for this machine, made on demand: the one place outside the engines that loads one."""

import importlib.util
import os
from typing import get_args

from homespun.config import EngineName, LoadConfig, ModelConfig
from homespun.engine.base import Engine, EngineOptions, Machine, Reader
from homespun.model.spec import count_parameters

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
"""Weights of a model that NumPy runs fast enough, on any machine: 60 tokens per second and more."""


def available() -> tuple[EngineName, ...]:
    """The engines that are installed here; none is loaded."""
    names: tuple[EngineName, ...] = get_args(EngineName)
    return tuple(name for name in names if name != "auto" and importlib.util.find_spec(name))


def create(config: ModelConfig, options: EngineOptions, *, name: EngineName = "auto") -> Engine:
    """An engine for a model; `name` chooses the framework, which so far is PyTorch on every machine."""
    _settle_threading()
    from homespun.engine.torch_engine.engine import TorchEngine

    return TorchEngine(config, options)


def reader(config: ModelConfig, wanted: LoadConfig) -> Reader:
    """What reads a trained model here, still without weights."""
    name = wanted.engine
    if name == "auto":
        small = count_parameters(config) <= SMALL
        name = "numpy" if small and wanted.precision != "bfloat16" else "torch"
    if name == "numpy":
        from homespun.engine.numpy_engine import NumpyEngine

        return NumpyEngine(config, threads=wanted.threads)
    options = EngineOptions(precision=wanted.precision, threads=wanted.threads, seed=None)
    return create(config, options, name=name)


def machine() -> Machine:
    """What the engine knows of this machine."""
    _settle_threading()
    from homespun.engine.torch_engine import machine

    return machine


def _settle_threading() -> None:
    """Before a framework is loaded, which reads these once; what the user has set stays."""
    for name, value in THREADING.items():
        os.environ.setdefault(name, value)
