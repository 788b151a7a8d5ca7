"""A planned run and a machine flow in; the time of its steps comes out, by some real steps or by a data sheet."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from homespun.architectures.lora import count_trained
from homespun.config import ReaderConfig
from homespun.data.sizing import TokenCount
from homespun.engine.base import Machine, OutOfMemory
from homespun.engine.decoding_probe import probe_decoding
from homespun.engine.probe import Probed, ProbeFailed, probe
from homespun.forecast.result import StepSpeed
from homespun.planning.answers import Work
from homespun.planning.estimate import (
    EVALUATION_COST,
    expected_seconds_per_step,
)
from homespun.planning.machines import BYTES_PER_WEIGHT, GIGABYTE, DataSheet
from homespun.planning.memory import (
    step_memory,
)
from homespun.planning.ranks import Ranks, Traffic, exposed_seconds, traffic
from homespun.planning.resolved import Plan
from homespun.terminal import bar, counted
from homespun.training.stages import engine_options
from homespun.training.timing.due import SAMPLING_COST

PROBE_SECONDS = 40.0
"""A probe takes so small a batch that some of its steps are expected to take no longer together."""


@dataclass(frozen=True)
class Probe:
    """A probe and the micro-batch that it took."""

    probed: Probed
    batch_size: int


def measured_speed(
    planned: Plan,
    machine: Machine,
    sheet: DataSheet | None,
    mark: int,
    count: TokenCount | None,
    notes: list[str],
) -> tuple[StepSpeed, Probe | None]:
    """The speed by a probe, or by the data sheet; and the probe."""
    c = planned.config
    flops = machine.flops_per_second(c.precision, c.threads)
    expected = expected_seconds_per_step(planned.in_rows, planned.tokens_per_step, flops)
    if sheet:
        update = (
            BYTES_PER_WEIGHT * count_trained(planned.model, planned.lora) / sheet.bytes_per_second()
        )
        how = "by the data sheet, not measured: within a factor of two"
        return StepSpeed(expected + update, None, how, update), None
    by_flops = StepSpeed(expected, None, "by the speed of matrix products here, not measured")
    found = _probe(planned, machine, mark, count, expected, notes)
    if found is None:
        return by_flops, None
    probed = found.probed
    updates = c.sequences_per_step / c.sequences_per_update
    per_step = updates * probed.seconds_per_step(c.sequences_per_update / found.batch_size)
    how = f"measured: {counted(probed.n_steps, 'step')}"
    if found.batch_size != c.largest_microbatch:
        how += f" of {counted(found.batch_size, 'sequence')}"
    return StepSpeed(per_step, probed.first_seconds, how, probed.update_seconds), found


def together(
    planned: Plan, machine: Machine, ranks: Ranks, alone: StepSpeed, interconnect: float | None
) -> tuple[Traffic, StepSpeed, float | None]:
    """The bytes that each rank sends in a step, the speed of all ranks, and their efficiency, from the speed of one."""
    c = planned.config
    rows = ranks.rows(c.sequences_per_step)
    micro_batches = -(-rows // c.batch_size)
    half = machine.computes_in_half(c.precision)
    sent = traffic(planned.model, ranks, micro_batches, c.optimizer, planned.lora, half=half)
    if ranks.n == 1:
        return sent, alone, None
    computing = (alone.seconds_per_step - alone.update_seconds) * rows / c.sequences_per_step
    seconds, efficiency = computing + alone.update_seconds / ranks.n, None
    if interconnect is not None:
        micro_seconds, per_second = computing / micro_batches, interconnect * GIGABYTE
        seconds += exposed_seconds(sent, ranks, micro_batches, micro_seconds, per_second)
        efficiency = alone.seconds_per_step / (ranks.n * seconds)
    how = f"{alone.how}; {ranks.n} ranks, calculated"
    return sent, StepSpeed(seconds, alone.first_seconds, how), efficiency


def _probe(
    planned: Plan,
    machine: Machine,
    mark: int,
    count: TokenCount | None,
    expected: float,
    notes: list[str],
) -> Probe | None:
    """Real steps, of fewer sequences if those of a whole micro-batch would take too long; None where none are
    possible."""
    c = planned.config
    free = machine.memory_available()
    per_sequence = expected / c.sequences_per_step
    batch_size = min(c.largest_microbatch, max(1, math.floor(PROBE_SECONDS / 4 / per_sequence)))
    while batch_size > 1 and step_memory(planned, machine, batch_size).total > free:
        batch_size //= 2
    needed = step_memory(planned, machine, batch_size)
    if needed.total > free or 2 * per_sequence > PROBE_SECONDS:
        return None

    compiled = c.compile == "on" and machine.compiles_at_once()
    if c.compile == "on" and not compiled:
        notes.append(
            "The run compiles its kernels, if that works here. The speed is that without them, since compiling takes "
            "longer than a probe."
        )
    try:
        with bar("Measuring some steps", None):
            found = probe(
                planned.in_rows,
                engine_options(c, mark, compiled=compiled),
                batch_size,
                engine=c.engine,
                accumulates=batch_size < c.sequences_per_update,
                document_tokens=count.document_tokens if count else c.seq_len,
                memory_limit=free - needed.initial_model,
            )
    except OutOfMemory:
        notes.append("The steps of the probe ran out of memory.")
        return None
    except ProbeFailed as error:
        notes.append(f"Nothing could be measured: {error}.")
        return None
    return Probe(found, batch_size) if found else None


def with_answers(
    planned: Plan,
    speed: StepSpeed,
    alone: StepSpeed,
    work: Work,
    sheet: DataSheet | None,
    probe: Probe | None,
    notes: list[str],
) -> StepSpeed:
    """The speed of steps that read and write answers besides training on them. One process writes them, at the speed of
    training `alone`."""
    c = planned.config
    per_token = speed.seconds_per_step / planned.tokens_per_step
    reading = per_token * (work.trained + EVALUATION_COST * work.read)
    if not work.decoded:
        return dataclasses.replace(speed, seconds_per_step=reading)
    notes.append(
        "The answers are taken to be as long as --answer-tokens allows, and no group is skipped, so steps usually take "
        "less. The time of the reward itself is not part of it."
    )
    writing = work.decoded * SAMPLING_COST * alone.seconds_per_step / planned.tokens_per_step
    if sheet is None:
        engine: Any = probe.probed.facts["engine"].split()[0] if probe else c.engine
        reader = ReaderConfig(engine=engine, precision=c.precision, threads=c.threads)
        try:
            with bar("Measuring some answers", None):
                found = probe_decoding(planned.model, reader, batch_size=c.group_size)
            if found:
                writing = work.decoded * c.group_size / found.tokens_per_second
        except (OutOfMemory, ProbeFailed) as error:
            notes.append(f"The speed of answers could not be measured: {error}.")
    return dataclasses.replace(speed, seconds_per_step=reading + writing)
