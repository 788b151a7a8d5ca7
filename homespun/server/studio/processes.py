"""Words of a command flow in; runs that outlive the studio come out, and signals to them.

Each run is `homespun train` as a process of its own, in a session of its own, so that neither the end of the studio nor
Ctrl-C in its terminal reaches it. What was started is written down beside its messages; the lock on the folder of a run
tells whether a trainer lives. So a new studio finds the runs of an earlier one, and those of the command line.
"""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from homespun import child_process, durable
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.lock import Holder
from homespun.checkpoint.names import LOCK, METRICS
from homespun.errors import UserError, cannot_write
from homespun.server.limits import Limits
from homespun.server.studio.folders import OWN, place

SECONDS_TO_START = 120.0
"""A process that a former studio has started, and that holds no lock after so long, is not one that begins."""
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Doing = Literal["starting", "running", "stopping"]


@dataclass(frozen=True)
class Process:
    """The known facts about the process of a run."""

    doing: Doing | None
    """None: no process trains in the folder."""
    is_ours: bool = False
    """The studio has started it, or an earlier one in the same folder."""
    can_stop: bool = False
    """Its number is known, and it runs on this machine."""
    host: str = ""
    failure: str | None = None
    """The message of one that the studio has started and that has failed; nothing has trained in the folder since."""


