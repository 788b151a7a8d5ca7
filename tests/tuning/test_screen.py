"""The table of a tune on a terminal."""

import io

from rich.console import Console

from homespun.tuning.screen import Screen


def test_a_message_in_brackets_is_no_markup() -> None:
    state = "failed: [/x] is no [list]"
    row = {"trial": "1", "steps": 3, "val_loss": None, "state": state}
    screen = Screen(print, [], 100, 0, lambda: [row])
    page = Console(file=io.StringIO(), width=80)
    page.print(screen._table())
    assert state in page.file.getvalue()  # type: ignore[attr-defined]


def test_in_a_pipe_trials_are_named_whatever_they_do_not_tell() -> None:
    now, said = 0.0, list[str]()
    screen = Screen(said.append, [], 100, 0, list, now=lambda: now)
    screen.started("trial_1")
    for second in range(31):  # a trial that computes its first step, or evaluates
        now = float(second)
        screen.wait()
        if second == 12:
            screen.progress("trial_1", 7, 40)
    assert [line.partition("  (")[0] for line in said] == [
        "trial_1: starting",
        "trial_1: step 7",
        "trial_1: step 7",
    ]
    assert said[-1].endswith("(40% of the tune, about 45 s left)")
