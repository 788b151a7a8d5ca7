"""A model's shape flows in; the measured speed of generating text with it flows out.

Tokens are decoded in a process of its own, so that nothing else is in its memory, and one that gets no more memory ends
alone. The weights are random numbers: the time does not depend on them.
"""

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from homespun.architectures.families import model_config, parameters
from homespun.config import ModelConfig, ReaderConfig
from homespun.engine import select
from homespun.engine.base import OutOfMemory
from homespun.engine.probe_process import ProbeFailed as ProbeFailed
from homespun.engine.probe_process import ask
from homespun.named_array import NamedArray

TIME_LIMIT = 120.0
"""Seconds for all of a probe, with the start of its process."""
PROMPT_TOKENS = 8
POSITIONS = 256
"""After so many positions the text begins again."""
WARM_STEPS = 8
"""Steps that are not counted: an engine finds out how many threads are fastest."""
BLOCK = 1 << 20
"""Random numbers, which are repeated: to draw them all would take longer than the probe."""


@dataclass(frozen=True)
class Decoded:
    """Measured steps of decoding."""

    tokens_per_second: float
    """Of all texts together."""
    n_steps: int
    engine: str
    """The name of the engine that was chosen."""
    seconds_to_load: float


def probe_decoding(
    model: ModelConfig, wanted: ReaderConfig, *, batch_size: int = 1, seconds: float = 1.0
) -> Decoded | None:
    """Decode for some seconds; None if it was not done in `TIME_LIMIT`.

    Args:
        batch_size: texts that are generated together.

    Raises:
        OutOfMemory: the model needs more memory than there is.
        ProbeFailed: the process failed for another reason.
    """
    request = {
        "model": dataclasses.asdict(model),
        "reader": dataclasses.asdict(wanted),
        "batch_size": batch_size,
        "seconds": seconds,
    }
    lines = ask("homespun.engine.decoding_probe", request, TIME_LIMIT)
    return Decoded(**lines[-1]) if lines else None


def _serve(request: dict[str, Any]) -> None:
    """The work of the process: one line."""
    model, batch_size = model_config(request["model"]), request["batch_size"]
    began = time.perf_counter()
    reader = select.reader(model, ReaderConfig(**request["reader"]))
    reader.load(_weights(model))
    loaded = time.perf_counter() - began
    length = min(model.seq_len, POSITIONS)
    n_prompt = min(PROMPT_TOKENS, length - 1)
    decoder = reader.decoder(batch_size, length)
    rng = np.random.default_rng(0)

    def tokens(*shape: int) -> Any:
        return rng.integers(0, model.vocab_size, shape, dtype=np.int32)

    decoder.prefill(tokens(batch_size, n_prompt))
    times: list[float] = []
    began = time.perf_counter()
    while len(times) <= WARM_STEPS or time.perf_counter() - began < request["seconds"]:
        if decoder.length == length:
            decoder.rewind(n_prompt)
        drawn, start = tokens(batch_size), time.perf_counter()
        decoder.step(drawn)
        times.append(time.perf_counter() - start)
    counted = times[WARM_STEPS:]
    result = Decoded(
        batch_size / statistics.median(counted),
        len(counted),
        type(reader).__module__.split(".")[2],
        loaded,
    )
    print(json.dumps(dataclasses.asdict(result)), flush=True)


def _weights(model: ModelConfig) -> Iterator[NamedArray]:
    """Repeated random numbers for matrices, and the usual initial values for vectors."""
    block = np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32) * np.float32(0.02)
    for p in parameters(model):
        if p.group == "vector":
            yield p.name, np.full(p.shape, p.mean, np.float32)
        else:
            yield p.name, np.resize(block, p.shape)


if __name__ == "__main__":
    try:
        _serve(json.load(sys.stdin))
    except OutOfMemory:
        print(json.dumps({"out_of_memory": True}), flush=True)
