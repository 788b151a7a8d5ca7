"""Experts without tokens and collapsed routers are found and named; ordinary use is left alone."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence

from homespun.engine.base import RouterUse, StepResult
from homespun.planning.resolved import ResolvedConfig
from homespun.training.checkpointing.position import Position
from homespun.training.diagnostics.experts import (
    CHECKED_STEPS,
    COLLAPSED,
    DEAD,
    ExpertWatch,
    added,
    means,
)

CONFIG = ResolvedConfig()
EVEN = (0.25, 0.25, 0.25, 0.25)
UNEVEN = (0.45, 0.35, 0.19, 0.01)


def use(load: Sequence[float]) -> RouterUse:
    return RouterUse(2.1, 0.5, 1.0, tuple(load))


def seen(
    loads: Callable[[int], Sequence[Sequence[float]]],
    steps: int,
    config: ResolvedConfig = CONFIG,
    killed_after: int = 0,
) -> Iterator[tuple[int, str, str]]:
    """Step, cause and text of each advice for a run with these loads of its routers."""
    watch = ExpertWatch()
    for step in range(1, steps + 1):
        routers = tuple(map(use, loads(step)))
        result = StepResult(3.0, 0.5, clipped=False, applied=True, routers=routers)
        for advice in watch.observe_step(step, result, 2, config):
            yield step, advice.cause, advice.text
        if step == killed_after:
            stored = json.loads(json.dumps(Position(experts=watch).stored()))
            restored = Position.restored(stored).experts
            assert restored == watch
            watch = restored


def test_ordinary_use_is_left_alone() -> None:
    assert not list(seen(lambda step: [EVEN, UNEVEN], 2000))
    assert not list(seen(lambda step: [], 2000))


def test_frozen_routers_are_left_alone() -> None:
    """With LoRA the advice, a larger balance loss, would change nothing."""
    config = dataclasses.replace(CONFIG, lora_rank=4)
    assert not list(seen(lambda step: [(1.0, 0.0, 0.0, 0.0)], 1000, config))


def test_an_expert_without_tokens_is_named() -> None:
    found = list(seen(lambda step: [EVEN, (0.5, 0.2, 0.0, 0.3)], 1000))
    assert [(step, cause) for step, cause, _ in found] == [(200, DEAD), (800, DEAD)]
    assert "expert 3 of router 2 had no token in 100 steps" in found[0][2]
    assert "--resume --aux-loss 0.1" in found[0][2]


def test_one_token_in_the_steps_is_enough() -> None:
    rare = [(0.4, 0.3, 0.3, 0.0), (0.3, 0.3, 0.3, 0.1)]
    assert not list(seen(lambda step: [rare[step % CHECKED_STEPS == 50]], 1000))


def test_a_collapsed_router_is_named() -> None:
    found = list(seen(lambda step: [EVEN, (0.01, 0.49, 0.48, 0.02)], 300))
    assert [(step, cause) for step, cause, _ in found] == [(200, COLLAPSED)]
    assert "router 2 gives 97% of the tokens to 2 of its 4 experts" in found[0][2]
    without = dataclasses.replace(CONFIG, aux_loss=0.0)
    [(_, _, text)] = seen(lambda step: [(0.5, 0.5, 0.0, 0.0)], 300, without)
    assert "--aux-loss 0.01" in text


def test_the_first_steps_may_be_uneven() -> None:
    assert not list(seen(lambda step: [(0.5, 0.5, 0.0, 0.0) if step < 100 else EVEN], 1000))


def test_a_resumed_run_gives_the_same_advice() -> None:
    loads = [EVEN, (0.5, 0.2, 0.0, 0.3)]
    whole = list(seen(lambda step: loads, 1000))
    assert list(seen(lambda step: loads, 1000, killed_after=150)) == whole


def test_means_are_over_all_steps() -> None:
    rows = added(added([], [use(EVEN)]), [use((1.0, 0.0, 0.0, 0.0))])
    assert means(rows, 2) == [RouterUse(2.1, 0.5, 1.0, (0.625, 0.125, 0.125, 0.125))]
