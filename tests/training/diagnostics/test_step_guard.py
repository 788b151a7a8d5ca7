"""The best evaluation, patience, spikes, and refused steps."""

import dataclasses
import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

import homespun
from homespun.checkpoint.folder import CheckpointFolder
from homespun.engine.base import StepResult
from homespun.engine.torch.engine import TorchEngine
from homespun.errors import UserError
from homespun.planning.resolved import ResolvedConfig
from homespun.training.checkpointing.position import Position
from homespun.training.diagnostics.step_guard import (
    MAX_REFUSED_IN_A_ROW,
    MIN_RECENT_STEPS,
    NOT_FINITE,
    RECENT_STEPS,
    SPIKE,
    Limits,
    StepGuard,
)
from tests.conftest import records

CONFIG = ResolvedConfig()


def result(loss: float = 4.0, norm: float = 0.5, applied: bool = True) -> StepResult:
    return StepResult(loss, norm, clipped=False, applied=applied)


NAN = result(math.nan, math.nan, applied=False)


def usual(guard: StepGuard, steps: int, since: int = 0) -> None:
    """Observe steps with the usual loss and norm."""
    for step in range(since + 1, since + 1 + steps):
        guard.observe_step(step, result(), Limits(), "abcd", CONFIG)


def test_the_best_evaluation_is_remembered_and_the_others_are_counted() -> None:
    guard = StepGuard()
    better = [guard.observe_evaluation(loss) for loss in (3.0, 2.0, 2.0, 2.5)]
    assert better == [True, True, False, False]  # an equal loss is no better
    assert guard.best_val_loss == 2.0
    assert guard.evaluations_without_better == 2
    assert guard.observe_evaluation(1.9)
    assert guard.evaluations_without_better == 0


def test_an_evaluation_that_is_not_a_number_is_never_better() -> None:
    guard = StepGuard()
    guard.observe_evaluation(3.0)
    assert not guard.observe_evaluation(float("nan"))
    assert guard.best_val_loss == 3.0


def test_a_first_evaluation_that_is_not_a_number_does_not_stay_the_best() -> None:
    guard = StepGuard()
    assert not guard.observe_evaluation(float("nan"))
    assert guard.observe_evaluation(3.0)
    assert guard.best_val_loss == 3.0


def test_refused_steps_are_counted_and_too_many_in_a_row_end_the_run() -> None:
    guard = StepGuard()
    for step in range(1, MAX_REFUSED_IN_A_ROW):
        said = guard.observe_step(step, NAN, Limits(), "abcd", CONFIG)
        assert said == (NOT_FINITE, "the loss was not finite: refused, batch abcd", False)
    assert guard.observe_step(MAX_REFUSED_IN_A_ROW, result(), Limits(), "abcd", CONFIG) is None
    assert guard.refused == MAX_REFUSED_IN_A_ROW - 1
    assert guard.refused_in_a_row == 0
    for step in range(100, 100 + MAX_REFUSED_IN_A_ROW - 1):
        guard.observe_step(step, NAN, Limits(), "abcd", CONFIG)
    last = guard.observe_step(109, NAN, Limits(), "ffff", CONFIG)
    assert last is not None
    assert last.ends_run
    assert last.cause == "standstill"
    assert "the loss was not finite in step 109 (batch ffff), and the 9 steps before" in last.text
    assert "--resume --learning-rate 0.0001" in last.text


def test_gradients_that_are_not_finite_are_told_apart_from_a_loss_that_is_not() -> None:
    guard, config = StepGuard(), dataclasses.replace(CONFIG, precision="bfloat16", optimizer="muon")
    infinite = result(norm=math.inf, applied=False)
    for step in range(1, MAX_REFUSED_IN_A_ROW + 1):
        said = guard.observe_step(step, infinite, Limits(), "abcd", config)
    assert said is not None
    assert said.text.startswith("the loss was finite, its gradients were not in step 10")
    assert said.text.endswith(
        "--learning-rate 0.0001 --muon-learning-rate 0.007, or with --precision float32"
    )


def test_limits_are_far_above_recent_steps_and_need_enough_of_them() -> None:
    guard = StepGuard()
    usual(guard, MIN_RECENT_STEPS)
    assert guard.limits(MIN_RECENT_STEPS + 1) == Limits()  # the last step may be unread
    usual(guard, 1, since=MIN_RECENT_STEPS)
    limits = guard.limits(MIN_RECENT_STEPS + 2)
    assert limits.loss == pytest.approx(4.0 * 1.2)
    assert limits.norm == pytest.approx(0.5 * 5)
    for step in range(1000, 1000 + RECENT_STEPS):  # noisier; older steps are forgotten
        guard.observe_step(step, result(8.0 + step % 3), Limits(), "abcd", CONFIG)
    assert guard.limits(2000).loss == pytest.approx(9.0 + 15)


@pytest.mark.parametrize("loss", [0.0, -0.02, 0.02])
def test_steps_without_a_gradient_are_not_compared_with(loss: float) -> None:
    """With a reward, a step whose answers all score the same has no gradient, and losses lie around zero."""
    guard, config = StepGuard(), dataclasses.replace(CONFIG, on_spike="warn")
    for step in range(1, 400):
        learns = step % 3 == 0
        found = result(loss * (-1) ** step, 0.4) if learns else result(0.0, 0.0)
        limits = guard.limits(step)
        assert found.grad_norm <= limits.norm
        assert guard.observe_step(step, found, limits, "abcd", config) is None
    assert limits == Limits(norm=pytest.approx(0.4 * 5))


