"""Trackio: a local database, which `trackio show` draws."""

import contextlib
import io
import os
import shlex
from collections.abc import Mapping
from typing import Any

import trackio

from homespun.records.tracking import TrackedRun


class Tracker:
    """Numbers as metrics, samples as Markdown, and the settings as config."""

    takes_back = False

    def __init__(self, run: TrackedRun) -> None:
        project = os.environ.get("TRACKIO_PROJECT", "homespun")
        self.place = f"trackio show --project {shlex.quote(project)}"
        with contextlib.redirect_stdout(io.StringIO()):
            self.run = trackio.init(
                project=project,
                name=f"{run.name}-{run.id}",
                config=dict(run.settings),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        # Trackio writes in the background, so a killed run may have lost its last steps. Trackio knows the next one.
        self.complete_to = -1
        if run.sent_to is not None:
            self.complete_to = getattr(self.run, "_next_step", run.sent_to + 1) - 1

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self.run.log({name: trackio.Markdown(text)}, step=step)

    def summary(self, step: int, values: Mapping[str, Any]) -> None:
        numbers = {f"summary/{n}": v for n, v in values.items() if not isinstance(v, str)}
        self.run.log(numbers, step=step)

    def close(self, *, failed: bool) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()  # unlike `run.finish`, it leaves nothing for the end of the process
