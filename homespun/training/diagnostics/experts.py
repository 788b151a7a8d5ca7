"""The use of the experts in each step flows in; findings about experts without tokens and collapsed routers come out.

The state is plain numbers, stored with each checkpoint. It does not depend on the log interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from homespun.engine.base import RouterUse, StepResult
from homespun.planning.resolved import ResolvedConfig
from homespun.training.diagnostics.step_guard import Finding

CHECKED_STEPS = 100
"""Steps over which the use of the experts is summed up for a finding; the first ones of a run give none."""
COLLAPSED_SHARE = 0.9
"""Share of all tokens. If those few experts that one token uses get more, all tokens use the same ones."""

DEAD, COLLAPSED = "dead expert", "collapsed router"

Rows = list[list[float]]
"""Sums over steps, one row for each block that has experts, as in `RouterUse`."""


def added(rows: Rows, routers: Sequence[RouterUse]) -> Rows:
    """The sums with one step more."""
    new = [[r.balance_loss, r.z_loss, r.entropy, *r.load] for r in routers]
    if not rows:
        return new
    return [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(rows, new, strict=True)]


def means(rows: Rows, steps: int) -> list[RouterUse]:
    """The use of a mean step."""
    return [RouterUse.of_row([value / steps for value in row]) for row in rows]


@dataclass
class ExpertWatch:
    """The use of the experts since the last check."""

    steps: int = 0
    sums: Rows = field(default_factory=list)
    advised_at: dict[str, int] = field(default_factory=dict)
    """The step of the last finding, by cause."""

    def observe_step(
        self, step: int, result: StepResult, per_token: int, config: ResolvedConfig
    ) -> list[Finding]:
        """Count a step that was applied, of a model with `per_token` experts for each token. With LoRA nothing is
        found: routers and experts stay as they are."""
        if not result.routers or config.lora_rank is not None:
            return []
        self.steps += 1
        self.sums = added(self.sums, result.routers)
        if self.steps < CHECKED_STEPS:
            return []
        routers = means(self.sums, self.steps)
        self.steps, self.sums = 0, []
        if step < 2 * CHECKED_STEPS:
            return []
        found = collapsed_router(routers, per_token, config) or dead_expert(routers, config)
        if not found or step < 4 * self.advised_at.get(found.cause, 0):
            return []
        self.advised_at[found.cause] = step
        return [found]


def dead_expert(routers: Sequence[RouterUse], config: ResolvedConfig) -> Finding | None:
    """An expert has had no token."""
    dead = [
        f"expert {expert} of router {router}"
        for router, use in enumerate(routers, start=1)
        for expert, share in enumerate(use.load, start=1)
        if share == 0
    ]
    if not dead:
        return None
    more = f" and {len(dead) - 1:,} more" if dead[1:] else ""
    return Finding(
        DEAD,
        f"{dead[0]}{more} had no token in {CHECKED_STEPS} steps, so it learns nothing: {_stronger(config)}, or take "
        "fewer --experts",
    )


def collapsed_router(
    routers: Sequence[RouterUse], per_token: int, config: ResolvedConfig
) -> Finding | None:
    """All tokens use the same experts."""
    for number, use in enumerate(routers, start=1):
        share = sum(sorted(use.load)[-per_token:])
        if len(use.load) > per_token and share > COLLAPSED_SHARE:
            return Finding(
                COLLAPSED,
                f"router {number} gives {share:.0%} of the tokens to {per_token} of its {len(use.load)} experts: "
                f"{_stronger(config)}; if that does not help, start again with it and a lower learning rate",
            )
    return None


def _stronger(config: ResolvedConfig) -> str:
    """The flags for a stronger balance loss."""
    factor = max(10 * config.aux_loss, ResolvedConfig.aux_loss)
    return f"continue with --resume --aux-loss {min(100.0, factor):g}"
