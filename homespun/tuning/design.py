"""The settings of a tune flow in; everything that it decides before its first trial comes out, and is written down."""

import contextlib
import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.checkpoint.folder import CheckpointFolder, FolderLock
from homespun.checkpoint.names import LOCK
from homespun.config import TuneConfig
from homespun.config.checked import flag, settings_of
from homespun.config.toml_file import read_toml
from homespun.errors import UserError, cannot_write
from homespun.planning.recipe import SHAPE
from homespun.records import tracking
from homespun.terminal import Say, counted, duration, size
from homespun.training.checkpointing.resume import check_stored_reward
from homespun.tuning import space as spaces
from homespun.tuning import transfer
from homespun.tuning.ladder import Ladder, ladder
from homespun.tuning.objective import LOSS, Objective, objective_of
from homespun.tuning.preparation import (
    Recipe,
    foresee,
    has_room,
    most_parallel,
    prepare,
    tokens_per_step,
)
from homespun.tuning.result import varied
from homespun.tuning.space import Dimension, Point
from homespun.tuning.store import DATABASE
from homespun.tuning.transfer import RECORD

TOKENIZER = "tokenizer"
"""The folder of the tokenizer, inside that of the tune."""
PRIVATE = ("checkpoint_dir", "resume", "config", "parallel", "dry_run")
"""Settings that a resumed tune may be given anew."""

OF_A_STEP = ("batch_size", "grad_accumulation_steps", "seq_len")
"""Settings that give the tokens of a step."""


@dataclass(frozen=True)
class TuneFolder(CheckpointFolder):
    """The folder of a tune, which is locked and moved aside as that of a run is."""

    def has_run(self) -> bool:
        return any((self.path / name).exists() for name in (RECORD, DATABASE)) or super().has_run()

    def check_trials_free(self) -> None:
        """Make sure that no trial of a killed tune is still saving: it would save into the folder of the next tune.

        Raises:
            UserError: a process uses the folder of a trial.
        """
        for lock in self.path.glob(f"*/{LOCK}"):
            CheckpointFolder(lock.parent).check_free()


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
    def objective(self) -> Objective:
        """The figure by which the trials are compared."""
        return objective_of(self.recipe)

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

    def facts(self) -> dict[str, str]:
        """The tune in words, by topic."""
        total = self.ladder.total
        recipe = counted(round(total / tokens_per_step(self.recipe)), "step")
        others = counted(self.config.spread_runs, "more run")
        seeds = f", and {others} of it with other seeds" if self.config.spread_runs else ""
        counts = self.ladder.counts(self.challengers)
        rungs = [
            f"{tokens / total:.0%} ({counted(count, 'trial')})"
            for tokens, count in zip(self.ladder.tokens, counts, strict=True)
        ]
        carried = {"carried": "; ".join(self.carried)} if self.carried else {}
        run = {"run": f"{total:,} tokens, {recipe} of the recipe"}
        if self.objective is not LOSS:
            run = {"run": f"{recipe} of the recipe", "figure": self.objective.words}
        return carried | {
            "space": "; ".join(map(str, self.space)),
            "trials": f"{self.trials}; the first one is the recipe{seeds}",
            **run,
            "compared": f"after {', '.join(rungs)} of a run, besides the recipe"
            if self.ladder.prunes
            else "at the end of the runs",
            "cost": f"as much as {self.cost / total:.2f} whole runs; "
            f"{counted(self.parallel, 'trial')} at a time",
        }

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
    tracking.named(wanted.track)
    if wanted.transfer_from is not None and wanted.search:
        raise UserError("--transfer-from chooses the settings to try: leave --search out")
    return wanted


