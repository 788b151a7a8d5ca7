"""A planned run flows in; if its steps do not fit into memory, an error comes out, with flags that make them fit.

First choice is a smaller micro-batch with more accumulation, which makes the same update; then gradient checkpointing;
then a smaller model.
"""

from homespun.architectures.presets import PRESETS, shaped
from homespun.config.checked import flag
from homespun.engine import select
from homespun.errors import UserError
from homespun.planning.estimate import training_bytes
from homespun.planning.recipe import Plan
from homespun.terminal import Say, size


def check_memory(plan: Plan, say: Say) -> None:
    """Refuse a run that cannot fit into memory, and warn if it may not fit now.

    Raises:
        UserError: a step needs more memory than this process may use.
    """
    machine, needed = select.machine(plan.config.engine), _needed(plan)
    capacity, free = machine.memory_capacity(), machine.memory_available()
    if needed > capacity:
        raise UserError(
            f"a step needs about {size(needed)}, this machine has {size(capacity)}: {what_fits(plan, capacity)}"
        )
    if needed > free:
        say(
            f"A step needs about {size(needed)}, of which {size(free)} are free now: close other programs, or "
            f"{what_fits(plan, free)}."
        )


def out_of_memory(plan: Plan, *, saved: bool) -> UserError:
    """The error of a run that ran out of memory in spite of the estimate; `saved`: it has a checkpoint."""
    fixed, needed = _needed(plan, batch_size=0), _needed(plan)
    resume = "; --resume continues from the last checkpoint" if saved else ""
    return UserError(
        f"out of memory (a step was estimated at {size(needed)}): "
        f"{what_fits(plan, (fixed + needed) // 2)}{resume}"
    )


def what_fits(plan: Plan, limit: int) -> str:
    """The flags with which a step takes at most `limit` bytes, by estimate."""
    c = plan.config
    for checkpointing in (False, True) if not c.gradient_checkpointing else (True,):
        for batch_size in range(c.batch_size, 0, -1):
            needed = _needed(plan, batch_size, checkpointing)
            if c.sequences_per_step % batch_size == 0 and needed <= limit:
                flags = f"--batch-size {batch_size} --grad-accumulation-steps {c.sequences_per_step // batch_size}"
                if checkpointing and not c.gradient_checkpointing:
                    flags += " --gradient-checkpointing"
                return f"{flags} makes the same update with {size(needed)}"
    if c.init_from is not None:
        return "not even one sequence at a time fits: lower --seq-len, or take a smaller model"
    shape = {"vocab_size": plan.model.vocab_size, "seq_len": plan.model.seq_len}
    models = [(_needed(Plan(shaped(p, shape), c), 1), name) for name, p in PRESETS.items()]
    fitting = [(needed, name) for needed, name in models if needed <= limit]
    if fitting:
        needed, name = max(fitting)
        return (
            f"not even one sequence at a time fits, so the model has to be smaller: {flag('model_size')} {name} "
            f"--batch-size 1 takes {size(needed)}"
        )
    return "not even the smallest model fits: lower --seq-len, or free some memory"


def _needed(plan: Plan, batch_size: int | None = None, checkpointing: bool | None = None) -> int:
    """Estimated bytes of a step, as planned or with another batch size or checkpointing."""
    c, machine = plan.config, select.machine(plan.config.engine)
    return training_bytes(
        plan.in_training,
        c.batch_size if batch_size is None else batch_size,
        c.optimizer,
        half=machine.computes_in_half(c.precision),
        full_attention=not machine.has_own_memory(),
        lora=plan.lora,
        checkpointing=c.gradient_checkpointing if checkpointing is None else checkpointing,
    )
