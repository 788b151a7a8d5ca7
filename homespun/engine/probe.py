"""A model and the settings of a run flow in; time and memory of some real training steps come out.

The steps run in a process of their own: one that finds no memory, or takes too long, costs the caller nothing, and the
peak of its memory is that of the steps. Their tokens are random; documents are as long as those of the text.
"""

import contextlib
import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from homespun.architectures.families import family, model_config
from homespun.architectures.lora import Lora
from homespun.config import EngineName, ModelConfig
from homespun.data.batch import Batch
from homespun.engine import select
from homespun.engine.base import Engine, EngineOptions, OutOfMemory
from homespun.engine.probe_process import ProbeFailed as ProbeFailed
from homespun.engine.probe_process import ask

TIME_LIMIT = 60.0
"""Seconds for all of a probe, with the start of its process."""
STEPS_SECONDS = 10.0
"""After this time a probe takes no further step, unless it has taken fewer than `LEAST_STEPS`."""
LEAST_STEPS, MOST_STEPS = 3, 30
RATES = {"adamw": 1e-6, "muon": 1e-6}
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Probed:
    """Measured steps."""

    first_seconds: float
    """Of the first step, which may compile and allocate."""
    micro_seconds: float
    """Of one micro-batch, forward and backward."""
    update_seconds: float
    """Of the rest of a step."""
    n_steps: int
    memory: int
    """Peak bytes of the steps, above those of the bare process."""
    facts: dict[str, str]
    """Of the engine."""

    def seconds_per_step(self, accumulation: float) -> float:
        """Of a step of so many micro-batches of this size."""
        return accumulation * self.micro_seconds + self.update_seconds


def probe(
    model: ModelConfig,
    options: EngineOptions,
    batch_size: int,
    *,
    engine: EngineName = "auto",
    accumulates: bool = False,
    document_tokens: float = 0.0,
    least_steps: int = LEAST_STEPS,
    steps_seconds: float = STEPS_SECONDS,
    memory_limit: int | None = None,
) -> Probed | None:
    """Take some steps; None if not even two were done in `TIME_LIMIT`.

    Args:
        batch_size: sequences of a micro-batch.
        accumulates: the time of a micro-batch and that of the update are told apart.
        document_tokens: the mean length of a document; 0: no document ends.
        memory_limit: bytes for the steps, on a device that shares the memory of the processor. Beyond them the steps
            fail, instead of other programs.

    Raises:
        OutOfMemory: the steps need more memory than there is.
        ProbeFailed: the process failed for another reason.
    """
    request = {
        "model": dataclasses.asdict(model),
        "options": options.stored(),
        "engine": engine,
        "batch_size": batch_size,
        "counts": [1, 2] if accumulates else [1],
        "document_tokens": document_tokens,
        "least_steps": least_steps,
        "steps_seconds": steps_seconds,
        "memory_limit": memory_limit,
    }
    return _probed(ask("homespun.engine.probe", request, TIME_LIMIT))


def _probed(lines: Sequence[dict[str, Any]]) -> Probed | None:
    """The result of the lines that the process has written."""
    if len(lines) < 2:
        return None
    first, *later = lines
    by_count: dict[int, list[float]] = {}
    for line in later:
        by_count.setdefault(line["count"], []).append(line["seconds"])
    medians = {count: statistics.median(found) for count, found in by_count.items()}
    one = medians.get(1, medians.get(2, 0.0) / 2)
    micro = min(one, max(0.0, medians[2] - one)) if 2 in medians else one
    return Probed(
        first_seconds=first["seconds"],
        micro_seconds=micro,
        update_seconds=one - micro,
        n_steps=len(lines),
        memory=later[-1]["memory"],
        facts=first["facts"],
    )


def _serve(request: dict[str, Any]) -> None:
    """The work of the process: a line for each step."""
    model, options = model_config(request["model"]), EngineOptions.restored(request["options"])
    own_memory = select.machine(request["engine"]).has_own_memory()
    base = 0
    if not own_memory:
        small = _trained_a_little(model, options, request["engine"])
        if (
            small.active_memory() is None
        ):  # the peak is that of the process, not that of the tensors
            base = _peak(small)
        del small
        if limit := request["memory_limit"]:
            _limit_memory(limit)
    engine = select.create(model, options, name=request["engine"])
    batch = _batch(model, request["batch_size"], options.document_mark, request["document_tokens"])
    counts, began, step = request["counts"], time.perf_counter(), 0
    while step < MOST_STEPS and (
        step <= request["least_steps"] or time.perf_counter() - began < request["steps_seconds"]
    ):
        count, start = counts[step % len(counts)], time.perf_counter()
        engine.train_step([batch] * count, RATES, step).result()
        line = {
            "count": count,
            "seconds": time.perf_counter() - start,
            "memory": max(0, _peak(engine) - base),
            "facts": engine.facts,
        }
        print(json.dumps(line), flush=True)
        step += 1


def _trained_a_little(model: ModelConfig, options: EngineOptions, name: EngineName) -> Engine:
    """An engine after a step of a tiny model, with which the framework has loaded all that it needs."""
    tiny = dataclasses.replace(
        family(model.architecture).default_shape(2, 192, 3), vocab_size=257, seq_len=8
    )
    lora = options.lora and Lora(1, 1.0)
    options = dataclasses.replace(options, compiled=False, lora=lora)
    engine = select.create(tiny, options, name=name)
    engine.train_step([_batch(tiny, 1, None, 0.0)], RATES, 0).result()
    return engine


def _batch(model: ModelConfig, batch_size: int, mark: int | None, document_tokens: float) -> Batch:
    """Random tokens, in documents of equal length if they have one."""
    shape = (batch_size, model.seq_len + 1)
    ids = np.random.default_rng(0).integers(0, model.vocab_size, shape, dtype=np.int32)
    if mark is not None:
        ids[ids == mark] = (mark + 1) % model.vocab_size
        if document_tokens:
            flat = ids.reshape(-1)
            # The first mark is inside the first row, so that there is one however long documents are.
            flat[model.seq_len // 2 :: max(2, round(document_tokens))] = mark
    return Batch(np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:]))


def _peak(engine: Engine) -> int:
    """Peak bytes of this process on the device. The system's other figure also counts the process that started it."""
    name = engine.facts["device"]
    if name.startswith("cpu") and (kilobytes := _status("VmHWM")):
        return 1024 * kilobytes
    return engine.peak_memory()


def _limit_memory(n_bytes: int) -> None:
    """Let this process allocate so many bytes more, where the system can be told so."""
    if used := _status("VmData"):
        with contextlib.suppress(OSError, ValueError):
            limit = 1024 * used + n_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _status(name: str) -> int:
    """A figure of this process in kB, on Linux; elsewhere 0."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0


if __name__ == "__main__":
    try:
        _serve(json.load(sys.stdin))
    except OutOfMemory:
        print(json.dumps({"out_of_memory": True}), flush=True)
