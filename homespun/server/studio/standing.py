"""The record, the newest checkpoint and the process of a run flow in; where the run stands comes out, for the list."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from homespun.checkpoint.names import METRICS, STEP_FILE
from homespun.config.checked import seconds
from homespun.records.reading import is_number
from homespun.reporting.run_record import RunRecord, read_standing
from homespun.server.studio.exchange import JSON
from homespun.server.studio.processes import Process
from homespun.server.studio.watched import Watched

State = Literal["starting", "running", "stopping", "stopped", "finished", "failed"]

RECENT = 4
"""The time left is estimated from the last part of a run, one in so many."""
ALMOST = 1 - 1e-9


@dataclass
class Stands:
    """The facts in the newest checkpoint of a run, read again when there is a newer one."""

    folder: Path
    _seen: tuple[Any, ...] = ()
    _record: RunRecord | None = None

    def read(self, watched: Watched) -> RunRecord:
        """The settings of a run and the position of its newest checkpoint, with the last facts of its record."""
        seen = (_files(self.folder), id(watched.facts))
        if self._record is None or seen != self._seen:
            known = {"step": 0, "run": watched.facts}
            run = read_standing(self.folder, [known] if watched.facts else [])
            header = {key: value for key, value in run.header.items() if key != "tokenizer"}
            self._record = dataclasses.replace(run, header=header)
            self._seen = seen
        return self._record


def _files(folder: Path) -> tuple[Any, ...]:
    found = []
    try:
        for entry in os.scandir(folder):
            if STEP_FILE.fullmatch(entry.name):
                found.append((entry.name, entry.stat().st_mtime_ns))
    except OSError:
        pass
    return tuple(sorted(found))


def standing(name: str, watched: Watched, stands: Stands, process: Process) -> JSON:
    """Where a run stands: what the list of runs shows of it."""
    with watched.lock:
        run = stands.read(watched)
        facts, last, training = watched.facts, watched.last, watched.training
        step, tokens = int(last.get("step") or 0), float(last.get("tokens") or 0)
        settings = run.config if run.stored_settings else None
        elapsed, progress = _elapsed(run, training.last("seconds")), 0.0
        if settings:
            shares = [
                step / settings.max_steps if settings.max_steps else 0.0,
                (last.get("epoch") or 0.0) / settings.max_epochs if settings.max_epochs else 0.0,
                elapsed / seconds(settings.time_budget) if settings.time_budget else 0.0,
            ]
            progress = min(1.0, max(shares))
        ended = _ended_by(run)
        state: State
        if process.doing:
            state = process.doing
        elif process.failure is not None:
            state = "failed"
        else:
            state = "finished" if ended else "stopped"
        saved = run.position.step if run.position else None
        return {
            "run": name,
            "state": state,
            "is_ours": process.is_ours,
            "can_stop": process.can_stop and state in ("running", "starting"),
            "host": process.host,
            "failure": process.failure,
            "ended_by": ended,
            "step": step,
            "tokens": tokens,
            "epoch": last.get("epoch") if is_number(last.get("epoch")) else None,
            "progress": progress if settings else None,
            "seconds": elapsed,
            "seconds_left": _left(watched, run, step, elapsed, progress)
            if state == "running"
            else None,
            "budget_seconds": seconds(settings.time_budget)
            if settings and settings.time_budget
            else None,
            "loss": training.last("loss"),
            "best": watched.best(),
            "tokens_per_second": training.last("tokens_per_second"),
            "memory_bytes": training.last("memory_bytes"),
            "saved_step": saved,
            "can_resume": saved is not None and not process.doing,
            "limits": {
                limit: getattr(settings, limit) if settings else None
                for limit in ("max_steps", "max_epochs", "time_budget")
            },
            **{
                topic: facts[topic] if isinstance(facts.get(topic), str) else None
                for topic in ("model", "text", "machine")
            },
            "damaged": watched.damaged,
            "changed": _changed(watched.folder),
        }


def unbegun(name: str, process: Process) -> JSON:
    """Where a run stands that has no record: its process prepares, or has failed before the first step."""
    return {
        "run": name,
        "state": process.doing or ("failed" if process.failure is not None else "stopped"),
        "is_ours": True,
        "can_stop": process.can_stop and process.doing in ("running", "starting"),
        "failure": process.failure,
        "has_record": False,
    }


def _elapsed(run: RunRecord, training_seconds: float | None) -> float:
    """Seconds that the run has taken, as far as record and checkpoint tell: those of the checkpoint, and the steps
    since."""
    done = training_seconds or 0.0
    if run.position is None:
        return done
    since = max(0.0, done - run.position.training_seconds)
    return run.position.elapsed_seconds + since


def _ended_by(run: RunRecord) -> str | None:
    """The limit that the newest checkpoint has reached, if any; see `training.timing.due`."""
    position, settings = run.position, run.config
    if position is None or not run.stored_settings:
        return None
    if settings.patience and position.guard.evaluations_without_better >= settings.patience:
        return "patience"
    if settings.time_budget and position.elapsed_seconds >= seconds(settings.time_budget) * ALMOST:
        return "time_budget"
    if settings.max_steps and position.step >= settings.max_steps:
        return "max_steps"
    if settings.max_epochs and position.epoch >= settings.max_epochs * ALMOST:
        return "max_epochs"
    return None


def _left(
    watched: Watched, run: RunRecord, step: int, elapsed: float, progress: float
) -> float | None:
    """An estimate from the pace of the last steps, with as much time beside them as so far; None where it is not
    known yet."""
    if not run.stored_settings or progress <= 0:
        return None
    budget = run.config.time_budget
    if budget and elapsed / seconds(budget) >= progress:
        return max(0.0, seconds(budget) - elapsed)
    steps, times = watched.training.column("step"), watched.training.column("seconds")
    first = len(steps) - max(2, len(steps) // RECENT)
    if first < 0 or steps[-1] <= steps[first]:
        return None
    pace = float((times[-1] - times[first]) / (steps[-1] - steps[first]))
    beside = elapsed / times[-1] if times[-1] > 0 else 1.0
    return float(step * (1 - progress) / progress * pace * max(1.0, beside))


def _changed(folder: Path) -> float | None:
    try:
        return (folder / METRICS).stat().st_mtime
    except OSError:
        return None
