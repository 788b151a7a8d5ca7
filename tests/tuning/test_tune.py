"""Real trials: killed and resumed they end as if nothing had been, and what goes on equals a run of its own."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun as package
from homespun import durable
from homespun.checkpoint.archive import read_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.cli.main import main
from homespun.config import TrainConfig
from homespun.config.toml_file import read_toml
from homespun.tuning import tune
from homespun.tuning.course import Course
from homespun.tuning.design import TuneFolder
from homespun.tuning.reading import read_tune
from tests.conftest import finished, records
from tests.tuning.test_course import FakeCrew

TINY = [
    *("--model-size", "pico", "--n-layers", 1, "--d-model", 32, "--n-heads", 2, "--seq-len", 16),
    *("--batch-size", 4, "--eval-tokens", 500, "--log-interval", 5, "--learning-rate", 0.003),
    *("--optimizer", "muon", "--vocab-size", 300, "--threads", 1, "--seed", 3),
]


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill the tune and all its trials at once, as a power cut does."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def start(place: Path, *more: object) -> "subprocess.Popen[str]":
    """Start a tune as the leader of a process group."""
    words = [str(word) for word in ("tune", *TINY, "--parallel", 1, *more)]
    return subprocess.Popen(
        [sys.executable, "-m", "homespun", *words],
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )


def until(process: "subprocess.Popen[str]", words: str) -> None:
    """Read the output up to a line with these words."""
    assert process.stdout
    seen = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return
    raise AssertionError("".join(seen))


def weights(file: Path) -> dict[str, Any]:
    return dict(read_archive(file).tensors())


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


@pytest.mark.usefixtures("workplace")
def test_a_killed_tune_ends_with_trials_that_equal_uninterrupted_runs(tmp_path: Path) -> None:
    design = ["--trials", 2, "--rungs", 2, "--spread-runs", 0, "--max-steps", 24]
    process = start(tmp_path, *design)
    until(process, "trial_1 ")
    kill(process)
    output = finished(start(tmp_path, *design, "--resume"))
    assert "Resuming the tune" in output

    results = durable.read_json(tmp_path / "tune" / "results.json")
    told = read_tune(tmp_path / "tune")
    assert [dict(row) for row in told.rows] == results["rows"]
    assert told.verdict == results["verdict"]
    (tmp_path / "tune" / "results.json").unlink()  # as before its end: from the trials' own records
    assert [dict(row) for row in read_tune(tmp_path / "tune").rows] == results["rows"]
    assert read_tune(tmp_path / "tune").verdict is None
    ends = {row["trial"]: row["val_loss"] for row in results["rows"]}
    best = read_toml(tmp_path / "tune" / "best.toml", TrainConfig)
    assert best["learning_rate"] == results["best"]["learning_rate"]
    for name, folder in (("recipe", "trial_0"), ("1", "trial_1")):
        row = next(row for row in results["rows"] if row["trial"] == name)
        own = {key: row[key] for key in ("learning_rate", "muon_learning_rate", "batch_size")}
        run = package.train(
            **{**best, **own, "max_steps": row["steps"], "checkpoint_dir": folder}, quiet=True
        )
        assert run.val_loss == ends[name]
        step = f"checkpoint_step_{row['steps']}"
        for end in (".npz", ".state.npz"):
            assert same(tmp_path / folder / (step + end), tmp_path / "tune" / folder / (step + end))
        stopped = [r["step"] for r in records(tmp_path / "tune" / folder) if "val_loss" in r]
        assert stopped[0] == row["steps"] // 4
        assert stopped == sorted(set(stopped))


@pytest.mark.usefixtures("workplace")
def test_bad_input_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    def refused(*words: object) -> str:
        assert main(["tune", *map(str, words)]) == 2
        line = capfd.readouterr().err.strip()
        assert "\n" not in line
        return line

    assert "did you mean learning_rate" in refused("--search", "lr=1,2")
    assert "empty range" in refused("--search", "learning_rate=0.2:0.1")
    assert "holds no tune to resume" in refused("--resume")
    assert "leave --search out" in refused("--transfer-from", "x", "--search", "batch_size=1,2")
    assert "there is no tune" in refused("--transfer-from", "missing")
    assert "unknown flag" in refused("--trails", 3)
    assert "--track foo is unknown" in refused("--track", "foo")
    assert "--track foo is unknown" in refused("--track", "foo", "--dry-run")
    assert not Path("tune").exists()
    with TuneFolder(Path("tune")).lock():
        assert "tune is in use by process" in refused("--trials", 2)


@pytest.mark.usefixtures("workplace")
def test_a_dry_run_states_the_cost_and_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    Path("tune.toml").write_text('dry_run = true\nsearch = ["n_layers=x1,x2"]\n')
    before = sorted(Path().rglob("*"))
    words = ["tune", *TINY, "--max-steps", 160, "--config", "tune.toml"]
    assert main([*map(str, words)]) == 0
    page = dict(line.split(maxsplit=1) for line in capfd.readouterr().out.strip().splitlines()[-7:])
    assert page["space"] == "n_layers=1,2"
    assert page["trials"].startswith("2;")
    assert page["cost"].startswith("as much as 4.00 whole runs")
    assert {"time", "disk"} < page.keys()
    assert sorted(Path().rglob("*")) == before


@pytest.mark.usefixtures("workplace")
def test_a_resumed_tune_keeps_its_settings_and_an_earlier_one_is_set_aside(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = list(map(str, ["tune", *TINY, "--max-steps", 40, "--trials", 4, "--parallel", 1]))
    crew = FakeCrew()
    monkeypatch.setattr(tune, "Course", lambda *given: Course(*given[:-1], crew))
    assert main(words) == 0
    found = capfd.readouterr().out
    assert main(["tune", "--resume"]) == 0
    assert _table(capfd.readouterr().out) == _table(found)
    assert main(["tune", "--resume", "--trials", "5"]) == 2
    assert "cannot change --trials: it is 5, and was 4" in capfd.readouterr().err
    with CheckpointFolder(Path("tune/trial_1")).lock():  # a trial that outlives its tune
        assert main(words) == 2
        assert "trial_1 is in use by process" in capfd.readouterr().err
    assert Path("tune/best.toml").exists()
    assert main(words) == 0
    assert "The earlier tune in tune is now in tune.1." in capfd.readouterr().out
    assert Path("tune.1/best.toml").exists()
    Path("stories.txt").write_text("Another text. " * 1000)
    assert main(["tune", "--resume"]) == 2
    assert "is not the text of this tune any more" in capfd.readouterr().err


@pytest.mark.usefixtures("workplace")
def test_a_tune_from_python(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = FakeCrew()
    monkeypatch.setattr(tune, "Course", lambda *given: Course(*given[:-1], crew))
    shape = {"model_size": "pico", "n_layers": 1, "d_model": 32, "n_heads": 2, "seq_len": 16}
    settings = {**shape, "max_steps": 64, "vocab_size": 300, "method": "grid", "quiet": True}
    result = package.tune({"learning_rate": [1e-4, 3e-4, 1e-2]}, **settings)
    assert capfd.readouterr().out == ""
    assert isinstance(result, package.TuneResult)
    assert result.rows[0]["trial"] == "2"
    assert len(result.rows) == 3 + 2
    assert result.best["learning_rate"] == 1e-2
    best = package.TrainConfig(**result.best)
    assert (best.max_steps, best.vocab_size) == (64, 300)
    assert repr(result).splitlines()[-1] == result.verdict
    assert result.at_edge == ("learning_rate",)
    with pytest.raises(package.UserError, match="give one of them"):
        package.tune({"learning_rate": [1e-4]}, search=("batch_size=1,2",))
    with pytest.raises(package.UserError, match="did you mean trials"):
        package.tune(trails=3)


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
def test_ten_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    design = ["--trials", 6, "--spread-runs", 1, "--max-steps", 160]
    began = time.monotonic()
    control = finished(start(tmp_path, *design, "--checkpoint-dir", "control"))
    whole = time.monotonic() - began
    moments = random.Random(7)
    kills = 0
    while kills < 10:
        process = start(tmp_path, *design, "--resume", "auto")
        try:
            # Ten of these take less time than a whole tune, on any machine.
            process.communicate(timeout=whole * moments.uniform(0.03, 0.15))
        except subprocess.TimeoutExpired:
            if kills % 3 == 2:  # every third time, the trials outlive the tune, and save
                process.kill()
                process.communicate()
            else:
                kill(process)
            kills += 1
        else:
            break
    output = finished(start(tmp_path, *design, "--resume", "auto"))
    assert _table(output) == _table(control)
    assert kills == 10
    one, other = (durable.read_json(tmp_path / n / "results.json") for n in ("control", "tune"))
    assert one["rows"] == other["rows"]


def _table(output: str) -> list[str]:
    lines = output.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("trial "))
    return lines[first : lines.index("", first)]


@pytest.mark.usefixtures("workplace")
def test_a_run_shorter_than_a_step_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["tune", *TINY, "--max-steps", 20, "--search", "batch_size=4,1000", "--dry-run"]
    assert main([*map(str, words)]) == 2
    assert "more than a whole run of 1,280" in capfd.readouterr().err


@pytest.mark.usefixtures("workplace")
def test_batches_that_do_not_divide_each_other_are_compared_after_equal_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crew = FakeCrew()
    monkeypatch.setattr(tune, "Course", lambda *given: Course(*given[:-1], crew))
    words = ["tune", *TINY, "--max-steps", 128, "--search", "batch_size=4,7", "--parallel", 1]
    assert main([*map(str, words)]) == 0
    first = {records(Path("tune") / name)[0]["tokens"] for name in ("trial_0", "trial_1")}
    assert len(first) == 1
