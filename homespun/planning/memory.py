"""A planned run flows in; if its steps do not fit into memory, an error comes out, with flags that make them fit.

First choice is a smaller micro-batch with more accumulation, which keeps the size of a step; then gradient
checkpointing; then bfloat16 for weights and moments; then a smaller model.
"""

import dataclasses
from collections.abc import Iterator

from homespun.architectures.presets import PRESETS, shaped
from homespun.config.checked import flag
from homespun.engine import launcher, select
from homespun.engine.base import Machine
from homespun.errors import UserError
from homespun.planning.estimate import Computing, TrainingMemory, training_memory
from homespun.planning.ranks import ALONE, Ranks
from homespun.planning.resolved import Plan, ResolvedConfig
from homespun.terminal import Say, size


def check_memory(plan: Plan, say: Say, *, is_new: bool = True) -> None:
    """Refuse a run that cannot fit into memory, and warn if it may not fit now.

    Args:
        is_new: the run has no steps yet, so that --memory can be chosen.

    Raises:
        UserError: a step needs more memory than this process may use.
    """
    machine = select.machine(plan.config.engine)
    ranks = ranks_here(plan, machine)
    needed = step_memory(plan, machine).total
    capacity = memory_of_rank(machine.memory_capacity(), machine, ranks)
    free = memory_of_rank(machine.memory_available(), machine, ranks)
    if needed > capacity:
        raise UserError(
            f"a step needs about {size(needed)}{' on each rank' if ranks.n > 1 else ''}, this machine has "
            f"{size(capacity)}{' for each' if ranks.n > 1 else ''}: "
            f"{what_fits(plan, capacity, machine, is_new=is_new)}"
        )
    if needed > free:
        say(
            f"A step needs about {size(needed)}, of which {size(free)} are free now: close other programs, or "
            f"{what_fits(plan, free, machine, is_new=is_new)}."
        )


def out_of_memory(plan: Plan, *, saved: bool, is_new: bool | None = None) -> UserError:
    """The error of a run that ran out of memory in spite of the estimate; `saved`: it has a checkpoint. `is_new` as for
    `check_memory`; None: if it has none."""
    machine = select.machine(plan.config.engine)
    fixed, needed = step_memory(plan, machine, 0).total, step_memory(plan, machine).total
    resume = "; --resume continues from the last checkpoint" if saved else ""
    return UserError(
        f"out of memory (a step was estimated at {size(needed)}): "
        f"{what_fits(plan, (fixed + needed) // 2, machine, is_new=not saved if is_new is None else is_new)}{resume}"
    )


def what_fits(
    plan: Plan, limit: int, machine: Machine, ranks: Ranks | None = None, *, is_new: bool = True
) -> str:
    """The flags with which a step takes at most `limit` bytes, by estimate; `ranks` as for `step_memory`,
    `is_new` as for `check_memory`."""
    ranks = ranks or ranks_here(plan, machine)
    c = plan.config
    for flags, config in _variants(plan, machine, ranks, is_new=is_new):
        for batch_size in range(c.batch_size, 0, -1):
            changed = dataclasses.replace(plan, config=config)
            needed = step_memory(changed, machine, batch_size, ranks=ranks).total
            divides = c.sequences_per_step % batch_size == batch_size % c.sequences_together == 0
            if divides and needed <= limit:
                return (
                    f"--batch-size {batch_size} --grad-accumulation-steps {c.sequences_per_step // batch_size}{flags} "
                    f"makes steps of the same size with {size(needed)}"
                )
    if c.reward is not None:
        return "not even one group of answers fits: lower --group-size or --answer-tokens, or take a smaller model"
    if c.init_from is not None:
        return "not even one sequence at a time fits: lower --seq-len, or take a smaller model"
    shape = {"vocab_size": plan.model.vocab_size, "seq_len": plan.model.seq_len}
    models = [
        (step_memory(Plan(shaped(p, shape), c), machine, 1, ranks=ranks).total, name)
        for name, p in PRESETS.items()
    ]
    fitting = [(needed, name) for needed, name in models if needed <= limit]
    if fitting:
        needed, name = max(fitting)
        return (
            f"not even one sequence at a time fits, so the model has to be smaller: {flag('model_size')} {name} "
            f"--batch-size 1 takes {size(needed)}"
        )
    return "not even the smallest model fits: lower --seq-len, or free some memory"


def _variants(
    plan: Plan, machine: Machine, ranks: Ranks, *, is_new: bool
) -> Iterator[tuple[str, ResolvedConfig]]:
    """The settings as they are, and others with which a step takes less memory, each with its flags."""
    c = plan.config
    yield "", c
    if not c.gradient_checkpointing:
        yield " --gradient-checkpointing", dataclasses.replace(c, gradient_checkpointing=True)
    if is_new and plan.lora is None and ranks.n == 1 and c.memory != "low":
        low = dataclasses.replace(c, memory="low", gradient_checkpointing=True, averaging=0.0)
        without = f" {flag('averaging')} 0" if c.averaging else ""
        yield f" {flag('memory')} low{without}", low


def n_ranks_here() -> int:
    """The number of processes that a launcher has started together with this one, itself included.

    Raises:
        UserError: the environment does not describe them.
    """
    place = launcher.place()
    return place.size if place else 1


def ranks_here(plan: Plan, machine: Machine) -> Ranks:
    """The ranks that a launcher has started with this process, and whether they divide the weights of this run.

    Raises:
        UserError: the environment does not describe them.
    """
    place = launcher.place()
    return chosen_ranks(plan, machine, place.size, place.size_on_machine) if place else ALONE


def chosen_ranks(plan: Plan, machine: Machine, n: int, on_machine: int = 1) -> Ranks:
    """So many ranks. They divide the weights if the run says so, or if a step would not fit otherwise."""
    whole = Ranks(n, on_machine)
    if n == 1 or plan.config.shard == "none":
        return whole
    capacity = memory_of_rank(machine.memory_capacity(), machine, whole)
    if plan.config.shard == "auto" and step_memory(plan, machine, ranks=whole).total <= capacity:
        return whole
    return dataclasses.replace(whole, sharded=True)


def memory_of_rank(n_bytes: int, machine: Machine, ranks: Ranks) -> int:
    """The part of a machine's memory that a rank may use."""
    shared = ranks.on_machine > 1 and not machine.has_own_memory()
    return n_bytes // ranks.on_machine if shared else n_bytes


def step_memory(
    plan: Plan,
    machine: Machine,
    batch_size: int | None = None,
    ranks: Ranks | None = None,
) -> TrainingMemory:
    """Estimated memory of a step, as planned or with another batch size or other ranks than here."""
    c = plan.config
    ranks = ranks or ranks_here(plan, machine)
    rows = ranks.rows(c.sequences_per_update)
    micro_batch = min(c.batch_size if batch_size is None else batch_size, rows)
    computing = Computing(
        c.optimizer,
        machine.step_traits(c.precision, plan.in_rows.seq_len),
        accumulates=micro_batch < rows,
        ranks=ranks,
        lora=plan.lora,
        checkpointing=c.gradient_checkpointing,
        low_memory=c.memory == "low",
        averaging=c.averaging > 0,
        has_reference=c.reward is not None and c.kl_factor > 0,
        writes_answers=c.reward is not None,
    )
    return training_memory(plan.in_rows, micro_batch, computing)
