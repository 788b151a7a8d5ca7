"""Weights & Biases: a run on its server if the user has a key, otherwise files that `wandb sync` uploads later.

Only records and settings are sent: no code, no list of packages, nothing about the machine.
"""

import html
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from homespun.records.tracking import TrackedRun

OPENING_SECONDS = 15.0
"""Without an answer of the server, the run is tracked offline."""
CLOSING_SECONDS = 60.0
"""After that time, the rest of the values stays on the disk, where `wandb sync` finds it."""


class Tracker:
    """Numbers as history, samples as HTML, and the settings as config."""

    takes_back = False

    def __init__(self, run: TrackedRun) -> None:
        wandb.setup(settings=wandb.Settings(silent=True))
        mode = os.environ.get("WANDB_MODE", "online")
        # Without a key, wandb would ask for one.
        if mode in ("online", "shared", "run") and not wandb.login(prompt=False, verify=False):
            mode = "offline"
        folder = Path(os.environ.get("WANDB_DIR", run.folder)).resolve()
        earlier = list(folder.glob(f"wandb/offline-run-*-{run.id}"))
        unreachable = ""
        try:
            self.run = _opened(run, folder, mode)
        except wandb.errors.CommError as error:
            if mode != "online" or wandb.run is not None:
                raise
            wandb.teardown()  # the run that could not be opened would be in the way
            mode, unreachable = "offline", f"no connection ({error}), so "
            self.run = _opened(run, folder, mode)
        # A killed run has not written all that it was sent. Online, the server knows. Offline, the whole run is written
        # again, unless it has been uploaded.
        self.complete_to = self.run.starting_step - 1
        if mode == "offline" and run.last_step is not None and run.sent_to is not None:
            if any(map(_is_uploaded, earlier)):
                self.complete_to = max(run.last_step, run.sent_to - 1)
            else:
                for files in earlier:
                    shutil.rmtree(files)
        offline = f"{unreachable}offline; to upload it: wandb sync {self.run.settings.sync_dir}"
        self.place = offline if mode == "offline" else (self.run.url or mode)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        page = f'<pre style="white-space: pre-wrap">{html.escape(text)}</pre>'
        self.run.log({name: wandb.Html(page, inject=False)}, step=step)

    def summary(self, step: int, values: Mapping[str, Any]) -> None:
        self.run.summary.update(dict(values))

    def close(self, *, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


def _opened(run: TrackedRun, folder: Path, mode: str) -> Any:
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "homespun"),
        name=os.environ.get("WANDB_NAME", run.name),
        id=run.id,
        resume="allow",
        dir=str(folder),
        config=dict(run.settings),
        mode=mode,
        reinit="create_new",  # leaves a run of the user's own program as it is
        settings=wandb.Settings(
            console="off",
            silent=True,
            init_timeout=OPENING_SECONDS,
            finish_timeout=CLOSING_SECONDS,
            save_code=False,
            disable_git=True,
            x_save_requirements=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
        ),
    )


def _is_uploaded(files: Path) -> bool:
    """Whether `wandb sync` has marked the files of an offline run."""
    return any(files.glob("*.synced"))
