"""A planned run flows in; the same run with the largest micro-batch that fits into memory comes out.

The size of a step stays the same: a smaller micro-batch comes with more accumulation.
"""

import dataclasses

from homespun.engine.base import EngineOptions, Machine, OutOfMemory
from homespun.engine.probe import ProbeFailed, probe
from homespun.planning.memory import memory_of_rank, ranks_here, step_memory
from homespun.planning.ranks import Ranks
from homespun.planning.resolved import Plan
from homespun.terminal import Say, bar, counted, size

SHARE_OF_FREE = 0.9
"""Of the free memory, a step may take this share by the estimate."""
MOST_PROBES = 3


def fitting_batch(
    plan: Plan,
    machine: Machine,
    options: EngineOptions,
    say: Say,
    *,
    probes: bool = True,
    ranks: Ranks | None = None,
) -> Plan:
    """Choose the micro-batch by the estimate, and check it by a real step, which may run out of memory.

    Args:
        options: of the engine.
        say: gets the choice.
        probes: whether the steps can be tried; not on another machine.
        ranks: the processes that train together; None: those of this run. A model that they divide is not tried.
    """
    ranks = ranks or ranks_here(plan, machine)
    probes = probes and not ranks.sharded
    c = plan.config
    n = c.sequences_per_step
    least = c.sequences_together
    sizes = [size for size in range(n, 0, -1) if n % size == 0 and size % least == 0]
    free = memory_of_rank(machine.memory_available(), machine, ranks)
    fitting = [
        batch_size
        for batch_size in sizes
        if step_memory(plan, machine, batch_size, ranks=ranks).total <= SHARE_OF_FREE * free
    ]
    initial_model = step_memory(plan, machine, least, ranks=ranks).initial_model
    for batch_size in fitting[:MOST_PROBES] if probes else ():
        try:
            with bar(f"Trying a micro-batch of {counted(batch_size, 'sequence')}", None):
                found = probe(
                    plan.in_rows,
                    options,
                    min(batch_size, c.sequences_per_update),
                    engine=c.engine,
                    accumulates=batch_size < c.sequences_per_update,
                    document_tokens=c.seq_len,
                    least_steps=1,
                    steps_seconds=0.0,
                    memory_limit=free - initial_model,
                )
        except OutOfMemory:
            say(f"A micro-batch of {counted(batch_size, 'sequence')} ran out of memory.")
            fitting = fitting[1:]
            continue
        except ProbeFailed as error:
            say(f"The micro-batch could not be tried: {error}.")
            break
        took = f", of which a trial took {size(found.memory + initial_model)}" if found else ""
        return _chosen(plan, batch_size, f"{size(free)} are free{took}", say)
    batch_size = (fitting or [least])[0]
    needed = step_memory(plan, machine, batch_size, ranks=ranks).total
    return _chosen(
        plan, batch_size, f"{size(free)} are free, by the estimate it takes {size(needed)}", say
    )


def _chosen(plan: Plan, batch_size: int, reason: str, say: Say) -> Plan:
    accumulation = plan.config.sequences_per_step // batch_size
    say(
        f"Micro-batch (--auto-batch): {counted(batch_size, 'sequence')}, {counted(accumulation, 'time')} a step: "
        f"{reason}."
    )
    config = dataclasses.replace(
        plan.config, batch_size=batch_size, grad_accumulation_steps=accumulation
    )
    return dataclasses.replace(plan, config=config)