def resumed(
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
        if design.recipe.get("reward") != design.config.reward:
            raise ValueError("its parts name different rewards")
    except (LookupError, TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{folder / RECORD} is of another version of homespun ({error!r})"
        ) from None
    stated = dataclasses.asdict(wanted)
    names = stated.keys() if config is not None else stated_names(given)
    if "reward" not in names:
        check_stored_reward(design.config.reward)
    for name in names:
        now, before = stated[name], at_first[name]
        if name not in PRIVATE and now != before:
            raise UserError(
                f"a resumed tune cannot change {flag(name)}: it is {now}, and was "
                f"{'not given' if before is None else before}: leave it out, or start a new tune without --resume"
            )
    return design


def stated_names(given: Mapping[str, Any]) -> list[str]:
    """The names of the settings that were given, by themselves or in the file that they name."""
    file = given.get("config")
    return [*(read_toml(Path(file), TuneConfig) if file else {}), *given]


def designed(wanted: TuneConfig, asked: Collection[str], lock: FolderLock, say: Say) -> Design:
    """Decide everything about a new tune, and write it down. An earlier one is set aside. `asked` has the names of the
    settings that were given.

    Raises:
        UserError: a setting, the text or the machine does not allow it; nothing is changed.
    """
    folder = lock.folder.path
    small = _small(wanted)
    recipe = prepare(wanted, asked, say)
    design = _decided(wanted, recipe, small, say)
    lock.folder.check_space(
        recipe.disk * (design.trials + wanted.spread_runs), "the checkpoints of the trials need"
    )
    TuneFolder(folder).check_trials_free()
    if earlier := lock.set_aside():
        say(f"The earlier tune in {folder} is now in {earlier}.")
    with writing(folder):
        if recipe.tokenizer:
            recipe.tokenizer.save(folder / TOKENIZER)
        durable.write_json(folder / RECORD, design.stored())
    return design


def expected(wanted: TuneConfig, asked: Collection[str], say: Say) -> dict[str, str]:
    """A tune in words, with its time and disk space; nothing is written. `asked` as for `designed`.

    Raises:
        UserError: as `designed`.
    """
    small = _small(wanted)
    recipe, seconds = foresee(wanted, asked, say)
    design = _decided(wanted, recipe, small, say)
    facts = design.facts()
    runs = design.cost / design.ladder.total
    facts["time"] = f"about {duration(seconds)} for a whole run"
    if design.parallel == 1:
        facts["time"] += f", {duration(seconds * runs)} for all"
    facts["disk"] = f"at most {size(recipe.disk * (design.trials + wanted.spread_runs))}"
    return facts


def _small(wanted: TuneConfig) -> transfer.Run | None:
    """The tune to carry settings over from, if any. Mistakes in the space are found here, before the work."""
    for text in wanted.search:
        spaces.parsed(text, None)
    return transfer.finished_tune(Path(wanted.transfer_from)) if wanted.transfer_from else None


def _decided(wanted: TuneConfig, recipe: Recipe, small: transfer.Run | None, say: Say) -> Design:
    """The design of a tune about a recipe."""
    _state_shape(wanted.search, recipe)
    if _prunes(wanted) and wanted.eval_interval is not None:
        say(
            "With pruning, trials are evaluated where they are compared, and not by --eval-interval."
        )
    points: list[Point] | None = None
    carried: tuple[str, ...] = ()
    if small:
        own = transfer.Run(recipe.settings, recipe.width, recipe.total_tokens)
        found = transfer.carried(small, own)
        points, space = transfer.around(found)
        values = ", ".join(f"{name} {spaces.written(v)}" for name, v in found.settings.items())
        carried = (f"{values} from {wanted.transfer_from}", *found.lines)
    else:
        space = spaces.chosen_space(wanted, recipe.settings, recipe.total_steps)
        if not wanted.search:
            space = _that_fits(space, recipe, wanted, say)
        _check_answers(space, recipe)
        if wanted.method == "grid":
            points = spaces.grid(space)
    points, trials = _count(points, space, recipe, wanted, say)
    largest = _largest(space, recipe.settings)
    if (most := tokens_per_step(largest)) > recipe.total_tokens:
        raise UserError(
            f"the largest step to try takes {most:,} tokens, more than a whole run of {recipe.total_tokens:,}: give "
            "longer runs (--max-steps), or smaller steps with --search"
        )
    rungs = wanted.rungs if _prunes(wanted) else 1
    common = _common_step(space, recipe.settings)
    fits = common is not None and common * wanted.reduction ** (rungs - 1) <= recipe.total_tokens
    steps = ladder(
        recipe.total_tokens, common if common and fits else most, wanted.reduction, rungs
    )
    parallel, threads = most_parallel(wanted, recipe, largest["batch_size"])
    return Design(
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
            points_are = counted(trials - 1, "point is", "points are")
            say(f"Only {points_are} there to try besides the recipe.")
    if trials < 2:
        raise UserError("there is nothing to try besides the recipe: name values with --search")
    return points, trials


def _state_shape(search: Sequence[str], recipe: Recipe) -> None:
    """Add the shape of the recipe's model to its settings, as far as it varies between trials."""
    for text in search:
        name = text.partition("=")[0].strip().lstrip("-").replace("-", "_")
        if name in SHAPE and name not in recipe.settings and getattr(recipe.plan.model, name):
            recipe.settings[name] = getattr(recipe.plan.model, name)


def _that_fits(
    space: Sequence[Dimension], recipe: Recipe, wanted: TuneConfig, say: Say
) -> tuple[Dimension, ...]:
    """The usual space without batches that do not fit into memory or divide a group of answers, and samples of another
    length where that is impossible."""
    fitting = []
    for dimension in space:
        if dimension.name == "seq_len" and recipe.has_answers:
            say("seq_len does not vary: it decides which answers a run learns from.")
            continue
        if dimension.name == "batch_size":
            together = recipe.plan.config.sequences_together
            whole = tuple(size for size in dimension.choices if not int(size) % together)
            choices = tuple(size for size in whole if has_room(recipe, int(size), wanted.engine))
            if choices != whole:
                tried = ", ".join(map(str, choices))
                rest = f"trying {tried}" if tried else "batch_size does not vary"
                say(f"Larger batches do not fit into memory: {rest}.")
            dimension = dataclasses.replace(dimension, choices=choices)
        if dimension.name == "seq_len" and wanted.init_from is not None:
            context = recipe.plan.model.seq_len
            choices = tuple(n for n in dimension.choices if int(n) <= context)
            if len(choices) < 2:
                say(
                    f"The context of {wanted.init_from} is {context:,} tokens: seq_len does not vary."
                )
                continue
            dimension = dataclasses.replace(dimension, choices=choices)
        fitting.append(dimension)
    return tuple(dimension for dimension in fitting if dimension.choices or dimension.high)


def _check_answers(space: Sequence[Dimension], recipe: Recipe) -> None:
    """Make sure that trials learn from the same answers, whole pairs and whole groups of them.

    Raises:
        UserError: they would not.
    """
    together = recipe.plan.config.sequences_together
    for dimension in space:
        if dimension.name == "seq_len" and recipe.has_answers:
            raise UserError(
                "--search seq_len: it decides which answers a run learns from, so its trials cannot be compared"
            )
        if dimension.name == "batch_size" and together > 1:
            if not dimension.choices:
                raise UserError(
                    f"--search batch_size is a range, and a micro-batch has a multiple of {together} answers: name "
                    f"values, such as batch_size={together},{2 * together}"
                )
            if any(int(size) % together for size in dimension.choices):
                raise UserError(
                    f"--search {dimension}: a micro-batch has a multiple of {together} answers"
                )


def _largest(space: Sequence[Dimension], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the largest step of any trial."""
    sizes = {d.name: max(int(d.largest), settings[d.name]) for d in space if d.name in OF_A_STEP}
    return {**settings, **sizes}


def _common_step(space: Sequence[Dimension], settings: Mapping[str, Any]) -> int | None:
    """The fewest tokens that are a whole number of steps for every trial; None where a range gives the steps."""
    sizes = [dimension for dimension in space if dimension.name in OF_A_STEP]
    if not all(dimension.choices for dimension in sizes):
        return None
    points = [{}, *spaces.grid(sizes)]
    return math.lcm(*(tokens_per_step({**settings, **point}) for point in points))


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise a UserError for any OSError inside the block."""
    try:
        yield
    except OSError as error:
        what = f"{folder} cannot be written"
        raise cannot_write(error, what, "choose another folder (--checkpoint-dir)") from error
