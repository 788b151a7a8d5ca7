"""This machine and a model flow in; the measured speeds of both flow out.

Each measurement of a model is taken in a process of its own. One that does not fit into memory, or would take too long,
says so instead of a figure.
"""

import math
import os
import platform
from dataclasses import dataclass, field
from importlib import metadata

from homespun.architectures.families import (
    count_active_parameters,
    count_parameters,
    flops_per_token,
    parameters,
)
from homespun.bench.subjects import Subject
from homespun.config import BenchConfig, ModelConfig, ReaderConfig, ReaderPrecision
from homespun.engine import hardware
from homespun.engine.base import EngineOptions, Machine, OptimizerSettings, OutOfMemory
from homespun.engine.decoding_probe import probe_decoding
from homespun.engine.probe import ProbeFailed, probe
from homespun.errors import UserError
from homespun.planning.estimate import Computing, expected_seconds_per_step, training_memory

PACKAGES = ("torch", "mlx", "numpy")
PRODUCTS = ("float32", "bfloat16", "float16")
"""Precisions in which matrix products are measured, where the machine computes in 16 bits."""
PRECISIONS: tuple[ReaderPrecision, ...] = ("float32", "bfloat16", "int8")
"""In which text is generated."""
BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Of a weight."""
TOKENS_PER_WEIGHT = 20
"""The usual length of training for a given amount of computation (Hoffmann et al., 2022)."""
SHARE_OF_FREE = 0.9
"""Of the free memory, a step may take this share by the estimate."""
LONGEST_PROBE = 40.0
"""Seconds that two steps of one sequence may take by the estimate."""
STEP_SECONDS, QUICK_STEP_SECONDS = 2.0, 0.5
"""A probe takes so many sequences at a time that a step is expected to take about so long."""
TRAINING_SECONDS, QUICK_TRAINING_SECONDS = 6.0, 2.0
DECODING_SECONDS, QUICK_DECODING_SECONDS = 2.0, 0.7


@dataclass(frozen=True)
class MachineFacts:
    """The machine, without anything about its user."""

    processor: str
    processors: int
    memory: int
    """Bytes of the device that a run may use."""
    system: str
    versions: dict[str, str]
    threads: int
    load: float = 0.0
    """Programs that ran or waited for a processor before the measurement, as a mean over a minute."""
    peak_flops: dict[str, float] = field(default_factory=dict)
    """Of matrix products, in a second, by precision."""
    bandwidth: float = 0.0
    """Bytes of the device's memory that are read in a second."""


@dataclass(frozen=True)
class Training:
    """How fast a model trains."""

    model: str
    weights: int
    tokens_per_second: float
    share_of_peak: float | None
    """Of the operations of its tokens in those of matrix products, in the precision of the run."""
    memory: int
    """Peak bytes of the steps."""
    seconds: float
    """To train on `TOKENS_PER_WEIGHT` tokens for each weight."""
    batch_size: int
    """Sequences that were computed at a time."""
    seq_len: int
    optimizer: str
    facts: dict[str, str]
    """Of the engine."""


@dataclass(frozen=True)
class Generation:
    """How fast a model generates one text."""

    model: str
    weights: int
    precision: str
    tokens_per_second: float
    share_of_bandwidth: float
    """Of the bytes of the weights that its tokens read, in those that the memory could give. A small model stays in the
    cache, which is faster than the memory."""
    engine: str


@dataclass(frozen=True)
class LeftOut:
    """Something that was not measured."""

    model: str
    what: str
    """Training, or the precision of the generation."""
    reason: str