def test_limits_do_not_depend_on_whether_the_last_step_has_been_read() -> None:
    """On a device that computes asynchronously the last step is unread, but after a checkpoint it has been read."""
    guard = StepGuard()
    for step in range(1, RECENT_STEPS + 1):
        guard.observe_step(step, result(4.0 + step, 0.1 * step), Limits(), "abcd", CONFIG)
    unread = guard.limits(RECENT_STEPS + 2)
    guard.observe_step(RECENT_STEPS + 1, result(40.0, 5.0), unread, "abcd", CONFIG)
    assert guard.limits(RECENT_STEPS + 2) == unread != Limits()


def test_a_spike_is_said_once_and_becomes_usual_if_it_stays() -> None:
    guard = StepGuard()
    usual(guard, RECENT_STEPS)
    said = []
    for step in range(RECENT_STEPS + 1, 4 * RECENT_STEPS):
        limits = guard.limits(step)
        said.append(guard.observe_step(step, result(6.0), limits, "abcd", CONFIG))
    [spike] = [advice for advice in said if advice]
    assert said[0] == spike
    assert spike.cause == SPIKE
    assert spike.text.startswith("the loss jumped to 6 from about 4, batch abcd; if that repeats,")
    assert not math.isinf(limits.loss)
    assert guard.refused == 0


def test_a_spike_that_was_refused_is_not_compared_with_and_too_many_end_the_run() -> None:
    guard, config = StepGuard(), dataclasses.replace(CONFIG, on_spike="skip")
    usual(guard, RECENT_STEPS)
    before, said = list(guard.recent), []
    for step in range(RECENT_STEPS + 1, RECENT_STEPS + 1 + MAX_REFUSED_IN_A_ROW):
        spike = result(norm=50.0, applied=False)
        said.append(guard.observe_step(step, spike, guard.limits(step), "abcd", config))
    assert guard.recent == before
    first, *_, last = said
    assert first == (
        SPIKE,
        "the gradient norm jumped to 50 from about 0.5, batch abcd: refused; if that repeats, "
        "--learning-rate 0.0001",
        False,
    )
    assert last is not None
    assert last.ends_run
    assert last.text.startswith("loss or gradient norm was far above the usual in step 110")


def test_a_run_that_shall_stop_at_a_spike_does() -> None:
    guard, config = StepGuard(), dataclasses.replace(CONFIG, on_spike="stop")
    usual(guard, RECENT_STEPS)
    spike = result(9.0, applied=False)
    said = guard.observe_step(
        RECENT_STEPS + 1, spike, guard.limits(RECENT_STEPS + 1), "abcd", config
    )
    assert said is not None
    assert said.ends_run
    assert said.cause == SPIKE
    assert said.text.startswith("in step 101 the loss jumped to 9 from about 4, batch abcd")


@pytest.mark.parametrize(
    "killed_after", [1, MIN_RECENT_STEPS, MIN_RECENT_STEPS + 2, RECENT_STEPS, RECENT_STEPS + 2, 200]
)
def test_a_restored_guard_decides_as_the_one_that_was_stored(killed_after: int) -> None:
    luck = random.Random(0)
    values = [(luck.lognormvariate(1, 0.5), luck.lognormvariate(0, 2)) for _ in range(250)]
    config = dataclasses.replace(CONFIG, on_spike="skip")

    def decisions(kill: bool) -> list[tuple[object, object, int]]:
        guard, made = StepGuard(best_val_loss=2.0), []
        for step, (loss, norm) in enumerate(values, start=1):
            if kill and step == killed_after:
                stored = json.loads(json.dumps(Position(guard=guard).stored(), allow_nan=False))
                guard = Position.restored(stored).guard
            limits = guard.limits(step)
            applied = loss <= limits.loss and norm <= limits.norm
            said = guard.observe_step(step, result(loss, norm, applied), limits, "abcd", config)
            made.append((limits, said, guard.refused_in_a_row))
        return made

    whole = decisions(kill=False)
    assert len([said for _, said, _ in whole if said]) > 5
    assert decisions(kill=True) == whole


def test_a_state_that_an_earlier_version_stored_is_restored() -> None:
    values = Position(step=7, guard=StepGuard(best_val_loss=2.0)).stored()
    values["guard"]["best_step"] = 5
    del values["guard"]["recent"], values["guard"]["spike_at"], values["watch"]
    assert Position.restored(values) == Position(step=7, guard=StepGuard(best_val_loss=2.0))


def test_a_real_run_in_which_nothing_is_finite_ends_and_has_changed_nothing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward, steps = TorchEngine._backward, itertools.count(1)

    def broken(self: TorchEngine, batches: Any, *step: int) -> Any:
        loss, *others = backward(self, batches, *step)
        return loss * (math.nan if next(steps) > 15 else 1.0), *others

    monkeypatch.setattr(TorchEngine, "_backward", broken)
    shape = {"model_size": "pico", "n_layers": 1, "d_model": 32, "n_heads": 1, "vocab_size": 300}
    pace = {"seq_len": 16, "batch_size": 2, "max_steps": 40, "save_interval": 5, "threads": 2}
    with pytest.raises(UserError, match=r"^standstill: the loss was not finite in step 25 \(batch"):
        homespun.train(**shape, **pace, optimizer="muon", compile="off")
    run = workplace / "checkpoints"
    said = [record["cause"] for record in records(run) if "advice" in record]
    assert said == [NOT_FINITE] * 9 + ["standstill"]
    assert CheckpointFolder(run).steps() == [15, 10, 5]  # step 20 was refused, so it is not saved
