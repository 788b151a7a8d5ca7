"""The settings of a tune flow in; trials run as processes of their own, and the best settings come out.

Everything is decided from what the database holds, so that a tune that was killed ends with the same table as one that
was not. The trials themselves resume from their checkpoints.
"""

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from homespun import durable, workspace
from homespun.checkpoint.folder import METRICS, CheckpointFolder, FolderLock
from homespun.config import TrainConfig, TuneConfig
from homespun.config.checked import flag, settings_of
from homespun.config.toml_file import read_toml
from homespun.errors import UserError, cannot_write
from homespun.records.metrics import read_whole
from homespun.terminal import Say, counted
from homespun.training.interrupts import Interrupts
from homespun.tuning import space as spaces
from homespun.tuning import transfer
from homespun.tuning.ladder import Ladder, best, ladder
from homespun.tuning.plot import plot_tune
from homespun.tuning.preparation import (
    Recipe,
    check_text,
    has_room,
    most_parallel,
    prepare,
    tokens_per_step,
    train_settings,
)
from homespun.tuning.processes import Crew, Finished, Job, Progress
from homespun.tuning.result import (
    TuneResult,
    best_settings,
    judge,
    rows_of,
    varied,
    write_best,
)
from homespun.tuning.sampling import Seen, check_installed, next_point
from homespun.tuning.screen import Screen
from homespun.tuning.space import Dimension, Point
from homespun.tuning.store import DATABASE, Store, Trial

RECORD, RESULTS = transfer.RECORD, transfer.RESULTS
TOKENIZER = "tokenizer"
PLOT = "tuning.png"
NEVER = 10**9
"""Steps between sample texts, which trials do not write."""
PRIVATE = ("checkpoint_dir", "resume", "config", "parallel", "dry_run")
"""Settings that a resumed tune may be given anew."""

NewCrew = Callable[[Say], Crew]


@dataclass(frozen=True)
class TuneFolder(CheckpointFolder):
    """The folder of a tune, which is locked and moved aside as that of a run is."""

    def has_run(self) -> bool:
        return any((self.path / name).exists() for name in (RECORD, DATABASE)) or super().has_run()


@dataclass(frozen=True)
class Design:
    """All that a tune has decided before its first trial."""

    requested: dict[str, Any]
    """The settings of the tune as given."""
    recipe: dict[str, Any]
    """The settings of the recipe."""
    ladder: Ladder
    space: tuple[Dimension, ...]
    trials: int
    points: list[Point] | None
    """Of all trials but the recipe, where they are known from the start."""
    parallel: int
    threads: int | None
    data_sha256: str
    width: int
    carried: tuple[str, ...] = ()
    """How settings were carried over from a smaller model."""

    @property
    def config(self) -> TuneConfig:
        return TuneConfig(**self.requested)

    @property
    def challengers(self) -> int:
        """Trials without the recipe."""
        return self.trials - 1

    @property
    def cost(self) -> int:
        """Tokens of the whole tune."""
        return self.ladder.cost(self.challengers, 1 + self.config.spread_runs)

    @property
    def columns(self) -> list[str]:
        return varied([dimension.name for dimension in self.space], self.recipe)

    def stored(self) -> dict[str, Any]:
        """The record."""
        values = dataclasses.asdict(self)
        return values | {"ladder": list(self.ladder.tokens), "reduction": self.ladder.reduction}

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> "Design":
        """The inverse of `stored`.

        Raises:
            LookupError, TypeError, ValueError, UserError: it is of another version.
        """
        values = dict(values)
        tokens, reduction = values.pop("ladder"), values.pop("reduction")
        space = tuple(
            Dimension(**{**dimension, "choices": tuple(dimension["choices"])})
            for dimension in values.pop("space")
        )
        return cls(
            **{
                **values,
                "ladder": Ladder(tuple(tokens), reduction),
                "space": space,
                "carried": tuple(values["carried"]),
            }
        )


def given_config(given: Mapping[str, Any], config: TuneConfig | None) -> TuneConfig:
    """The settings of a tune: given ones override those of the TOML file, which override the defaults.

    Raises:
        UserError: a setting does not exist, has a bad value, or has no place in a tune.
    """
    file = given.get("config")
    stated = (read_toml(Path(file), TuneConfig) if file else {}) | dict(given)
    wanted = settings_of(TuneConfig, config, stated)
    if wanted.dry_run:
        raise UserError(
            "--dry-run trains nothing: homespun plan with the settings of one run shows its cost, and a tune states "
            "its own before the first trial"
        )
    if _prunes(wanted) and wanted.eval_interval is not None:
        raise UserError(
            "--eval-interval: with pruning, trials are evaluated where they are compared: leave it out, or add "
            "--pruning off"
        )
    if wanted.transfer_from is not None and wanted.search:
        raise UserError("--transfer-from chooses the settings to try: leave --search out")
    return wanted


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
    check_installed(wanted.method)
    folder = TuneFolder(Path(wanted.checkpoint_dir))
    with folder.lock() as lock:
        design = _resumed(wanted, given, config, folder.path)
        if design:
            check_text(design.recipe, design.data_sha256)
        else:
            design = _designed(wanted, lock, say)
        for line in design.carried:
            say(f"carried over: {line}")
        course = Course(design, folder.path, wanted, say, interrupts, new_crew)
        return course.run()


