"""The best evaluation, patience, and steps that had to be refused."""

import dataclasses

import pytest

from homespun.errors import UserError
from homespun.training.guard import MAX_REFUSED_IN_A_ROW, Guard
from homespun.training.position import Position


def test_the_best_evaluation_is_remembered_and_the_others_are_counted() -> None:
    guard = Guard()
    better = [guard.evaluated(loss) for loss in (3.0, 2.0, 2.0, 2.5)]
    assert better == [True, True, False, False]  # an equal one is no better
    assert guard.best_val_loss == 2.0
    assert guard.evaluations_without_better == 2
    assert guard.evaluated(1.9)
    assert guard.evaluations_without_better == 0


def test_an_evaluation_that_is_not_a_number_is_never_better() -> None:
    guard = Guard()
    guard.evaluated(3.0)
    assert not guard.evaluated(float("nan"))
    assert guard.best_val_loss == 3.0


def test_a_first_evaluation_that_is_not_a_number_does_not_stay_the_best() -> None:
    guard = Guard()
    assert not guard.evaluated(float("nan"))
    assert guard.evaluated(3.0)
    assert guard.best_val_loss == 3.0


def test_refused_steps_are_counted_and_too_many_in_a_row_end_the_run() -> None:
    guard = Guard()
    for step in range(1, MAX_REFUSED_IN_A_ROW):
        guard.stepped(step, applied=False)
    guard.stepped(MAX_REFUSED_IN_A_ROW, applied=True)
    assert guard.refused == MAX_REFUSED_IN_A_ROW - 1
    assert guard.refused_in_a_row == 0
    for step in range(100, 100 + MAX_REFUSED_IN_A_ROW - 1):
        guard.stepped(step, applied=False)
    last = 100 + MAX_REFUSED_IN_A_ROW - 1
    with pytest.raises(
        UserError, match=f"not finite in 10 steps in a row, the last being step {last}"
    ):
        guard.stepped(last, applied=False)


def test_a_restored_guard_decides_as_the_one_that_was_stored() -> None:
    guard = Guard()
    guard.evaluated(2.0)
    for step in range(MAX_REFUSED_IN_A_ROW - 1):
        guard.stepped(step, applied=False)
    restored = Guard(**dataclasses.asdict(guard))
    assert not restored.evaluated(2.1)
    with pytest.raises(UserError):
        restored.stepped(MAX_REFUSED_IN_A_ROW, applied=False)


def test_a_state_that_an_earlier_version_stored_is_restored() -> None:
    values = dataclasses.asdict(Position(step=7, guard=Guard(best_val_loss=2.0)))
    values["guard"]["best_step"] = 5
    assert Position.restored(values) == Position(step=7, guard=Guard(best_val_loss=2.0))
