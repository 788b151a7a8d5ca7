"""The design of a tune flows in; its trials run, those that are best go on, and the result comes out.

Everything is decided from what the database holds, so that a tune that was killed ends with the same table as one that
was not. The trials themselves resume from their checkpoints.
"""

import dataclasses
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.names import METRICS, SUFFIXES
from homespun.config import TrainConfig, TuneConfig
from homespun.errors import UserError
from homespun.records.reading import read_whole
from homespun.terminal import Say, bar, counted, named
from homespun.training.interrupts import Interrupts
from homespun.tuning import space as spaces
from homespun.tuning.design import TOKENIZER, Design, writing
from homespun.tuning.ladder import best
from homespun.tuning.objective import REWARD, Objective
from homespun.tuning.plot import plot_tune
from homespun.tuning.preparation import tokens_per_step
from homespun.tuning.processes import Crew, Finished, Job, Progress
from homespun.tuning.result import BEST, TuneResult, best_settings, judge, rows_of, write_best
from homespun.tuning.sampling import Seen, next_point
from homespun.tuning.screen import Screen
from homespun.tuning.space import Point
from homespun.tuning.store import DATABASE, Database, Store, Trial
from homespun.tuning.transfer import RESULTS

PLOT = "tuning.png"
NEVER = 10**9
"""Steps between sample texts, which trials do not write."""

NewCrew = Callable[[Say], Crew]


class Stopped(Exception):
    """A signal ends the tune."""