def _resumed(
    wanted: TuneConfig, given: Mapping[str, Any], config: TuneConfig | None, folder: Path
) -> Design | None:
    """The tune in the folder, if it is to go on.

    Raises:
        UserError: there is none, its record is damaged, or a setting differs from those that it began with.
    """
    if wanted.resume == "never":
        return None
    with_reason = f"{folder} holds no tune to resume: leave --resume out to start one"
    try:
        record = durable.read_json(folder / RECORD)
    except OSError as error:
        raise UserError(f"{folder / RECORD} cannot be read ({error.strerror})") from None
    if not record:
        if wanted.resume == "auto":
            return None
        raise UserError(f"{with_reason}, or use --resume auto")
    try:
        design = Design.restored(record)
        at_first = dataclasses.asdict(design.config)
    except (LookupError, TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{folder / RECORD} is of another version of homespun ({error!r})"
        ) from None
    stated = dataclasses.asdict(wanted)
    names = stated.keys() if config is not None else _stated_names(given)
    for name in names:
        now, before = stated[name], at_first[name]
        if name not in PRIVATE and now != before:
            raise UserError(
                f"a resumed tune cannot change {flag(name)}: it is {now}, and was "
                f"{'not given' if before is None else before}: leave it out, or start a new tune without --resume"
            )
    return design


def _stated_names(given: Mapping[str, Any]) -> list[str]:
    file = given.get("config")
    return [*(read_toml(Path(file), TuneConfig) if file else {}), *given]


def _designed(wanted: TuneConfig, lock: FolderLock, say: Say) -> Design:
    """Decide everything about a new tune, and write it down. An earlier one is set aside.

    Raises:
        UserError: a setting, the text or the machine does not allow it; nothing is changed.
    """
    folder = lock.folder.path
    small = transfer.finished_tune(Path(wanted.transfer_from)) if wanted.transfer_from else None
    for text in wanted.search:  # a mistake is found before the work
        spaces.parsed(text, _any_recipe(wanted))
    recipe = prepare(wanted, say)
    points: list[Point] | None = None
    carried: tuple[str, ...] = ()
    if small:
        own = transfer.Run(recipe.settings, recipe.width, recipe.total_tokens)
        found = transfer.carried(small, own)
        points, space = transfer.around(found)
        values = ", ".join(f"{name} {spaces.written(v)}" for name, v in found.settings.items())
        carried = (values, *found.lines)
    else:
        space = spaces.chosen_space(wanted, recipe.settings, recipe.total_steps)
        if not wanted.search:
            space = _that_fits(space, recipe, wanted, say)
        if wanted.method == "grid":
            points = spaces.grid(space)
    points, trials = _count(points, space, recipe, wanted, say)
    largest = _largest(space, recipe.settings)
    steps = ladder(
        recipe.total_tokens,
        tokens_per_step(largest),
        wanted.reduction,
        wanted.rungs if _prunes(wanted) else 1,
    )
    parallel, threads = most_parallel(wanted, recipe, largest["batch_size"])
    lock.folder.check_space(
        recipe.disk * (trials + wanted.spread_runs), "the checkpoints of the trials need"
    )
    if earlier := lock.set_aside():
        say(f"The earlier tune in {folder} is now in {earlier}.")
    design = Design(
        requested={
            **dataclasses.asdict(wanted),
            "search": list(wanted.search),
            "sample_prompts": list(wanted.sample_prompts),
            "resume": "never",
            "config": None,
        },
        recipe=recipe.settings,
        ladder=steps,
        space=space,
        trials=trials,
        points=points,
        parallel=min(parallel, trials),
        threads=threads,
        data_sha256=recipe.data_sha256,
        width=recipe.width,
        carried=carried,
    )
    with _writing(folder):
        if recipe.tokenizer:
            recipe.tokenizer.save(folder / TOKENIZER)
            design.recipe["tokenizer_path"] = str(folder / TOKENIZER)
        durable.write_json(folder / RECORD, design.stored())
    return design


def _prunes(wanted: TuneConfig) -> bool:
    is_grid = wanted.method == "grid" and wanted.transfer_from is None
    return wanted.pruning == "on" or (wanted.pruning == "auto" and not is_grid)


