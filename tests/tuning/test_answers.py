"""Tunes of runs that learn from answers: conversations, preferences, and a reward."""

import json
import math
import sqlite3
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

import homespun as package
from homespun import durable
from homespun.config import TrainConfig, TuneConfig
from homespun.config.toml_file import read_toml
from homespun.engine.probe import ProbeFailed
from homespun.errors import UserError
from homespun.forecast import speed
from homespun.tuning import tune
from homespun.tuning.course import Course
from homespun.tuning.objective import LOSS, PAIRS, REWARD, objective_of
from homespun.tuning.preparation import foresee, prepare
from homespun.tuning.reading import read_tune
from tests.answering import model_and_questions
from tests.conftest import new_workplace, records
from tests.tuning.test_course import RECIPE, FakeCrew, Killed, course, design

RUN: dict[str, Any] = {
    "init_from": "base",
    "seq_len": 384,
    "threads": 1,
    "spread_runs": 0,
    "parallel": 1,
    "log_interval": 1,
    "learning_rate": 3e-3,
    "quiet": True,
}
REWARDED: dict[str, Any] = RUN | {
    "data_file": "questions.jsonl",
    "reward": "mine.py:letters",
    "group_size": 4,
    "batch_size": 8,
    "grad_accumulation_steps": 1,
    "answer_tokens": 6,
    "max_steps": 2,
    "checkpoint_dir": "rewarded",
}
LETTERS = """
def letters(prompt, answers):
    return [answer.count("e") / (1 + len(answer)) for answer in answers]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, story_file: Path) -> Path:
    """A small model of stories, questions, pairs of answers, and a reward."""
    folder = tmp_path_factory.mktemp("answers")
    new_workplace(folder, story_file)
    (folder / "mine.py").write_text(LETTERS)
    pair = {"chosen": "Anna.", "rejected": "Tim."}
    lines = [json.dumps({"prompt": f"Who has ball {n}?"} | pair) + "\n" for n in range(120)]
    (folder / "pairs.jsonl").write_text("".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        model_and_questions(60, max_steps=5)
    return folder


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials compute nothing."""
    crew = FakeCrew()
    monkeypatch.setattr(tune, "Course", lambda *given: Course(*given[:-1], crew))


def test_trials_are_compared_by_the_figure_that_their_run_is_about() -> None:
    assert objective_of(RECIPE) is LOSS
    assert objective_of(RECIPE | {"preferences": "pairs.jsonl"}) is PAIRS
    reward = objective_of(RECIPE | {"reward": "questions"})
    assert reward is REWARD
    record = {"step": 3, "val_loss": 2.0, "val_reward": 0.25}
    assert (LOSS.of(record), reward.of(record)) == (2.0, -0.25)
    assert (reward.value(-0.25), reward.shown(-0.25)) == (0.25, "0.2500")
    assert reward.of({"step": 3, "val_loss": 2.0}) is None
    assert reward.of(record | {"val_reward": None}) == math.inf
    assert reward.value(math.inf) is None


def test_the_highest_reward_is_the_best(tmp_path: Path) -> None:
    rewarded = design(recipe=RECIPE | {"reward": "questions"}, settings={"reward": "questions"})
    folder = tmp_path / "tune"
    with pytest.raises(Killed):
        course(folder, rewarded, FakeCrew(events=5))
    durable.write_json(folder / "tune.json", rewarded.stored())
    so_far = read_tune(folder)
    assert so_far.objective is REWARD
    result = course(folder, rewarded, FakeCrew())
    by_loss = course(tmp_path / "other", design(), FakeCrew())
    assert [row["trial"] for row in result.rows] == [row["trial"] for row in by_loss.rows]
    assert [row["val_reward"] for row in result.rows] == [-row["val_loss"] for row in by_loss.rows]
    assert result.best_reward == -by_loss.best_val_loss
    assert result.recipe_reward == pytest.approx(-by_loss.recipe_val_loss)
    assert result.best_val_loss is result.recipe_val_loss is None
    assert result.spread == pytest.approx(by_loss.spread)
    assert f"reward of held-out prompts {result.best_reward:.4f}, the recipe's" in result.verdict
    assert "val reward" in str(result).splitlines()[0]
    assert durable.read_json(folder / "results.json")["best_reward"] == result.best_reward
    assert (folder / "tuning.png").exists()


