"""A tune with trials that compute nothing: choices, cost, kills, order of events, and the verdict."""

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from homespun.config import TrainConfig, TuneConfig
from homespun.config.toml_file import read_toml
from homespun.errors import UserError
from homespun.training.interrupts import Interrupts
from homespun.tuning.course import Course
from homespun.tuning.design import Design
from homespun.tuning.ladder import ladder
from homespun.tuning.preparation import tokens_per_step
from homespun.tuning.processes import Crew, Finished, Job, Progress
from homespun.tuning.result import TuneResult, write_best
from homespun.tuning.space import Dimension, grid

RECIPE = {
    "optimizer": "adamw",
    "learning_rate": 3e-4,
    "muon_learning_rate": 0.02,
    "batch_size": 8,
    "grad_accumulation_steps": 1,
    "seq_len": 16,
    "weight_decay": 0.1,
    "seed": 5,
    "data_file": "stories.txt",
    "model_size": "pico",
}
SPACE = (
    Dimension("learning_rate", low=1e-5, high=1e-1, log=True),
    Dimension("batch_size", (4, 8, 16)),
)
BEST_RATE = 1e-2

Loss = Callable[[Mapping[str, Any], float], float]


def bowl(settings: Mapping[str, Any], share: float) -> float:
    """Lowest at one rate. Other seeds differ by a hundredth."""
    distance = math.log10(settings["learning_rate"] / BEST_RATE)
    return 2 + distance**2 + 0.01 * settings["batch_size"] + 0.005 * settings["seed"] - share


class Killed(Exception):
    """The tune is killed."""


