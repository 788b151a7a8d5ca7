"""A run killed anywhere and resumed equals the uninterrupted run, bit for bit, and needs all of its stored state."""

import itertools
import json
import random
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homespun.checkpoint.archive import write_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.data.shards import open_shard
from homespun.records.reading import read
from tests.faults import runs
from tests.faults.runs import NOTHING, SAVE_INTERVAL, STEPS, WARM_UP, Lost, lost
from tests.faults.table import Table
from tests.test_resume import kept

TITLE = "Killed"
AT_RANDOM = "killed at random, every second time as a save begins"
IN_PLACES = (
    "killed in the first step, at the end of the warm-up, inside accumulation, at an epoch's edge, "
    "evaluating, sampling"
)
IN_CALLS = "a real run killed at every fsync, rename and unlink"
EACH_TOKEN = "killed three times in a pass over the text: how often each token was trained on"
STATE = "an entry of the stored state forgotten (each)"


class Chain:
    """Kills and resumes runs, one folder after the other, for a given number of kills."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.random = place, random.Random(seed)
        self.kills = self.inside = 0
        self.most_repeated = 0
        self.lost = NOTHING

    def kill(self, times: int) -> None:
        """Kill runs `times` times, and compare each completed run with the control."""
        number = 0
        while self.kills < times:
            number += 1
            folder = f"killed-{number}"
            while self._run(folder, and_kill=self.kills < times):
                pass
            found = lost(self.place / "control", self.place / folder)
            self.lost = Lost(self.lost.steps + found.steps, self.lost.files + found.files)
            shutil.rmtree(self.place / folder)

    def _run(self, folder: str, and_kill: bool) -> bool:
        """Start or resume a run; True if it was killed, after its first step."""
        path = self.place / folder
        process = runs.start(
            self.place, "train", "--resume", "auto", *runs.RUN, "--checkpoint-dir", folder
        )
        if and_kill and runs.until(
            process, lambda: "\nstep" in runs.log_of(self.place).read_text()
        ):
            if self.kills % 2:  # at the start of a save, or shortly after
                runs.until(process, lambda: runs.leftovers(path))
                wait = self.random.uniform(0, 0.005)
            else:
                wait = self.random.uniform(0, 0.4)
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        process.wait(timeout=runs.LONGEST)
        if process.returncode == -signal.SIGKILL:
            self.kills += 1
            self.inside += bool(runs.leftovers(path))
            self.most_repeated = max(self.most_repeated, _unsaved_steps(path))
            return True
        assert process.returncode == 0, runs.log_of(self.place).read_text()
        return False


def _unsaved_steps(folder: Path) -> int:
    done = max((record["step"] for record in read(folder / "metrics.jsonl")), default=0)
    return done - (runs.newest_step(folder) or 0)


def test_ten_random_kills(place: Path) -> None:
    chain = Chain(place, seed=1)
    chain.kill(10)
    assert chain.lost == NOTHING
    assert chain.most_repeated <= 2 * SAVE_INTERVAL  # steps continue during a save


@pytest.mark.faults
def test_a_hundred_random_kills(place: Path, table: Table) -> None:
    chain = Chain(place, seed=2)
    chain.kill(100)
    assert chain.lost == NOTHING
    assert chain.most_repeated <= 2 * SAVE_INTERVAL
    assert chain.inside >= 10
    table.row(
        AT_RANDOM,
        tries=chain.kills,
        lost=chain.lost,
        result=f"equal to control; {chain.inside} struck inside a save; at most {chain.most_repeated} steps done "
        f"again, saving every {SAVE_INTERVAL}",
    )


@pytest.mark.faults
@pytest.mark.parametrize("sabotage", ["records-not-cut-back"])
def test_a_random_kill_would_show(place: Path, table: Table, sabotage: str) -> None:
    runs.train(place, "killed", wrong=["die-in-step=8"], status=-9)
    runs.train(place, "killed", wrong=[sabotage])
    assert lost(place / "control", place / "killed") != NOTHING
    table.red(AT_RANDOM, sabotage)


def _die_in_step(step: int, folder: Path) -> str:
    """The fault that kills the run in `step`. Its number counts from the step at which the run resumes."""
    return f"die-in-step={step - (runs.newest_step(folder) or 0)}"


@pytest.mark.faults
def test_kills_in_named_places(place: Path, table: Table) -> None:
    """One run is killed at each place that the resume contract names."""
    folder = place / "killed"
    edge = _first_step_of_the_second_epoch(place)
    places = [
        lambda: _die_in_step(1, folder),
        lambda: _die_in_step(WARM_UP, folder),
        lambda: _die_in_step(WARM_UP + 1, folder),
        lambda: "die-evaluating=1",  # before its first batch, and between two
        lambda: "die-evaluating=3",
        lambda: "die-sampling=1",
        lambda: "die-sampling=2",
        *(lambda step=step: _die_in_step(step, folder) for step in (edge - 1, edge, edge + 1)),
        lambda: _die_in_step(STEPS, folder),
    ]
    for where in places:
        runs.train(place, "killed", wrong=[where()], status=-9)
    runs.train(place, "killed")
    found = lost(place / "control", folder)
    assert found == NOTHING
    table.row(IN_PLACES, tries=len(places), lost=found, result="equal to control")


def _first_step_of_the_second_epoch(place: Path) -> int:
    shards = place.glob("data/tokens/*/training-*.tokens")
    n_samples = sum(open_shard(shard).header.n_tokens for shard in shards) // 16
    return n_samples // 4 + 1


@pytest.mark.faults
def test_killed_at_every_call_of_a_real_run(place: Path, table: Table, strace: list[str]) -> None:
    short = ["--max-steps", 2 * SAVE_INTERVAL, "--keep", 1, "--eval-interval", SAVE_INTERVAL]
    runs.train(place, "short", *short)
    kills = 0
    for call in ("fsync", "rename", "unlink"):
        for k in itertools.count(1):
            die = [*strace, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={k}"]
            runs.train(place, "killed", *short, under=die, status=None)
            killed = runs.newest_step(place / "killed") != 2 * SAVE_INTERVAL or runs.leftovers(
                place / "killed"
            )
            runs.train(place, "killed", *short)
            found = lost(place / "short", place / "killed")
            assert found == NOTHING, (call, k)
            shutil.rmtree(place / "killed")
            if not killed:
                break
            kills += 1
    assert kills > 10
    table.row(IN_CALLS, tries=kills, lost=NOTHING, result="equal to control")


def uneven_passes(place: Path, *wrong: str) -> list[int]:
    """Kill and resume a run, and compare the targets of each of its passes with the text.

    Returns:
        For each whole pass the number of tokens that were a target twice, or are missing although a pass has room for
        them.
    """
    taken = place / "taken"
    taken.mkdir()
    for step in (7, 20, 33, None):  # three kills, and the end
        die = [_die_in_step(step, place / "killed")] if step else []
        runs.train(
            place,
            "killed",
            wrong=[f"keep-batches={taken}", *wrong, *die],
            status=-9 if die else 0,
        )
    shards = sorted(place.glob("data/tokens/*/training-*.tokens"))
    tokens = np.concatenate([open_shard(shard)[:] for shard in shards]).astype(np.int64)
    steps = sorted(taken.iterdir(), key=lambda path: int(path.stem))
    assert len(steps) == STEPS
    targets = np.concatenate([np.load(path) for path in steps])
    n_samples, left_out = divmod(len(tokens), targets.shape[1])
    in_text = np.bincount(tokens, minlength=400)
    uneven = []
    for first in range(0, len(targets) - n_samples + 1, n_samples):
        missing = in_text - np.bincount(targets[first:][:n_samples].ravel(), minlength=400)
        uneven.append(int(np.abs(missing).sum()) - left_out)
    assert len(uneven) >= 1
    return uneven


@pytest.mark.faults
def test_each_token_is_a_target_once_a_pass_whatever_kills_the_run(
    place: Path, table: Table
) -> None:
    uneven = uneven_passes(place)
    assert not any(uneven)
    found = lost(place / "control", place / "killed")
    assert found == NOTHING
    table.row(EACH_TOKEN, tries=3, lost=found, result="each token once a pass")


@pytest.mark.faults
@pytest.mark.parametrize("sabotage", ["samples-moved-to-documents", "pass-begun-again"])
def test_tokens_left_out_would_show(place: Path, table: Table, sabotage: str) -> None:
    assert any(uneven_passes(place, sabotage))
    table.red(EACH_TOKEN, sabotage)


# The inventory of the state

RESTLESS = [
    "--n-layers", 1, "--d-model", 32, "--n-heads", 1, "--seq-len", 16, "--batch-size", 64, "--max-steps", 300,
    "--optimizer", "muon", "--learning-rate", 1, "--muon-learning-rate", 1, "--warmup-steps", 2,
    "--min-learning-rate-ratio", 1, "--max-grad-norm", 0.01, "--threads", 2, "--eval-tokens", 100, "--patience", 2,
    "--sample-prompts", "The cat", "--log-interval", 7, "--save-interval", 1, "--keep", 20,
]  # fmt: skip
"""A run that depends on each entry of its stored state. High learning rates soon end it by its patience, every step is
clipped, the intervals of evaluations and samples depend on their cost, and log records cover several steps."""


def restless(place: Path, folder: str, status: int | None = 0) -> None:
    """Start or resume the restless run. Its fifth step is refused."""
    wrong = [f"nan-in-batch={(place / 'nan').read_text()}"]
    run = ["train", "--resume", "auto", *RESTLESS, "--checkpoint-dir", folder]
    runs.run(place, *run, wrong=wrong, status=status)


@pytest.fixture
def stood_at(place: Path) -> int:
    """A step of the restless run. `control` holds the complete run, `killed` the run up to that step."""
    shutil.rmtree(place / "control")
    # A run of five steps is evaluated after each, and its patience is to end later.
    first = ["--max-steps", 5, "--patience", 5, "--log-interval", 1, "--checkpoint-dir", "first"]
    runs.run(place, "train", *RESTLESS, *first)
    [fifth] = [
        record["batch"]
        for record in kept(place / "first")
        if record["step"] == 5 and "loss" in record
    ]
    (place / "nan").write_text(fifth)
    restless(place, "control")
    end = runs.newest_step(place / "control") or 0
    step = next(n for n in (end - 4, end - 5) if n % 7)  # between two log records
    shutil.copytree(place / "control", place / "killed")
    for path in (place / "killed").glob("checkpoint_step_*"):
        if int(path.name.split("_")[2].partition(".")[0]) > step:
            path.unlink()
    return step


def entries(folder: Path, step: int) -> list[str]:
    """Names of all entries of a checkpoint: groups of arrays, and the leaves of its header."""
    checkpoint = CheckpointFolder(folder).open(step)
    groups = {name.partition("/")[0] for name in checkpoint.state.arrays}
    return ["weights", *sorted(groups), *_leaves(checkpoint.state.header)]


def _leaves(header: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in header.items():
        inner = isinstance(value, dict)
        found += _leaves(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}"]
    return found


def forget(folder: Path, step: int, entry: str) -> bool:
    """Rewrite a valid checkpoint with one entry reset to its value at the start of a run. False if unchanged."""
    checkpoint = CheckpointFolder(folder).open(step)
    weights, state = dict(checkpoint.weights.tensors()), dict(checkpoint.state.tensors())
    header = json.loads(json.dumps(checkpoint.state.header))
    for name, array in (weights if entry == "weights" else state).items():
        if entry in ("weights", name.partition("/")[0]):
            array[...] = 0
    *parents, key = entry.split(".")
    inner = header
    for parent in parents:
        inner = inner[parent]
    if key in inner:
        start = None if key == "best_val_loss" else type(inner[key])()
        if inner[key] == start:
            return False
        inner[key] = start
    sha256 = write_archive(
        checkpoint.weights.path, weights.items(), checkpoint.weights.header, step=step
    )
    if entry != "weights_sha256":
        header["weights_sha256"] = sha256
    write_archive(checkpoint.state.path, state.items(), header, kind="state", step=step)
    return True


MEASURED = {
    "position.training_seconds", "position.elapsed_seconds",
    "position.window.seconds", "position.window.steps", "position.window.clipped",
}  # fmt: skip
"""Measured times, which differ between any two runs, and averages for the next log record."""
RECORDS_ARE_SAID_TO_BE_DAMAGED = "metrics_sha256"
"""Without this entry the run continues with a message, see test_damage.py."""
ANOTHER_IS_TAKEN = "weights_sha256"
"""Without this entry the checkpoint is invalid, and the run falls back to the previous one."""
FOLLOWS_FROM_NEXT_SAMPLE = "position.epoch"
"""Is there for readers of the file; the next step computes it again."""
REFUSED_IN_A_ROW = "position.guard.refused_in_a_row"
"""Is 0 in every checkpoint, since nothing is saved after a refused step."""


@pytest.mark.faults
def test_the_state_holds_nothing_that_could_be_left_out(
    place: Path, stood_at: int, table: Table
) -> None:
    control, killed, again = place / "control", place / "killed", place / "again"
    shutil.copytree(killed, again)
    restless(place, "again")
    assert lost(control, again) == NOTHING
    names = [
        name
        for name in entries(killed, stood_at)
        if name
        not in MEASURED | {REFUSED_IN_A_ROW, ANOTHER_IS_TAKEN, RECORDS_ARE_SAID_TO_BE_DAMAGED}
        and name != FOLLOWS_FROM_NEXT_SAMPLE
    ]
    noticed, unnoticed = [], []
    for name in names:
        shutil.rmtree(again)
        shutil.copytree(killed, again)
        if forget(again, stood_at, name):  # otherwise this run does not use it
            restless(place, "again", status=None)  # some are refused
            (unnoticed if lost(control, again) == NOTHING else noticed).append(name)
    assert unnoticed == []
    assert len(noticed) > 10
    table.row(
        STATE, tries=1, lost=NOTHING, result="with all of its state a run is equal to control"
    )
    for name in noticed:
        table.red(STATE, name)


@pytest.mark.faults
def test_a_kill_among_refused_steps_changes_nothing(place: Path) -> None:
    """Ten refused steps in a row end a run. After a kill it begins again before them, where the last save was."""
    batches = {
        record["step"]: record["batch"] for record in kept(place / "control") if "batch" in record
    }
    nan = [f"nan-in-batch={','.join(batches[step] for step in range(11, 31))}"]
    runs.train(place, "straight", wrong=nan, status=2)
    runs.train(place, "killed", wrong=[*nan, "die-in-step=17"], status=-9)
    runs.train(place, "killed", wrong=nan, status=2)
    assert lost(place / "straight", place / "killed") == NOTHING
