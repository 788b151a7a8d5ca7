"""Trials to run flow in, their processes run, and their progress and their ends flow out."""

import contextlib
import json
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from homespun import child_process
from homespun.checkpoint.folder import CheckpointFolder
from homespun.errors import FolderInUseError, UserError
from homespun.terminal import SILENT_SECONDS, Say, bar

WAIT_FOR_ORPHANS = 600.0
"""Seconds that a trial of a tune that was killed may take to save and end."""
POLL = 0.2


@dataclass(frozen=True, eq=False)
class Job:
    """A part of a trial."""

    name: str
    """Of the folder of the trial."""
    settings: Mapping[str, Any]
    """For `train`, with the folder."""
    stop_at: int | None
    """The step of the rung; None: the end of the run."""

    @property
    def folder(self) -> Path:
        return Path(self.settings["checkpoint_dir"])


@dataclass(frozen=True)
class Progress:
    """A running trial has done so many steps since its beginning."""

    job: Job
    step: int


@dataclass(frozen=True)
class Finished:
    """The process of a job has ended."""

    job: Job
    status: int
    """As that of `homespun train`; negative: the number of the signal that killed it."""
    error: str | None = None
    """The message of a trial that cannot go on."""
    passes: bool = False
    """The error is no fault of the settings, such as a full disk: later, the trial may go on."""


class Crew:
    """The processes of a tune. Leaving the block stops them, and waits until they have saved."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._running: dict[Job, subprocess.Popen[bytes]] = {}
        self._happened: queue.Queue[Progress | Finished] = queue.Queue()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, job: Job) -> None:
        """Start the process of a job, beside a file with its messages.

        Raises:
            UserError: another process still uses the folder, or no process can be started.
        """
        self._wait_until_free(job.folder)
        log = job.folder.with_name(f"{job.folder.name}.log")
        try:
            with log.open("ab") as messages:
                process = subprocess.Popen(
                    child_process.command("homespun.tuning.worker"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=messages,
                    env=child_process.environment(),
                )
        except OSError as error:
            raise UserError(f"trial {job.name} cannot be started ({error.strerror})") from error
        self._running[job] = process
        assert process.stdin
        assert process.stdout
        order = {"settings": dict(job.settings), "stop_at": job.stop_at}
        with contextlib.suppress(OSError):  # its exit status tells more
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
        reader = threading.Thread(
            target=self._read, args=(job, process, process.stdout), daemon=True
        )
        reader.start()

    def happening(self) -> Progress | Finished | None:
        """The next event, or None after a moment without one."""
        try:
            event = self._happened.get(timeout=POLL)
        except queue.Empty:
            return None
        if isinstance(event, Finished):
            process = self._running.pop(event.job)
            with contextlib.suppress(OSError):
                assert process.stdin
                process.stdin.close()
        return event

    def stop(self) -> None:
        """Let all processes save and end, and wait for them."""
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        if not self._running:
            return
        with bar("Waiting until the trials have saved", None):
            for process in self._running.values():
                process.wait()
                with contextlib.suppress(OSError):
                    assert process.stdin
                    process.stdin.close()
        self._running.clear()

    def _read(self, job: Job, process: "subprocess.Popen[bytes]", lines: IO[bytes]) -> None:
        """Pass on the lines of a process, and its end."""
        error, passes = None, False
        for line in lines:
            facts = json.loads(line)
            if "error" in facts:
                error, passes = facts["error"], facts["passes"]
            else:
                self._happened.put(Progress(job, facts["step"]))
        lines.close()
        self._happened.put(Finished(job, process.wait(), error, passes))

    def _wait_until_free(self, folder: Path) -> None:
        """Wait for the trial of a killed tune, which saves and ends by itself."""
        began = told = time.monotonic()
        while folder.exists():
            try:
                CheckpointFolder(folder).check_free()
                return
            except FolderInUseError:
                now = time.monotonic()
                if now >= began + WAIT_FOR_ORPHANS:
                    raise
                if told == began or now >= told + SILENT_SECONDS:
                    self._say(f"{folder} still saves: waiting for it.")
                    told = now
                time.sleep(POLL)
