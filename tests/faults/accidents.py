"""Accidents that happen to a correct program: a NaN, a kill or a wait at a given place, few open files."""

import functools
import os
import resource
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def nth(n: int, act: Callable[[], object], then: Callable[..., Any]) -> Callable[..., Any]:
    """`then`, with a call of `act` before its n-th call."""
    calls = 0

    @functools.wraps(then)
    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == n:
            act()
        return then(*arguments, **named)

    return counted


def loaded_torch() -> Any:
    """PyTorch, loaded as the command line loads it, with threads that do not spin."""
    from homespun.engine import select

    select.machine()
    import torch

    return torch


def nan_in_batch(fingerprints: str) -> None:
    """Set one gradient value to NaN in these batches (fingerprints as in metrics.jsonl, joined by commas)."""
    torch = loaded_torch()
    from homespun.engine.torch.engine import TorchEngine

    step, backward = TorchEngine.train_step, torch.autograd.backward
    poisoned: Any = None

    def train_step(engine: Any, microbatches: Any, *arguments: Any, **limits: float) -> Any:
        nonlocal poisoned
        value = 0
        for batch in microbatches:
            value = zlib.crc32(batch.inputs.tobytes(), value)
        poisoned = engine if f"{value:08x}" in fingerprints.split(",") else None
        return step(engine, microbatches, *arguments, **limits)

    def poisoned_backward(loss: Any) -> None:
        backward(loss)
        if poisoned:
            first = next(iter(poisoned.weights.values()))
            first.grad.view(-1)[0] = float("nan")

    TorchEngine.train_step = train_step  # type: ignore[method-assign]
    torch.autograd.backward = poisoned_backward


def die_in_step(number: str) -> None:
    """Die inside the accumulation of this step of the process, after the first of its two micro-batches."""
    torch = loaded_torch()
    torch.autograd.backward = nth(2 * int(number), die, torch.autograd.backward)


def die_evaluating(number: str) -> None:
    """Die before this batch of an evaluation."""
    loaded_torch()
    from homespun.engine.torch.engine import TorchEngine

    TorchEngine.loss = nth(int(number), die, TorchEngine.loss)  # type: ignore[method-assign]


def die_sampling(number: str) -> None:
    """Die before this token of a sample."""
    loaded_torch()
    from homespun.engine.torch.decoder import TorchDecoder

    TorchDecoder.step = nth(int(number), die, TorchDecoder.step)  # type: ignore[method-assign]


def keep_batches(folder: str) -> None:
    """Keep the targets of each step in a file of its number."""
    loaded_torch()
    import numpy as np

    from homespun.engine.torch.engine import TorchEngine

    train_step = TorchEngine.train_step

    def keeping(engine: Any, microbatches: Any, lr: Any, step: int, **limits: float) -> Any:
        targets = np.concatenate([batch.targets for batch in microbatches])
        np.save(Path(folder) / f"{step}.npy", targets)
        return train_step(engine, microbatches, lr, step, **limits)

    TorchEngine.train_step = keeping  # type: ignore[method-assign]


def endless_step(number: str) -> None:
    """This step of the process never ends."""
    loaded_torch()
    from homespun.engine.torch.engine import TorchEngine

    def wait() -> None:
        print("this step takes for ever", flush=True)
        while True:
            signal.pause()

    TorchEngine.train_step = nth(int(number), wait, TorchEngine.train_step)  # type: ignore[method-assign]


def truncate_shards_in_step(number: str) -> None:
    """Cut all shards of training tokens to 1,000 bytes before this step of the process."""
    loaded_torch()
    from homespun.engine.torch.engine import TorchEngine

    def truncate() -> None:
        for shard in Path("data/tokens").glob("*/training-*.tokens"):
            os.truncate(shard, 1_000)

    TorchEngine.train_step = nth(int(number), truncate, TorchEngine.train_step)  # type: ignore[method-assign]


def a_shard_for_each_document(_: str) -> None:
    from homespun.data import prepare

    prepare.SHARD_BYTES = 1


def few_open_files(more: str) -> None:
    """Allow this many more open files than the process has after loading PyTorch."""
    loaded_torch()
    unused = os.open(os.devnull, os.O_RDONLY)
    os.close(unused)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused + int(more), hard))


def slow_set_up(name: str) -> None:
    """The preparations wait until a file of this name is there."""
    from homespun.training import stages

    tokenize = stages.tokenize

    def slow(*arguments: Any) -> Any:
        print("these preparations take for ever", flush=True)
        while not Path(name).exists():
            time.sleep(0.01)
        return tokenize(*arguments)

    stages.tokenize = slow


def ruined_in_step(number: str) -> None:
    """This step of the process is applied, and leaves weights that are not finite."""
    torch = loaded_torch()
    from homespun.engine.torch.engine import TorchEngine

    step = TorchEngine.train_step
    calls = 0

    def ruining(engine: Any, *arguments: Any, **limits: float) -> Any:
        nonlocal calls
        calls += 1
        handle = step(engine, *arguments, **limits)
        if calls == int(number):
            with torch.no_grad():
                next(iter(engine.weights.values())).fill_(float("inf"))
        return handle

    TorchEngine.train_step = ruining  # type: ignore[method-assign]


def stopped_in_set_up(_: str) -> None:
    """The process stops after it has chosen its checkpoint, as if it were suspended."""
    from homespun.training import train

    set_up = train.set_up

    def stopping(*arguments: Any) -> Any:
        print("set-up begins", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        return set_up(*arguments)

    train.set_up = stopping