def test_a_tune_of_a_reward_runs_real_trials_and_runs_no_code_by_itself(place: Path) -> None:
    result = package.tune({"learning_rate": [3e-3, 1e-3]}, method="grid", **REWARDED)
    assert [row["state"] for row in result.rows] == ["whole run", "whole run"]
    for row in result.rows:
        name = "trial_0" if row["trial"] == "recipe" else f"trial_{row['trial']}"
        last = [record for record in records(place / "rewarded" / name) if "val_reward" in record]
        assert (last[-1]["step"], last[-1]["val_reward"]) == (2, row["val_reward"])
    assert result.best_reward == result.rows[0]["val_reward"]
    best = read_toml(result.best_toml, TrainConfig)
    assert (best["reward"], best["init_from"]) == ("mine.py:letters", "base")
    with pytest.raises(UserError, match=r"mine\.py:letters, which is code"):
        package.tune(resume="latest", checkpoint_dir="rewarded", quiet=True)
    again = package.tune(
        resume="latest", checkpoint_dir="rewarded", reward="mine.py:letters", quiet=True
    )
    assert again.rows == result.rows
    tune_json = place / "rewarded" / "tune.json"
    record = durable.read_json(tune_json)
    durable.write_json(tune_json, {**record, "requested": {**record["requested"], "reward": None}})
    with pytest.raises(UserError, match="its parts name different rewards"):
        package.tune(resume="latest", checkpoint_dir="rewarded", quiet=True)


def test_no_trial_runs_code_that_only_the_database_names(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        course(tmp_path / "tune", design(), FakeCrew(events=3))
    database = sqlite3.connect(tmp_path / "tune" / "study.db")
    with database:
        changed = database.execute(
            "UPDATE trial_user_attributes SET value_json = json_set(value_json, '$.reward', 'evil.py:run') "
            "WHERE key = 'settings'"
        )
    database.close()
    assert changed.rowcount
    with pytest.raises(UserError, match="has another reward than the tune"):
        course(tmp_path / "tune", design(), FakeCrew())


@pytest.mark.usefixtures("place", "without_training")
@pytest.mark.parametrize(
    ("data", "figure"),
    [
        ({"preferences": "pairs.jsonl", "batch_size": 4}, "validation loss of the pairs"),
        ({"data_file": "questions.jsonl", "batch_size": 4}, "validation loss"),
        ({name: REWARDED[name] for name in REWARDED if name not in RUN}, "reward of held-out"),
    ],
)
def test_the_usual_space_keeps_answers_and_their_groups(data: dict[str, Any], figure: str) -> None:
    given = RUN | data | {"max_steps": 64, "trials": 4, "dimensions": 3}
    result = package.tune(**given | {"checkpoint_dir": "usual"})
    assert set(result.columns) <= {"learning_rate", "muon_learning_rate", "batch_size"}
    together = 4 if "reward" in data else 2 if "preferences" in data else 1
    assert all(row["batch_size"] % together == 0 for row in result.rows)
    assert result.objective.words.startswith(figure)
    best = TrainConfig(**result.best)
    assert (best.data_file is None) == (best.preferences is not None)
    package.tune(resume="latest", checkpoint_dir="usual", quiet=True, reward=data.get("reward"))


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "data",
    [{"preferences": "pairs.jsonl"}, {"data_file": "questions.jsonl"}],
)
def test_a_dry_run_estimates_by_the_rows_of_the_run(
    data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("probe", "probe_decoding"):
        monkeypatch.setattr(speed, name, Mock(side_effect=ProbeFailed("not now")))
    given = {name: value for name, value in RUN.items() if name != "quiet"} | data
    config = TuneConfig(**given, batch_size=8, grad_accumulation_steps=2, max_epochs=9.0)
    foreseen, _ = foresee(config, [*given, "max_epochs"], print)
    recipe = prepare(config, [*given, "max_epochs"], print)
    assert foreseen.plan.longest_row == recipe.plan.longest_row
    assert foreseen.plan.in_rows == recipe.plan.in_rows
    assert foreseen.total_tokens == pytest.approx(recipe.total_tokens, rel=0.1)
    if "preferences" in data:
        assert recipe.plan.in_rows.seq_len < recipe.plan.config.seq_len


@pytest.mark.usefixtures("place", "without_training")
def test_trials_that_would_learn_from_other_answers_are_refused() -> None:
    for data, together in (({"preferences": "pairs.jsonl"}, 2), (REWARDED, 4)):
        given = RUN | data | {"max_steps": 8, "checkpoint_dir": "refused"}
        for space, said in (
            ({"seq_len": [64, 128]}, "it decides which answers a run learns from"),
            ({"batch_size": [4, 7]}, f"a micro-batch has a multiple of {together} answers"),
            ({"batch_size": (4, 8)}, f"such as batch_size={together},{2 * together}"),
        ):
            with pytest.raises(UserError, match=said):
                package.tune(space, **given)
    assert not Path("refused/tune.json").exists()
    with pytest.raises(UserError, match="improves a model that exists"):
        package.tune(reward="questions", quiet=True)
    with pytest.raises(UserError, match="takes the place of --data-file"):
        package.tune(**RUN | {"preferences": "pairs.jsonl", "data_file": "stories.txt"})