class FakeCrew(Crew):
    """Trials whose losses are a function of their settings. They end in a random order."""

    def __init__(
        self, loss: Loss = bowl, order: int = 0, events: float = math.inf, at_most: int = 99
    ) -> None:
        super().__init__(print)
        self.loss, self.random, self.events = loss, random.Random(order), events
        self.jobs: list[Job] = []
        self.trained = 0
        self.at: dict[str, int] = {}
        self.most = 0

    def __call__(self, say: object) -> "FakeCrew":
        return self

    def __len__(self) -> int:
        return len(self.jobs)

    def start(self, job: Job) -> None:
        self.jobs.append(job)
        self.most = max(self.most, len(self.jobs))

    def stop(self) -> None:
        self.jobs.clear()

    def happening(self) -> Progress | Finished | None:
        if self.events <= 0:
            raise Killed
        self.events -= 1
        job = self.jobs.pop(self.random.randrange(len(self.jobs)))
        settings, per_step = job.settings, tokens_per_step(job.settings)
        end = settings["max_steps"] if job.stop_at is None else job.stop_at
        self.trained += end * per_step - self.at.get(job.name, 0)
        self.at[job.name] = end * per_step
        loss = self.loss(settings, end / settings["max_steps"])
        if math.isnan(loss):
            return Finished(job, 2, "the loss is not finite")
        job.folder.mkdir(exist_ok=True)
        # A checkpoint of that name makes the folder one that a run can resume.
        (job.folder / f"checkpoint_step_{end}.state.npz").touch()
        figure = {"val_loss": loss}
        if settings.get("reward"):
            figure = {"val_loss": 1.0, "val_reward": -loss}
        with (job.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": end, "tokens": end * per_step, **figure}) + "\n")
        return Finished(job, 0)


def design(parallel: int = 1, trials: int = 12, **changes: Any) -> Design:
    settings = {"trials": trials, "spread_runs": 2, "seed": 5, **changes.pop("settings", {})}
    values: dict[str, Any] = {
        "requested": {**TuneConfig().__dict__, **settings},
        "recipe": RECIPE,
        "ladder": ladder(64 * 128, 256, 4, 3),
        "space": SPACE,
        "trials": trials,
        "points": None,
        "parallel": parallel,
        "threads": None,
        "data_sha256": "",
        "width": 64,
        **changes,
    }
    return Design(**values)


def course(folder: Path, of: Design, crew: FakeCrew) -> TuneResult:
    folder.mkdir(exist_ok=True)
    return Course(of, folder, of.config, print, Interrupts(), crew).run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[TuneResult, FakeCrew]:
    """An uninterrupted tune, one trial at a time."""
    crew = FakeCrew()
    return course(tmp_path_factory.mktemp("whole") / "tune", design(), crew), crew


def test_it_finds_a_better_rate(whole: tuple[TuneResult, FakeCrew]) -> None:
    result, _ = whole
    assert not result.recipe_stands
    assert abs(math.log10(result.best["learning_rate"] / BEST_RATE)) < 1
    assert result.best_val_loss < result.recipe_val_loss - result.spread
    assert result.spread == pytest.approx(0.01)


def test_it_costs_as_much_as_it_announced(whole: tuple[TuneResult, FakeCrew]) -> None:
    result, crew = whole
    of = design()
    assert crew.trained == of.cost == result.cost * of.ladder.total
    assert sum(row["tokens"] for row in result.rows) == of.cost


def test_the_recipe_and_its_seeds_run_to_the_end(whole: tuple[TuneResult, FakeCrew]) -> None:
    result, crew = whole
    states = {row["trial"]: row["state"] for row in result.rows}
    assert [states[name] for name in ("recipe", "recipe, seed 6", "recipe, seed 7")] == [
        *("whole run", "whole run", "whole run")
    ]
    assert sum(state == "whole run" for state in states.values()) == 4
    assert crew.most == 1


def test_the_table_is_sorted_by_loss(whole: tuple[TuneResult, FakeCrew]) -> None:
    result, _ = whole
    order = [(-row["tokens"], row["val_loss"]) for row in result.rows]
    assert order == sorted(order)
    assert str(result).splitlines()[0].split()[:3] == ["trial", "learning_rate", "batch_size"]
    assert len(str(result).splitlines()) == len(result.rows) + 2


def test_train_takes_the_best_settings(whole: tuple[TuneResult, FakeCrew]) -> None:
    result, _ = whole
    settings = read_toml(result.best_toml, TrainConfig)
    config = TrainConfig(**settings)
    assert config == TrainConfig(**result.best)
    assert config.learning_rate == result.best["learning_rate"]
    assert "# Trial" in result.best_toml.read_text()
    assert config.checkpoint_dir == "checkpoints"


def test_a_tune_killed_at_every_event_ends_with_the_same_table(
    tmp_path: Path, whole: tuple[TuneResult, FakeCrew]
) -> None:
    kills = 0
    while True:
        try:
            result = course(tmp_path / "tune", design(), FakeCrew(events=1))
        except Killed:
            kills += 1
        else:
            break
    assert kills > 12
    assert result.rows == whole[0].rows
    assert result.best_toml.read_text() == whole[0].best_toml.read_text().replace(
        str(whole[0].folder), str(tmp_path / "tune")
    )


def test_trials_at_a_time_give_the_same_table_in_any_order(tmp_path: Path) -> None:
    tables = []
    for order in range(2):
        crew = FakeCrew(order=order)
        tables.append(course(tmp_path / f"tune-{order}", design(parallel=3), crew).rows)
        assert crew.most == 3
    assert tables[0] == tables[1]


def test_a_resumed_tune_says_that_it_runs_no_more_trials_at_a_time(tmp_path: Path) -> None:
    said = list[str]()
    of, wanted = design(), replace(design().config, parallel=4)
    crew = FakeCrew()
    (tmp_path / "tune").mkdir()
    Course(of, tmp_path / "tune", wanted, said.append, Interrupts(), crew).run()
    assert crew.most == 1
    assert any(
        line.startswith("--parallel 4 has no effect: at most 1 trial at a time") for line in said
    )


def test_a_grid_tries_every_point_to_the_end(tmp_path: Path) -> None:
    space = (Dimension("learning_rate", (1e-4, 3e-4, 1e-2)), Dimension("batch_size", (8, 16)))
    points = [p for p in grid(space) if p != {"learning_rate": 3e-4, "batch_size": 8}]
    of = design(
        trials=6,
        space=space,
        points=points,
        ladder=ladder(64 * 128, 256, 4, 1),
        settings={"method": "grid"},
    )
    result = course(tmp_path / "tune", of, FakeCrew())
    assert len(result.rows) == 6 + 2
    assert {row["state"] for row in result.rows} == {"whole run"}
    assert {row["tokens"] for row in result.rows} == {of.ladder.total}
    assert (result.best["learning_rate"], result.best["batch_size"]) == (1e-2, 8)
    assert result.cost == 8


@pytest.mark.parametrize("gain", [0.02, 0.0045, -0.001])
def test_the_recipe_stands_unless_a_trial_is_better_by_more_than_the_spread(
    tmp_path: Path, gain: float
) -> None:
    def loss(settings: Mapping[str, Any], share: float) -> float:
        better = settings["learning_rate"] != RECIPE["learning_rate"]
        return 3 + 0.005 * (settings["seed"] - 6) - share - gain * better

    of = design(trials=3)
    result = course(tmp_path / "tune", of, FakeCrew(loss))
    assert result.spread == pytest.approx(0.01)
    # The trial has the seed of the recipe's first run, which is better than the mean by 0.005.
    assert result.recipe_stands == (gain + 0.005 <= 0.01 + 1e-9)
    assert result.verdict.startswith("The recipe stands") == result.recipe_stands
    if result.recipe_stands:
        assert result.best["learning_rate"] == RECIPE["learning_rate"]
        assert "better by -" not in result.verdict


def test_texts_of_any_kind_survive_in_the_file(tmp_path: Path) -> None:
    prompts = ['Say "hi"', "Käse 😀", "back\\slash"]
    path = write_best(tmp_path, {"sample_prompts": prompts, "z_loss": 1e-05}, "Done.", {})
    assert read_toml(path, TrainConfig) == {"sample_prompts": prompts, "z_loss": 1e-05}


def test_a_trial_that_fails_takes_no_part(tmp_path: Path) -> None:
    def loss(settings: Mapping[str, Any], share: float) -> float:
        return math.nan if settings["learning_rate"] > BEST_RATE else bowl(settings, share)

    result = course(tmp_path / "tune", design(), FakeCrew(loss))
    failed = [row for row in result.rows if row["state"].startswith("failed")]
    assert failed
    assert all(row["val_loss"] is None for row in failed)
    assert result.best["learning_rate"] <= BEST_RATE
    again = course(tmp_path / "tune", design(), FakeCrew(loss, events=0))
    assert again.rows == result.rows


def test_a_full_disk_is_no_fault_of_a_trial(
    tmp_path: Path, whole: tuple[TuneResult, FakeCrew]
) -> None:
    class Full(FakeCrew):
        def happening(self) -> Progress | Finished | None:
            if self.events == 1:
                return Finished(self.jobs.pop(), 2, "no room", passes=True)
            return super().happening()

    with pytest.raises(UserError, match="no room; homespun tune --resume goes on"):
        course(tmp_path / "tune", design(), Full(events=5))
    assert course(tmp_path / "tune", design(), FakeCrew()).rows == whole[0].rows


def test_a_damaged_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tune").mkdir()
    (tmp_path / "tune" / "study.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(UserError, match=r"study.db cannot be used \(.*not a database\)"):
        course(tmp_path / "tune", design(), FakeCrew())


def test_a_recipe_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the recipe cannot be trained: the loss is not finite"):
        course(tmp_path / "tune", design(), FakeCrew(lambda settings, share: math.nan))


def test_a_signal_ends_a_tune_that_goes_on_later(
    tmp_path: Path, whole: tuple[TuneResult, FakeCrew]
) -> None:
    interrupts = Interrupts()

    class Stopping(FakeCrew):
        def happening(self) -> Progress | Finished | None:
            if self.events == 5:
                interrupts.stopped_by = 15  # type: ignore[assignment]
            return super().happening()

    of = design()
    folder = tmp_path / "tune"
    folder.mkdir()
    result = Course(of, folder, of.config, print, interrupts, Stopping(events=10)).run()
    assert (result.is_complete, result.stopped_by) == (False, 15)
    assert result.verdict == "Stopped. All trials are saved."
    assert course(folder, of, FakeCrew()).rows == whole[0].rows


def test_a_tune_that_was_moved_keeps_its_tokenizer(tmp_path: Path) -> None:
    class Watching(FakeCrew):
        def start(self, job: Job) -> None:
            super().start(job)
            tokenizers.append(job.settings["tokenizer_path"])

    tokenizers: list[str] = []
    earlier, later = tmp_path / "tune", tmp_path / "tune.1"
    (earlier / "tokenizer").mkdir(parents=True)
    with pytest.raises(Killed):
        course(earlier, design(), Watching(events=3))
    earlier.rename(later)
    (earlier / "tokenizer").mkdir(parents=True)  # of another tune
    tokenizers.clear()
    course(later, design(), Watching())
    assert set(tokenizers) == {str(later / "tokenizer")}


def test_a_trial_is_better_than_a_recipe_without_a_finite_loss(tmp_path: Path) -> None:
    def loss(settings: Mapping[str, Any], share: float) -> float:
        is_recipe = settings["learning_rate"] == RECIPE["learning_rate"]
        return math.inf if is_recipe else bowl(settings, share)

    result = course(tmp_path / "tune", design(trials=4), FakeCrew(loss))
    assert not result.recipe_stands
    assert result.best["learning_rate"] != RECIPE["learning_rate"]
    assert "whose runs have no finite loss" in result.verdict


def test_any_name_of_a_folder_holds_the_database(
    tmp_path: Path, whole: tuple[TuneResult, FakeCrew]
) -> None:
    for name in ("why?", "100%20", "a#b ü"):
        folder = tmp_path / name
        assert course(folder, design(), FakeCrew()).rows == whole[0].rows
        assert (folder / "study.db").exists()
    assert len(list(tmp_path.iterdir())) == 3