def machine_facts(config: BenchConfig, machine: Machine) -> MachineFacts:
    """The machine, and its speeds."""
    import homespun

    load = os.getloadavg()[0]
    installed = {name: version for name in PACKAGES if (version := _version(name))}
    release = platform.mac_ver()[0] or platform.release().partition("-")[0]
    names = PRODUCTS if machine.computes_in_half("auto") else PRODUCTS[:1]
    peaks = {name: peak for name in names if (peak := _peak(config, machine, name))}
    return MachineFacts(
        processor=hardware.processor(),
        processors=hardware.usable_cpus(),
        memory=machine.memory_capacity(),
        system=f"{platform.system()} {release}, {platform.machine()}",
        versions={
            "homespun": homespun.__version__,
            "python": platform.python_version(),
            **installed,
        },
        threads=config.threads or hardware.usable_cpus(),
        load=load,
        peak_flops=peaks,
        bandwidth=machine.bytes_per_second(config.threads),
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _peak(config: BenchConfig, machine: Machine, precision: str) -> float | None:
    try:
        return machine.peak_flops_per_second(precision, config.threads)
    except UserError:  # the engine does not have this precision
        return None


def training(
    subject: Subject, config: BenchConfig, machine: Machine, facts: MachineFacts
) -> Training | LeftOut:
    """Train a few steps."""

    def left_out(reason: str) -> LeftOut:
        return LeftOut(subject.name, "training", reason)

    model, quick = subject.model, config.quick
    flops = machine.flops_per_second("auto", config.threads)
    sequence_seconds = expected_seconds_per_step(model, model.seq_len, flops)
    if 2 * sequence_seconds > LONGEST_PROBE:
        return left_out("too slow to measure")
    wanted = (QUICK_STEP_SECONDS if quick else STEP_SECONDS) / sequence_seconds
    batch_size = min(subject.batch_size, max(1, math.floor(wanted)))
    free = machine.memory_available()
    while _memory(subject, machine, batch_size) > SHARE_OF_FREE * free:
        if batch_size == 1:
            return left_out("does not fit into memory")
        batch_size //= 2
    settings = OptimizerSettings(
        subject.optimizer, weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0
    )
    options = EngineOptions(settings, compiled=machine.compiles_at_once(), threads=config.threads)
    try:
        found = probe(
            model,
            options,
            batch_size,
            engine=config.engine,
            accumulates=batch_size < subject.batch_size,
            least_steps=2,
            steps_seconds=QUICK_TRAINING_SECONDS if quick else TRAINING_SECONDS,
            memory_limit=free,
        )
    except OutOfMemory:
        return left_out("does not fit into memory")
    except ProbeFailed as error:
        return left_out(str(error))
    if found is None:
        return left_out("too slow to measure")
    step_tokens = subject.batch_size * model.seq_len
    rate = step_tokens / (
        subject.batch_size / batch_size * found.micro_seconds + found.update_seconds
    )
    peak = facts.peak_flops.get(found.facts["precision"])
    weights = count_parameters(model)
    return Training(
        model=subject.name,
        weights=weights,
        tokens_per_second=rate,
        share_of_peak=rate * flops_per_token(model) / peak if peak else None,
        memory=found.memory,
        seconds=TOKENS_PER_WEIGHT * weights / rate,
        batch_size=batch_size,
        seq_len=model.seq_len,
        optimizer=subject.optimizer,
        facts=found.facts,
    )


def _memory(subject: Subject, machine: Machine, batch_size: int) -> int:
    """The estimated bytes of a step."""
    traits = machine.step_traits("auto", subject.model.seq_len)
    computing = Computing(
        subject.optimizer, traits, masked=False, accumulates=batch_size < subject.batch_size
    )
    return training_memory(subject.model, batch_size, computing).total


def generation(
    subject: Subject,
    precision: ReaderPrecision,
    config: BenchConfig,
    machine: Machine,
    facts: MachineFacts,
) -> Generation | LeftOut:
    """Generate one text for a moment."""

    def left_out(reason: str) -> LeftOut:
        return LeftOut(subject.name, precision, reason)

    weights = count_parameters(subject.model)
    # Engines that also train keep the weights in float32, too.
    if 1.5 * BYTES["float32"] * weights > SHARE_OF_FREE * machine.memory_available():
        return left_out("does not fit into memory")
    try:
        found = probe_decoding(
            subject.model,
            ReaderConfig(engine=config.engine, precision=precision, threads=config.threads),
            seconds=QUICK_DECODING_SECONDS if config.quick else DECODING_SECONDS,
        )
    except OutOfMemory:
        return left_out("does not fit into memory")
    except ProbeFailed as error:
        return left_out(str(error))
    if found is None:
        return left_out("too slow to measure")
    read = BYTES[precision] * weights_read(subject.model)
    return Generation(
        model=subject.name,
        weights=weights,
        precision=precision,
        tokens_per_second=found.tokens_per_second,
        share_of_bandwidth=found.tokens_per_second * read / facts.bandwidth,
        engine=found.engine,
    )


def weights_read(model: ModelConfig) -> int:
    """The weights that a token reads. Of an embedding it reads one row, unless the output layer is tied to it."""
    embeddings = sum(p.size for p in parameters(model) if p.group == "embedding")
    head = model.vocab_size * model.d_model if model.tie_embeddings else 0
    return count_active_parameters(model) - embeddings + head