def _count(
    points: list[Point] | None,
    space: Sequence[Dimension],
    recipe: Recipe,
    wanted: TuneConfig,
    say: Say,
) -> tuple[list[Point] | None, int]:
    """The points besides the recipe, where they are known, and the number of trials with the recipe.

    Raises:
        UserError: there is nothing to try.
    """
    own = spaces.recipe_point(space, recipe.settings)
    if points is not None:
        points = [point for point in points if point != own]
        trials = 1 + len(points)
    else:
        inside = all(d.name in own and d.contains(own[d.name]) for d in space)
        trials = int(min(wanted.trials, 1 + spaces.size(space) - inside))
        if trials < wanted.trials:
            say(f"There are only {counted(trials - 1, 'point')} to try besides the recipe.")
    if trials < 2:
        raise UserError("there is nothing to try besides the recipe: name values with --search")
    return points, trials


def _any_recipe(wanted: TuneConfig) -> dict[str, Any]:
    """Values with which multiples of the recipe can be checked before it is known."""
    settings = {name: v for name, v in train_settings(wanted).items() if v is not None}
    usual = {
        "learning_rate": 3e-4,
        "muon_learning_rate": 0.02,
        "batch_size": 16,
        "weight_decay": 0.1,
    }
    return {"grad_accumulation_steps": 1, "warmup_steps": 10, "beta2": 0.95, **usual, **settings}


def _that_fits(
    space: Sequence[Dimension], recipe: Recipe, wanted: TuneConfig, say: Say
) -> tuple[Dimension, ...]:
    """The usual space without batches that do not fit into memory."""
    fitting = []
    for dimension in space:
        if dimension.name == "batch_size":
            choices = tuple(
                size for size in dimension.choices if has_room(recipe, int(size), wanted.engine)
            )
            if choices != dimension.choices:
                say(
                    f"Larger batches do not fit into memory: trying {', '.join(map(str, choices))}."
                )
            dimension = dataclasses.replace(dimension, choices=choices)
        fitting.append(dimension)
    return tuple(dimension for dimension in fitting if dimension.choices or dimension.high)


