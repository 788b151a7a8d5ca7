"""A planned run flows in; if its steps do not fit into memory, an error comes out, with flags that make them fit.

First choice is a smaller micro-batch with more accumulation, which keeps the size of a step; then gradient
checkpointing; then a smaller model.
"""

from homespun.architectures.presets import PRESETS, shaped
from homespun.config.checked import flag
from homespun.engine import select
from homespun.engine.base import Machine
from homespun.errors import UserError
from homespun.planning.estimate import Computing, TrainingMemory, training_memory
from homespun.planning.recipe import Plan
from homespun.terminal import Say, size


def check_memory(plan: Plan, say: Say) -> None:
    """Refuse a run that cannot fit into memory, and warn if it may not fit now.

    Raises:
        UserError: a step needs more memory than this process may use.
    """
    machine = select.machine(plan.config.engine)
    needed = step_memory(plan, machine).total
    capacity, free = machine.memory_capacity(), machine.memory_available()
    if needed > capacity:
        raise UserError(
            f"a step needs about {size(needed)}, this machine has {size(capacity)}: "
            f"{what_fits(plan, capacity, machine)}"
        )
    if needed > free:
        say(
            f"A step needs about {size(needed)}, of which {size(free)} are free now: close other programs, or "
            f"{what_fits(plan, free, machine)}."
        )


def out_of_memory(plan: Plan, *, saved: bool) -> UserError:
    """The error of a run that ran out of memory in spite of the estimate; `saved`: it has a checkpoint."""
    machine = select.machine(plan.config.engine)
    fixed, needed = step_memory(plan, machine, 0).total, step_memory(plan, machine).total
    resume = "; --resume continues from the last checkpoint" if saved else ""
    return UserError(
        f"out of memory (a step was estimated at {size(needed)}): "
        f"{what_fits(plan, (fixed + needed) // 2, machine)}{resume}"
    )


def what_fits(plan: Plan, limit: int, machine: Machine) -> str:
    """The flags with which a step takes at most `limit` bytes, by estimate."""
    c = plan.config
    for checkpointing in (False, True) if not c.gradient_checkpointing else (True,):
        for batch_size in range(c.batch_size, 0, -1):
            needed = step_memory(plan, machine, batch_size, checkpointing).total
            divides = c.sequences_per_step % batch_size == batch_size % c.sequences_together == 0
            if divides and needed <= limit:
                flags = f"--batch-size {batch_size} --grad-accumulation-steps {c.sequences_per_step // batch_size}"
                if checkpointing and not c.gradient_checkpointing:
                    flags += " --gradient-checkpointing"
                return f"{flags} makes steps of the same size with {size(needed)}"
    if c.init_from is not None:
        return "not even one sequence at a time fits: lower --seq-len, or take a smaller model"
    shape = {"vocab_size": plan.model.vocab_size, "seq_len": plan.model.seq_len}
    models = [
        (step_memory(Plan(shaped(p, shape), c), machine, 1).total, name)
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


def step_memory(
    plan: Plan,
    machine: Machine,
    batch_size: int | None = None,
    checkpointing: bool | None = None,
) -> TrainingMemory:
    """Estimated memory of a step, as planned or with another batch size or checkpointing."""
    c = plan.config
    computing = Computing(
        c.optimizer,
        machine.step_traits(c.precision, c.seq_len),
        accumulates=c.grad_accumulation_steps > 1,
        lora=plan.lora,
        checkpointing=c.gradient_checkpointing if checkpointing is None else checkpointing,
    )
    return training_memory(
        plan.in_training, c.batch_size if batch_size is None else batch_size, computing
    )
