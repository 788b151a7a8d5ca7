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

    takes_back = True

    def __init__(self, run: TrackedRun) -> None:
        project = os.environ.get("TRACKIO_PROJECT", "homespun")
        name = f"{run.name}-{run.id}"
        self.place = f"trackio show --project {shlex.quote(project)}"
        self.complete_to = -1
        # Trackio writes in the background, so a killed run has lost its last steps: they are all sent again.
        if run.sent_to is not None and not _deleted(project, name):
            self.complete_to = run.sent_to
        with contextlib.redirect_stdout(io.StringIO()):
            self.run = trackio.init(
                project=project,
                name=name,
                config=dict(run.settings),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

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


def _deleted(project: str, name: str) -> bool:
    """Remove a run from the local database. False if there is none, as where Trackio writes to a server."""
    deleted = [run.delete() for run in trackio.Api().runs(project) if run.name == name]
    return any(deleted)
