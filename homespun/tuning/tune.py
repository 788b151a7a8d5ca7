"""The settings of a tune flow in; trials run as processes of their own, and the best settings come out."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homespun import workspace
from homespun.config import BUILT_IN_REWARDS, TuneConfig
from homespun.errors import UserError
from homespun.terminal import Say
from homespun.training.interrupts import Interrupts
from homespun.tuning.course import PLOT, Course, NewCrew
from homespun.tuning.design import (
    TuneFolder,
    designed,
    expected,
    given_config,
    resumed,
    stated_names,
)
from homespun.tuning.preparation import check_text
from homespun.tuning.processes import Crew
from homespun.tuning.result import TuneResult
from homespun.tuning.sampling import check_installed


def tune(
    given: Mapping[str, Any],
    say: Say,
    interrupts: Interrupts,
    config: TuneConfig | None = None,
    new_crew: NewCrew = Crew,
) -> TuneResult:
    """Run a tune, or go on with one.

    Args:
        given: settings by name, such as the flags of the command line.
        say: gets the messages.
        interrupts: handles the signals; a tune that is stopped saves its trials and ends.
        config: all settings, from Python.
        new_crew: makes the processes.

    Raises:
        UserError: something that the user can fix; nothing that was trained is lost.
    """
    workspace.check()
    wanted = given_config(given, config)
    if wanted.dry_run:
        raise UserError("--dry-run trains nothing: leave it out, or use homespun tune --dry-run")
    check_installed(wanted.method)
    asked = frozenset(stated_names(given))
    folder = TuneFolder(Path(wanted.checkpoint_dir))
    with folder.lock() as lock:
        design = resumed(wanted, given, config, folder.path)
        if design:
            check_text(design.recipe, design.data_sha256)
        else:
            design = designed(wanted, asked, lock, say)
        course = Course(design, folder.path, wanted, say, interrupts, new_crew)
        return course.run()


def expected_tune(given: Mapping[str, Any], say: Say) -> dict[str, str]:
    """A tune in words before it starts; nothing is written. Arguments and errors as for `tune`."""
    workspace.check()
    wanted = given_config(given, None)
    check_installed(wanted.method)
    return expected(wanted, frozenset(stated_names(given)), say)


def describe(result: TuneResult) -> dict[str, str]:
    """The files of a tune, and the command that may follow."""
    if not result.is_complete:
        place = (
            ""
            if str(result.folder) == TuneConfig.checkpoint_dir
            else f" --checkpoint-dir {shlex.quote(str(result.folder))}"
        )
        reward = result.best.get("reward")
        named = ""
        if reward is not None and reward not in BUILT_IN_REWARDS:  # no file runs code by itself
            named = f" --reward {shlex.quote(reward)}"
        return {"resume": f"homespun tune --resume{named}{place}"}
    edge = {}
    if result.at_edge:
        names = " and ".join(result.at_edge)
        lie = "lies" if len(result.at_edge) == 1 else "lie"
        edge["wider"] = (
            f"the best {names} {lie} at the edge of what was tried: try more values with --search"
        )
    return {
        **edge,
        "best": str(result.best_toml),
        "plot": str(result.folder / PLOT),
        "cost": f"{result.cost:.2f} whole runs",
        "train": f"homespun train --config {shlex.quote(str(result.best_toml))}",
    }