def _largest(space: Sequence[Dimension], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the largest step of any trial."""
    sizes = {
        d.name: max(int(d.largest), settings[d.name])
        for d in space
        if d.name in ("batch_size", "grad_accumulation_steps", "seq_len")
    }
    return {**settings, **sizes}


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
        self.at_once = min(wanted.parallel or design.parallel, design.parallel)
        self.ladder = design.ladder
        self.trials = Store(folder, "trials", design.space)
        self.seeds = Store(folder, "seeds", ())
        self._on_end: dict[Job, Callable[[Finished], None]] = {}
        self._reached: dict[str, int] = {}
        """Tokens of each trial that has a process, by its name."""

    def run(self) -> TuneResult:
        """Run all trials that are left; the result also if a signal has stopped it."""
        design = self.design
        self._announce()
        screen = Screen(self.say, design.columns, design.cost, self._done(), self._rows)
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
        for number in range(len(self.trials.trials)):
            self.trials.finish(number, self.ladder.total)
        for number in range(len(self.seeds.trials)):
            self.seeds.finish(number, self.ladder.total)
        return self._result(is_complete=True)

    def _announce(self) -> None:
        design, total = self.design, self.ladder.total
        facts = {
            "space": "; ".join(map(str, design.space)),
            "trials": f"{design.trials}, the first one is the recipe"
            + (
                f", and {counted(design.config.spread_runs, 'more run')} of it with other seeds"
                if design.config.spread_runs
                else ""
            ),
            "run": f"{counted(round(total / tokens_per_step(design.recipe)), 'step')} of the recipe, {total:,} tokens",
            "compared": "at the end of the runs"
            if not self.ladder.prunes
            else " and ".join(
                f"after {n / total:.3g} ({count:,})"
                for n, count in zip(
                    self.ladder.tokens, self.ladder.counts(design.challengers), strict=True
                )
            )
            + " of a run",
            "cost": f"{design.cost / total:.2f} whole runs, {counted(design.parallel, 'trial')} at a time",
            "folder": str(self.folder),
        }
        self.say("Resuming the tune" if self.trials.trials else "Tuning")
        for name, fact in facts.items():
            self.say(f"  {name:<10} {fact}")

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
                    self.trials.add(self._next_trial(started))
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
        steps = self.ladder.steps(tokens_per_step(trial.settings))
        is_last = rung == len(self.ladder.tokens) - 1
        if (loss := loss_at(folder, steps[rung])) is not None and not is_last:
            self._arrived(store, number, rung, loss)
            return
        _remove_without_checkpoint(folder)
        settings = {**trial.settings, "checkpoint_dir": str(folder), "resume": "auto"}
        job = Job(trial.name, settings, None if is_last else steps[rung])
        self._on_end[job] = partial(self._ended, store, number, rung)
        self.crew.start(job)

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
            case Progress(job, step, tokens):
                self._reached[job.name] = tokens
                self.screen.progress(job.name, step, self._done())
            case Finished() as finished:
                if self.interrupts.stopped_by:
                    raise Stopped
                self._on_end.pop(finished.job)(finished)

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
            loss = loss_at(folder, steps[rung])
            if loss is None:
                loss = last_loss(folder)
            self._arrived(store, number, rung, loss)
        elif finished.status == 2 and finished.error and number and store is self.trials:
            self._reached.pop(trial.name, None)
            store.fail(number, finished.error)
            self.screen.arrived(
                trial.name, trial.settings, f"failed: {finished.error}", self._done()
            )
        elif finished.status == 2 and finished.error:
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
        share = (
            ""
            if tokens == self.ladder.total
            else f" after {tokens / self.ladder.total:.3g} of a run"
        )
        self.screen.arrived(trial.name, trial.settings, f"val loss {loss:.4f}{share}", self._done())

    def _done(self) -> int:
        """Tokens that were trained on so far."""
        done = 0
        for trial in (*self.trials.trials, *self.seeds.trials):
            done += max(max(trial.losses, default=0), self._reached.get(trial.name, 0))
        return done

    def _rows(self) -> tuple[Mapping[str, Any], ...]:
        return rows_of(self.trials.trials, self.seeds.trials, self.ladder, self.design.columns)

    def _result(self, *, is_complete: bool) -> TuneResult:
        design, total = self.design, self.ladder.total
        rows = self._rows()
        trials, seeds = self.trials.trials, self.seeds.trials
        stopped_by = self.interrupts.stopped_by
        empty = Trial("", {}, dict(design.recipe))
        verdict = judge(trials or [empty], seeds, total)
        settings = best_settings(verdict.best, design.recipe, design.requested)
        result = TuneResult(
            folder=self.folder,
            rows=rows,
            best=settings,
            best_val_loss=verdict.best_loss,
            recipe_val_loss=verdict.recipe_loss,
            spread=verdict.spread,
            recipe_stands=verdict.recipe_stands,
            cost=self._done() / total,
            best_toml=self.folder / "best.toml",
            verdict=verdict.text if is_complete else "Stopped: homespun tune --resume goes on.",
            is_complete=is_complete,
            stopped_by=stopped_by,
            columns=tuple(design.columns),
        )
        if is_complete:
            plain = {f.name: f.default for f in dataclasses.fields(TrainConfig)}
            with _writing(self.folder):
                write_best(self.folder, settings, verdict.text, plain)
                facts = ("best_val_loss", "recipe_val_loss", "spread", "recipe_stands", "cost")
                stated = {name: getattr(result, name) for name in (*facts, "verdict")}
                durable.write_json(
                    self.folder / RESULTS, {**stated, "best": settings, "rows": list(rows)}
                )
            try:
                plot_tune(self.folder / PLOT, design.space, trials, seeds, self.ladder)
            except Exception as error:  # no picture is worth an error
                self.say(
                    f"{self.folder / PLOT} cannot be drawn ({error}). Nothing else is missing."
                )
        return result


def loss_at(folder: Path, step: int) -> float | None:
    """The validation loss of a run at a step, infinite if it was not finite; None if it was not measured."""
    for record in read_whole(folder / METRICS):
        if record["step"] == step and "val_loss" in record:
            return math.inf if record["val_loss"] is None else float(record["val_loss"])
    return None


def last_loss(folder: Path) -> float:
    """The last validation loss of a run, which may have ended early by its patience."""
    losses = [record["val_loss"] for record in read_whole(folder / METRICS) if "val_loss" in record]
    return math.inf if not losses or losses[-1] is None else float(losses[-1])


def _remove_without_checkpoint(folder: Path) -> None:
    """Remove the folder of a trial that was killed before its first checkpoint: it begins again."""
    if folder.exists() and not CheckpointFolder(folder).steps():
        CheckpointFolder(folder).check_free()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raise a UserError for any OSError inside the block."""
    try:
        yield
    except OSError as error:
        what = f"{folder} cannot be written"
        raise cannot_write(error, what, "choose another folder (--checkpoint-dir)") from error


def describe(result: TuneResult) -> dict[str, str]:
    """The files of a tune, and the command that may follow."""
    if not result.is_complete:
        place = (
            ""
            if str(result.folder) == TuneConfig.checkpoint_dir
            else f" --checkpoint-dir {result.folder}"
        )
        return {"resume": f"homespun tune --resume{place}"}
    return {
        "best": str(result.best_toml),
        "plot": str(result.folder / PLOT),
        "cost": f"{result.cost:.2f} whole runs",
        "train": f"homespun train --config {result.best_toml}",
    }
