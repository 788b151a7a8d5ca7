"""A planned run in; whether its steps fit into memory out, and if not, the flags with which they would.

A smaller micro-batch with more accumulation makes the same update, so that comes first; then computing more to keep
less; then another model.
"""

from homespun.architectures.presets import PRESETS, shaped
from homespun.config.checked import flag
from homespun.engine import select
from homespun.errors import UserError
from homespun.planning.estimate import training_bytes
from homespun.planning.recipe import Plan
from homespun.terminal import Say, size


def check_memory(plan: Plan, say: Say) -> None:
    """Refuse what cannot fit before the machine grinds to a halt over it, and say what may not fit now.

    Raises:
        UserError: a step needs more memory than this process may have.
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
    """What to tell the owner of a run that did not fit, whatever the estimate was; `saved`: it has a checkpoint."""
    fixed, needed = _needed(plan, batch_size=0), _needed(plan)
    go_on = "; --resume goes on from the last checkpoint" if saved else ""
    return UserError(
        f"out of memory (a step was estimated at {size(needed)}): "
        f"{what_fits(plan, (fixed + needed) // 2)}{go_on}"
    )


def what_fits(plan: Plan, room: int) -> str:
    """The flags with which a step takes at most `room` bytes, by estimate."""
    c = plan.config
    for checkpointing in (False, True) if not c.gradient_checkpointing else (True,):
        for batch_size in range(c.batch_size, 0, -1):
            needed = _needed(plan, batch_size, checkpointing)
            if c.sequences_per_step % batch_size == 0 and needed <= room:
                flags = f"--batch-size {batch_size} --grad-accumulation-steps {c.sequences_per_step // batch_size}"
                if checkpointing and not c.gradient_checkpointing:
                    flags += " --gradient-checkpointing"
                return f"{flags} makes the same update with {size(needed)}"
    shape = {"vocab_size": plan.model.vocab_size, "seq_len": plan.model.seq_len}
    models = [(_needed(Plan(shaped(p, shape), c), 1), name) for name, p in PRESETS.items()]
    fitting = [(needed, name) for needed, name in models if needed <= room]
    if fitting:
        needed, name = max(fitting)
        return (
            f"not one sequence at a time fits, so the model has to be smaller: {flag('model_size')} {name} "
            f"--batch-size 1 takes {size(needed)}"
        )
    return "not even the smallest model fits: lower --seq-len, or free some memory"


def _needed(plan: Plan, batch_size: int | None = None, checkpointing: bool | None = None) -> int:
    """Bytes of a step by estimate, as planned or otherwise."""
    c = plan.config
    return training_bytes(
        plan.model,
        c.batch_size if batch_size is None else batch_size,
        c.optimizer,
        half=select.machine(c.engine).computes_in_half(c.precision),
        checkpointing=c.gradient_checkpointing if checkpointing is None else checkpointing,
    )
