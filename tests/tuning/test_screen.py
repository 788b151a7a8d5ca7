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