class Course:
    """A tune from its design to its result."""

    def __init__(
        self,
        design: Design,
        folder: Path,
        wanted: TuneConfig,
        say: Say,
        interrupts: Interrupts,
        new_crew: NewCrew,
    ) -> None:
        self.design, self.folder, self.say, self.interrupts = design, folder, say, interrupts
        self._new_crew = new_crew
        self._wanted_at_once = wanted.parallel or design.parallel
        self.at_once = min(self._wanted_at_once, design.parallel)
        self.ladder = design.ladder
        database = Database(folder)
        self.trials = Store(database, "trials", design.space)
        self.seeds = Store(database, "seeds", ())
        self._on_end: dict[Job, Callable[[Finished], None]] = {}
        self._reached: dict[str, int] = {}
        """Tokens of each trial that has a process, by its name."""

    def run(self) -> TuneResult:
        """Run all trials that are left; the result also if a signal has stopped it."""
        design = self.design
        self._announce()
        screen = Screen(
            self.say, design.columns, design.cost, self._done(), self._rows, design.objective
        )
        self.interrupts.steps_begun = True
        try:
            with self._new_crew(self.say) as self.crew, screen as self.screen:
                self._first_rung()
                contest = list(range(1, design.trials))
                counts = self.ladder.counts(design.challengers)
                for rung in range(1, len(self.ladder.tokens)):
                    contest = self._promoted(contest, rung, counts[rung])
                    if rung < len(self.ladder.tokens) - 1:
                        self._complete([(self.trials, n, rung) for n in contest])
                self._finish(contest)
        except Stopped:
            return self._result(is_complete=False)
        for number, trial in enumerate(self.trials.trials):
            self.trials.finish(number, self.ladder.total)
            if self.ladder.total not in trial.losses:
                _remove_checkpoints(self.folder / trial.name)
        for number in range(len(self.seeds.trials)):
            self.seeds.finish(number, self.ladder.total)
        return self._result(is_complete=True)

    def _announce(self) -> None:
        self.say("Resuming the tune" if self.trials.trials else "Tuning")
        for name, fact in {**self.design.facts(), "folder": str(self.folder)}.items():
            self.say(f"  {name:<10} {fact}")
        if self._wanted_at_once > self.at_once:
            self.say(
                f"--parallel {self._wanted_at_once} has no effect: at most {counted(self.at_once, 'trial')} at a time, "
                "as at the start of this tune, since the choice of each trial depends on it."
            )

    def _first_rung(self) -> None:
        """All trials up to the first rung. A trial is chosen when the results of all trials are known except those of
        the ones just before it, as many as run at a time: so the choice does not depend on who is faster."""
        started, lag = 0, self.design.parallel
        while started < self.design.trials or len(self.crew):
            while (
                started < self.design.trials
                and len(self.crew) < self.at_once
                and self._known(started - lag)
            ):
                if started == len(self.trials.trials):
                    with named("Choosing the next trial"):
                        trial = self._next_trial(started)
                    self.trials.add(trial)
                self._start(self.trials, started, 0)
                started += 1
            self._wait()

    def _known(self, number: int) -> bool:
        """Whether all trials up to this number have arrived at the first rung."""
        first = self.ladder.tokens[0]
        return all(self.trials.trials[n].loss_at(first) is not None for n in range(number + 1))

    def _next_trial(self, number: int) -> Trial:
        design = self.design
        if number == 0:
            point = spaces.recipe_point(design.space, design.recipe)
        elif design.points is not None:
            point = design.points[number - 1]
        else:
            point = next_point(
                design.space,
                design.config.method,
                design.config.seed,
                number,
                design.trials,
                self._seen(number),
            )
        return self._trial(f"trial_{number}", point, design.recipe["seed"])

    def _seen(self, number: int) -> list[Seen]:
        """The trials before this one, as far as their results may be known by then. A failed one is like the worst."""
        first = self.ladder.tokens[0]
        before = self.trials.trials[:number]
        known = [trial.loss_at(first) for trial in before]
        for n in range(max(0, number - self.design.parallel + 1), number):
            known[n] = None  # it may still run
        finite = [loss for loss in known if loss is not None and math.isfinite(loss)]
        worst = max(finite, default=0.0)
        return [
            Seen(trial.point, None if loss is None else min(loss, worst))
            for trial, loss in zip(before, known, strict=True)
        ]

    def _trial(self, name: str, point: Point, seed: int) -> Trial:
        """A trial with all its settings."""
        design = self.design
        settings = spaces.settings_at(point, design.recipe)
        steps = self.ladder.steps(tokens_per_step(settings))
        settings |= {
            "max_steps": steps[-1],
            "seed": seed,
            "sample_interval": NEVER,
            "keep": 1,
        }
        if self.ladder.prunes:
            settings["eval_interval"] = steps[0]
        if design.threads is not None:
            settings["threads"] = design.threads
        return Trial(name, point, settings)

    def _promoted(self, contest: Sequence[int], rung: int, count: int) -> list[int]:
        """The trials that go on to a rung."""
        before = self.ladder.tokens[rung - 1]
        trials = self.trials.trials
        losses = {
            n: trials[n].losses[before]
            for n in contest
            if trials[n].error is None and math.isfinite(trials[n].losses[before])
        }
        return best(losses, count)

    def _finish(self, contest: Sequence[int]) -> None:
        """The recipe, its other seeds and the best trials, to the end."""
        seed = self.design.recipe["seed"]
        for number in range(self.design.config.spread_runs):
            if number == len(self.seeds.trials):
                point = self.trials.trials[0].point
                trial = self._trial(f"seed_{seed + number + 1}", point, seed + number + 1)
                self.seeds.add(trial)
        last = len(self.ladder.tokens) - 1
        numbers = [0, *(n for n in contest if n != 0)]
        self._complete(
            [
                *((self.trials, n, last) for n in numbers),
                *((self.seeds, n, last) for n in range(len(self.seeds.trials))),
            ]
        )

    def _complete(self, parts: Sequence[tuple[Store, int, int]]) -> None:
        """Bring trials to a rung, as many at once as may run."""
        waiting = list(parts)
        while waiting or len(self.crew):
            while waiting and len(self.crew) < self.at_once:
                self._start(*waiting.pop(0))
            self._wait()

    def _start(self, store: Store, number: int, rung: int) -> None:
        """Start the process that brings a trial to a rung, unless it has been there."""
        trial, tokens = store.trials[number], self.ladder.tokens[rung]
        if trial.loss_at(tokens) is not None:
            return
        folder = self.folder / trial.name
        if trial.settings.get("reward") != self.design.config.reward:  # which may be code
            raise UserError(
                f"{self.folder / DATABASE}: {trial.name} has another reward than the tune"
            )
        steps = self.ladder.steps(tokens_per_step(trial.settings))
        is_last = rung == len(self.ladder.tokens) - 1
        loss = loss_at(folder, steps[rung], self.design.objective)
        if loss is not None and not is_last:
            self._arrived(store, number, rung, loss)
            return
        _remove_without_checkpoint(folder)
        settings = {**trial.settings, "checkpoint_dir": str(folder), "resume": "auto"}
        if (self.folder / TOKENIZER).exists():
            settings["tokenizer_path"] = str(self.folder / TOKENIZER)
        job = Job(trial.name, settings, None if is_last else steps[rung])
        self._on_end[job] = partial(self._ended, store, number, rung)
        self.crew.start(job)
        self.screen.started(job.name)

    def _wait(self) -> None:
        """Take the next event of a process, if there is any.

        Raises:
            Stopped: a signal has come.
        """
        if self.interrupts.stopped_by:
            raise Stopped
        if not len(self.crew):
            return
        match self.crew.happening():
            case Progress(job, step):
                self._reached[job.name] = step * tokens_per_step(job.settings)
                self.screen.progress(job.name, step, self._done())
            case Finished() as finished:
                if self.interrupts.stopped_by:
                    raise Stopped
                self._on_end.pop(finished.job)(finished)
            case None:
                self.screen.wait()

    def _ended(self, store: Store, number: int, rung: int, finished: Finished) -> None:
        """Take the result of a process.

        Raises:
            UserError: it was killed, or has failed in a way that is no fault of its settings.
        """
        trial = store.trials[number]
        folder = self.folder / trial.name
        log = folder.with_name(f"{folder.name}.log")
        if finished.status == 0:
            steps = self.ladder.steps(tokens_per_step(trial.settings))
            loss = loss_at(folder, steps[rung], self.design.objective)
            if loss is None:
                loss = last_loss(folder, self.design.objective)
            self._arrived(store, number, rung, loss)
        elif finished.error and finished.passes:
            raise UserError(f"{trial.name}: {finished.error}; homespun tune --resume goes on")
        elif finished.error and number and store is self.trials:
            self._reached.pop(trial.name, None)
            store.fail(number, finished.error)
            self.screen.arrived(
                trial.name, trial.settings, f"failed: {finished.error}", self._done()
            )
        elif finished.error:
            raise UserError(f"the recipe cannot be trained: {finished.error}")
        else:
            raise UserError(
                f"{trial.name} has ended with status {finished.status}, see {log}: homespun tune --resume goes on, "
                "and --parallel 1 needs least memory"
            )

    def _arrived(self, store: Store, number: int, rung: int, loss: float) -> None:
        trial, tokens = store.trials[number], self.ladder.tokens[rung]
        store.report(number, tokens, loss)
        self._reached.pop(trial.name, None)
        share = f" after {tokens / self.ladder.total:.0%}" if tokens < self.ladder.total else ""
        objective = self.design.objective
        figure = f"{objective.title} {objective.shown(loss)}{share}"
        self.screen.arrived(trial.name, trial.settings, figure, self._done())

    def _done(self) -> int:
        """Tokens that were trained on so far."""
        done = 0
        for trial in (*self.trials.trials, *self.seeds.trials):
            done += max(max(trial.losses, default=0), self._reached.get(trial.name, 0))
        return done

    def _rows(self) -> tuple[Mapping[str, Any], ...]:
        return rows_of(
            self.trials.trials,
            self.seeds.trials,
            self.ladder,
            self.design.columns,
            self.design.objective,
        )

    def _result(self, *, is_complete: bool) -> TuneResult:
        design, total = self.design, self.ladder.total
        rows = self._rows()
        trials, seeds = self.trials.trials, self.seeds.trials
        stopped_by = self.interrupts.stopped_by
        empty = Trial("", {}, dict(design.recipe))
        objective = design.objective
        verdict = judge(trials or [empty], seeds, total, objective)
        settings = best_settings(verdict.best, design.recipe, design.requested)
        has_reward = objective is REWARD
        result = TuneResult(
            folder=self.folder,
            rows=rows,
            best=settings,
            best_val_loss=None if has_reward else verdict.best_loss,
            recipe_val_loss=None if has_reward else verdict.recipe_loss,
            spread=verdict.spread,
            recipe_stands=verdict.recipe_stands,
            cost=self._done() / total,
            best_toml=self.folder / BEST,
            verdict=verdict.text if is_complete else "Stopped. All trials are saved.",
            is_complete=is_complete,
            stopped_by=stopped_by,
            columns=tuple(design.columns),
            at_edge=()
            if verdict.recipe_stands
            else tuple(spaces.at_edge(design.space, verdict.best.settings)),
            best_reward=objective.value(verdict.best_loss) if has_reward else None,
            recipe_reward=objective.value(verdict.recipe_loss) if has_reward else None,
            objective=objective,
        )
        if is_complete:
            plain = {f.name: f.default for f in dataclasses.fields(TrainConfig)}
            with writing(self.folder):
                write_best(self.folder, settings, verdict.text, plain)
                figures = ("best_val_loss", "recipe_val_loss")
                if has_reward:
                    figures = ("best_reward", "recipe_reward")
                facts = (*figures, "spread", "recipe_stands", "cost")
                stated = {name: getattr(result, name) for name in (*facts, "verdict")}
                durable.write_json(
                    self.folder / RESULTS, {**stated, "best": settings, "rows": list(rows)}
                )
            try:
                with bar("Drawing the trials", None):
                    plot_tune(
                        self.folder / PLOT, design.space, trials, seeds, self.ladder, objective
                    )
            except Exception as error:  # no picture is worth an error
                self.say(
                    f"{self.folder / PLOT} cannot be drawn ({error}). Nothing else is missing."
                )
        return result


def loss_at(folder: Path, step: int, objective: Objective) -> float | None:
    """The figure of a run at a step, infinite if it was not finite; None if it was not measured."""
    records = (record for record in read_whole(folder / METRICS) if record["step"] == step)
    return next((loss for loss in map(objective.of, records) if loss is not None), None)


def last_loss(folder: Path, objective: Objective) -> float:
    """The last figure of a run, which may have ended early by its patience."""
    losses = [loss for loss in map(objective.of, read_whole(folder / METRICS)) if loss is not None]
    return losses[-1] if losses else math.inf


def _remove_checkpoints(folder: Path) -> None:
    """Free the disk of a trial that does not go on. Its records and its best weights stay."""
    steps = CheckpointFolder(folder).steps()
    for file in [CheckpointFolder(folder).file(n, suffix) for n in steps for suffix in SUFFIXES]:
        file.unlink(missing_ok=True)


def _remove_without_checkpoint(folder: Path) -> None:
    """Remove the folder of a trial that was killed before its first checkpoint: it begins again."""
    if folder.exists() and not CheckpointFolder(folder).steps():
        CheckpointFolder(folder).check_free()
        shutil.rmtree(folder, ignore_errors=True)