class Processes:
    """The runs that the studio starts, stops and goes on with. Usable from several threads."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self.root, self._limits = root, limits
        self._own = root / OWN
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()
        self._plan: subprocess.Popen[str] | None = None
        self._is_closed = False

    def start(self, run: str, words: Sequence[str]) -> None:
        """Start a process for a run.

        Args:
            run: its folder.
            words: the command, without `homespun`.

        Raises:
            UserError: the run has a process, too many runs train, or it cannot be started.
        """
        with self._lock:
            if self.of(run).doing:
                raise UserError(f"{run} has a process already: wait for it, or stop it first")
            self._reap()
            if len(self._children) >= (most := self._limits.trainers):
                raise UserError(f"{most} runs of the studio train already: stop one of them first")
            if self._own.is_symlink():
                raise UserError(
                    f"{self._own} is a link: move it away, the studio keeps its own files there"
                )
            try:
                durable.make_folder(self._own)
                log = durable.open_file(self._file(run, ".log"), os.O_WRONLY)
                os.ftruncate(log, 0)
            except OSError as error:
                raise cannot_write(
                    error, f"{self._own} cannot be written", "make room or change its rights"
                ) from None
            try:
                child = subprocess.Popen(
                    [*child_process.command("homespun"), *words],
                    cwd=self.root,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=child_process.environment(),
                    start_new_session=True,
                )
            except OSError as error:
                raise UserError(f"{run} cannot be started ({error.strerror})") from None
            finally:
                os.close(log)
            self._children[run] = child
            self._keep(
                run, {"run": run, "words": list(words), "pid": child.pid, "began": time.time()}
            )

    def stop(self, run: str) -> None:
        """Ask the process of a run to finish its step, save and end. It is asked once: a second time would end it
        without saving.

        Raises:
            UserError: there is no process, or it cannot be reached.
        """
        with self._lock:
            known, child = self._kept(run), self._children.get(run)
            pid = child.pid if child and child.poll() is None else None
            if pid is None:
                holder = CheckpointFolder(self.root / run).holder()
                if holder is None:
                    raise UserError(f"{run} is not running")
                if not holder.is_here or not _holds(holder, self.root / run):
                    where = holder.host or "another machine"
                    raise UserError(f"{run} runs on {where}: stop it there, with Ctrl-C")
                pid = holder.pid
            assert pid
            if known.get("stopping") == pid:
                raise UserError(f"{run} is stopping already: it finishes its step and saves")
            self._keep(run, {"run": run, **known, "stopping": pid})
            try:
                os.kill(pid, signal.SIGTERM)
            except OSError as error:
                raise UserError(f"{run} cannot be stopped ({error.strerror})") from None

    def of(self, run: str) -> Process:
        """The known facts about the process of a run."""
        with self._lock:
            self._reap()
            known, folder = self._kept(run), CheckpointFolder(self.root / run)
            holder, child = folder.holder(), self._children.get(run)
            pid = child.pid if child else holder.pid if holder else known.get("pid")
            ours = known.get("pid") == pid
            stopping = known.get("stopping") == pid and pid is not None
            if holder:
                doing: Doing = "stopping" if stopping else "running"
                can_stop = child is not None or holder.is_here
                return Process(doing, ours, can_stop, "" if holder.is_here else holder.host)
            if child or _is_beginning(known):
                return Process("stopping" if stopping else "starting", True, child is not None)
            return Process(None, failure=self._failure(run, known))

    def started(self) -> list[str]:
        """The runs that the studio, or an earlier one, has started."""
        found = []
        with contextlib.suppress(OSError):
            for file in sorted(self._own.glob("*.json")):
                with contextlib.suppress(OSError, UserError):
                    run = durable.read_json(file).get("run")
                    if isinstance(run, str) and place(self.root, run):
                        found.append(run)
        return found

    def forget(self, run: str) -> None:
        """Remove what is known of a process that has ended, and its messages.

        Raises:
            UserError: it has not ended.
        """
        with self._lock:
            if self.of(run).doing:
                raise UserError(f"{run} has a process: stop it first")
            for ending in (".json", ".log"):
                self._file(run, ending).unlink(missing_ok=True)

    def messages(self, run: str) -> str:
        """The last messages of the process of a run; empty if the studio has not started it."""
        try:
            with self._file(run, ".log").open("rb") as file:
                most = self._limits.message_bytes
                file.seek(max(0, os.fstat(file.fileno()).st_size - most))
                return file.read(most).decode(errors="replace")
        except OSError:
            return ""

    def plan(self, words: Sequence[str]) -> dict[str, str]:
        """The answer of `homespun plan` by topic. A plan that is being made is given up for it.

        Raises:
            UserError: the settings do not fit each other, or the plan was given up.
        """
        environment = child_process.environment()
        environment.pop("COLUMNS", None)  # lines are not wrapped then
        with self._lock:
            if self._is_closed:
                raise UserError("the studio is ending")
            if self._plan:
                self._plan.kill()
            self._plan = child = subprocess.Popen(
                [*child_process.command("homespun"), *words],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        try:
            told, errors = child.communicate(timeout=self._limits.plan_seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise UserError(
                f"the plan took longer than {self._limits.plan_seconds:g} seconds"
            ) from None
        if child.returncode < 0:
            raise UserError("the plan was given up")
        if child.returncode:
            raise UserError(_reason(errors) or f"the plan ended with status {child.returncode}")
        facts = (re.split(r"  +", line, maxsplit=1) for line in told.splitlines() if "  " in line)
        return {name: fact for name, fact in facts if name}

    def close(self) -> None:
        """Give up the plan that is being made, so that nothing waits for it. Runs go on."""
        with self._lock:
            self._is_closed = True
            if self._plan:
                self._plan.kill()

    def _reap(self) -> None:
        """Note the ends of processes."""
        for run, child in list(self._children.items()):
            if (status := child.poll()) is not None:
                del self._children[run]
                self._keep(run, {**self._kept(run), "status": status, "ended": time.time()})

    def _failure(self, run: str, known: Mapping[str, Any]) -> str | None:
        """The message of a process that has failed."""
        status = known.get("status")
        if not isinstance(known.get("pid"), int) or status == 0 or _was_stopped(status):
            return None
        with contextlib.suppress(OSError):
            # A record that has grown since its last message is that of another process.
            ended = known.get("ended") or self._file(run, ".log").stat().st_mtime
            if (self.root / run / METRICS).stat().st_mtime > ended + 1:
                return None
        reason = _reason(self.messages(run))
        if status is None:  # no studio was there to see its end
            return reason
        if status < 0:
            return f"it was killed (signal {-status})"
        return reason or f"it ended with status {status}"

    def _file(self, run: str, ending: str) -> Path:
        return self._own / (hashlib.sha256(run.encode()).hexdigest()[:16] + ending)

    def _kept(self, run: str) -> dict[str, Any]:
        try:
            return durable.read_json(self._file(run, ".json"))
        except (OSError, UserError):
            return {}

    def _keep(self, run: str, known: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            durable.make_folder(self._own)
            durable.write_json(self._file(run, ".json"), dict(known))


def _is_beginning(known: Mapping[str, Any]) -> bool:
    """Whether a process that a former studio has started may not hold its lock yet."""
    pid, began = known.get("pid"), known.get("began")
    if not isinstance(pid, int) or not isinstance(began, float) or "status" in known:
        return False
    if not 0 <= time.time() - began < SECONDS_TO_START:
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _holds(holder: Holder, folder: Path) -> bool:
    """Whether a process has opened the lock file of a folder, as its holder has, where the system can tell."""
    opened = Path(f"/proc/{holder.pid}/fd")
    if not Path("/proc/self/fd").is_dir():
        return True
    try:
        lock = (folder / LOCK).stat()
        for descriptor in opened.iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(descriptor.stat(), lock):
                    return True
    except OSError:
        return False
    return False


def _was_stopped(status: object) -> bool:
    return status in [s for stop in STOPS for s in (128 + stop, -stop)]


def _reason(messages: str) -> str | None:
    """The error in the last messages of a command."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    for number, line in reversed(list(enumerate(lines))):
        if line.startswith("error: "):
            return " ".join([line.removeprefix("error: "), *lines[number + 1 :]])
    return lines[-1] if lines and "Traceback (most recent call last):" in lines else None
