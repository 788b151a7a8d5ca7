"""Limits of the Runs page that need no server."""

import dataclasses
import json
from pathlib import Path

import pytest

from homespun.checkpoint.folder import METRICS
from homespun.errors import UserError
from homespun.server.limits import Limits
from homespun.server.studio.processes import Processes
from homespun.server.studio.watched import Watched


@pytest.mark.parametrize(("most", "kept"), [(3, ["1", "2", "3"]), (2, ["2", "3"])])
def test_the_last_samples_of_a_run_are_shown(tmp_path: Path, most: int, kept: list[str]) -> None:
    lines = [{"step": n, "tokens": n, "prompt": "a", "text": str(n)} for n in (1, 2, 3)]
    (tmp_path / METRICS).write_text("".join(json.dumps(one) + "\n" for one in lines))
    watched = Watched(tmp_path, dataclasses.replace(Limits(), sample_texts=most))
    watched.update()
    assert [sample["text"] for sample in watched.whole()["samples"]] == kept


def test_a_plan_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    processes = Processes(tmp_path, Limits(plan_seconds=0.001))
    with pytest.raises(UserError, match=r"the plan took longer than 0\.001 seconds"):
        processes.plan(["plan"])
