"""The folder of a studio flows in; its runs and tunes come out: found, followed and described for all pages at once."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from homespun.errors import UserError
from homespun.records.reading import is_number
from homespun.reporting.diagnosis import passing_notes
from homespun.reporting.report import report_on
from homespun.reporting.run_record import read_run
from homespun.server.limits import Limits
from homespun.server.studio.exchange import JSON
from homespun.server.studio.folders import Found, run_place, search
from homespun.server.studio.processes import Processes
from homespun.server.studio.standing import Stands, standing, unbegun
from homespun.server.studio.watched import Cursor, Watched
from homespun.terminal import silence
from homespun.tuning.reading import read_tune

LOOK_SECONDS = 0.4
"""Two looks at the runs are at least so far apart, however many pages are open."""
SEARCH_SECONDS = 3.0
"""As `LOOK_SECONDS`, for a search through the folders."""


class Library:
    """The runs of a studio. Usable from several threads."""

    def __init__(self, root: Path, processes: Processes, limits: Limits) -> None:
        self._root, self._processes, self._limits = root, processes, limits
        self._watched: dict[str, tuple[Watched, Stands]] = {}
        self._lock = threading.Lock()
        self._found = Found((), (), 0, is_whole=True)
        self._searched = self._looked = -1e9
        self._told: JSON = {}
        self._advised: dict[str, tuple[object, JSON]] = {}

    def look(self, *, now: bool = False) -> JSON:
        """All runs with their state, and all tunes; `now`: also those of this moment."""
        with self._lock:
            time_is = time.monotonic()
            if now or time_is - self._looked >= LOOK_SECONDS:
                if now or time_is - self._searched >= SEARCH_SECONDS:
                    self._found, self._searched = search(self._root, self._limits), time_is
                    for gone in self._watched.keys() - set(self._found.runs):
                        del self._watched[gone]
                self._told, self._looked = self._described(), time.monotonic()
            return self._told

    def _described(self) -> JSON:
        started = self._processes.started()
        runs = []
        for name in self._found.runs:
            watched, stands = self._of(name)
            watched.update()
            told = standing(name, watched, stands, self._processes.of(name))
            tune = next((t for t in self._found.tunes if name.startswith(f"{t}/")), None)
            runs.append(told | {"has_record": True, "tune": tune})
        for name in started:
            if name not in self._found.runs:
                process = self._processes.of(name)
                if process.doing or process.failure is not None:
                    runs.insert(0, unbegun(name, process))
        return {
            "runs": runs,
            "tunes": list(self._found.tunes),
            "more": self._found.more,
            "is_whole": self._found.is_whole,
        }

    def _of(self, name: str) -> tuple[Watched, Stands]:
        if name not in self._watched:
            folder = self._root / name
            self._watched[name] = Watched(folder, self._limits), Stands(folder)
        return self._watched[name]

    def watched(self, name: str) -> Watched:
        """A run that is followed, as it is now.

        Raises:
            UserError: it is no run.
        """
        run_place(self._root, name)
        with self._lock:
            watched, _ = self._of(name)
        watched.update()
        return watched

    def news(self, names: Sequence[str], cursors: dict[str, Cursor]) -> list[JSON]:
        """The news of some runs since the last call; `cursors` holds the position of each run, and is moved on."""
        found = []
        for name in names:
            try:
                part, cursors[name] = self.watched(name).since(cursors.get(name))
            except UserError:
                if name in cursors:  # it was moved or removed
                    del cursors[name]
                    found.append({"kind": "gone", "run": name})
                continue
            if part is not None:
                found.append({"kind": "run", "run": name, **part})
        return found

    def advice(self, name: str) -> JSON:
        """The diagnosis of a run, and whether its loss is usual; see `reporting`.

        Raises:
            UserError: it is no run, or its record cannot be read.
        """
        watched = self.watched(name)
        with watched.lock:
            seen = (watched.generation, len(watched.training), len(watched.evaluations))
        if name in self._advised and self._advised[name][0] == seen:
            return self._advised[name][1]
        with silence():
            run = read_run(self._root / name)
            one = report_on(run, name)
        told: JSON = {
            "problems": [
                {"title": d.title, "text": d.sentence, "evidence": list(d.evidence)}
                for d in one.diagnoses
            ],
            "notes": [
                {"step": note["step"], "text": note["advice"]}
                for note in passing_notes(run, one.diagnoses)[-5:]
            ],
            "comparison": one.comparison.sentence if one.comparison else one.no_comparison,
            "is_too_early": not run.steps and not run.evaluations,
        }
        self._advised[name] = (seen, told)
        return told

    def tune(self, name: str) -> JSON:
        """The table of a tune.

        Raises:
            UserError: it is no tune, or its record cannot be read.
        """
        if name not in self.look()["tunes"]:
            raise UserError(f"{name} is no tune in the folder of the studio")
        table = read_tune(self._root / name)
        return {
            "tune": name,
            "columns": list(table.columns),
            "figure": {"entry": table.objective.entry, "title": table.objective.described},
            "rows": [
                {k: v if isinstance(v, str) or is_number(v) else None for k, v in row.items()}
                for row in table.rows
            ],
            "facts": dict(table.facts),
            "verdict": table.verdict,
        }
