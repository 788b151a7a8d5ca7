"""Weights that may be ruined never replace earlier ones, and a run goes back to any point that is still there."""

import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import homespun
from homespun.checkpoint.archive import read_archive, write_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.engine.torch.engine import TorchEngine
from homespun.errors import DiskFullError, UserError
from homespun.model_formats.checkpoint import from_checkpoint
from homespun.records.events import Event, Step, StopRun, TrainResult
from homespun.stories import stories
from homespun.training.run import bytes_on_disk
from homespun.training.timing import due
from tests.checkpoint.folders import flip
from tests.test_resume import assert_equal_runs, kept, tensors
from tests.training.small_runs import PACE, SHAPE

SETTINGS = {**SHAPE, **PACE, "seq_len": 16, "eval_tokens": 100, "save_interval": 5}
STEPS = 20


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run of 20 steps, which saved at 5, 10, 15 and 20."""
    place = tmp_path_factory.mktemp("place")
    text = "\n<|endoftext|>\n".join(stories(40, seed=3))
    (place / "stories.txt").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        homespun.train_tokenizer(data_file="stories.txt", vocab_size=300)
        run("control", keep=9)
    return place


@pytest.fixture
def place(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that working folder, in which the test works."""
    place = shutil.copytree(finished_run, tmp_path / "place")
    monkeypatch.chdir(place)
    return place


def run(folder: str, **settings: Any) -> TrainResult:
    new = {**SETTINGS, "data_file": "stories.txt", "tokenizer_path": "tokenizer_model"}
    return homespun.train(**{"max_steps": STEPS, **new, "checkpoint_dir": folder, **settings})


def saved(folder: str = "run") -> list[int]:
    """The saved steps, oldest first. All of them are whole."""
    found = CheckpointFolder(Path(folder))
    for step in found.steps():
        found.open(step).verify()
    return sorted(found.steps())


@pytest.fixture
def ruin(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let an applied step leave weights that are not finite."""

    def ruin(last: int) -> None:
        step = TorchEngine.train_step

        def ruining(engine: TorchEngine, batches: Any, lr: Any, number: int, **limits: Any) -> Any:
            handle = step(engine, batches, lr, number, **limits)
            if number + 1 == last:
                with torch.no_grad():
                    next(iter(engine.weights.values())).fill_(math.inf)
            return handle

        monkeypatch.setattr(TorchEngine, "train_step", ruining)

    return ruin


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the loss of some steps be no number."""

    def refuse(*steps: int) -> None:
        backward = TorchEngine._backward

        def broken(engine: TorchEngine, batches: Any, number: int | None) -> Any:
            loss, *others = backward(engine, batches, number)
            is_broken = number is not None and number + 1 in steps
            return loss * (math.nan if is_broken else 1.0), *others

        monkeypatch.setattr(TorchEngine, "_backward", broken)

    return refuse


# Saving


@pytest.mark.parametrize("keep", [1, 3])
def test_the_way_back_from_ruined_weights(
    place: Path, ruin: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    """The ruined step is saved before the next one shows it. The advice names the one before, which works."""
    ruin(11)
    with pytest.raises(UserError, match="standstill") as end:
        run("run", keep=keep, save_interval=1, max_steps=40)
    assert saved() == list(range(12 - max(keep, 2), 12))
    assert "with --resume 10 --learning-rate 0.0001" in str(end.value)
    monkeypatch.undo()
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match="with --resume 10 --learning-rate"):
        homespun.train(checkpoint_dir="run", resume="latest")
    assert 10 in saved()
    result = homespun.train(checkpoint_dir="run", resume=10, learning_rate=1e-4, max_steps=STEPS)
    assert (result.steps, result.saved_step) == (STEPS, STEPS)
    assert math.isfinite(result.val_loss or math.nan)
    logged = [record["step"] for record in kept(Path("run")) if "loss" in record]
    assert logged == list(range(1, STEPS + 1))
    assert saved("run/later.1") == [11]
    assert kept(Path("run/later.1"))[-1]["step"] == 21


def test_the_last_checkpoint_is_named_where_it_is_usable(
    place: Path, ruin: Callable[[int], None]
) -> None:
    ruin(12)
    with pytest.raises(UserError, match=r"with --resume --learning-rate 0\.0001"):
        run("run", max_steps=40)
    assert saved() == [5, 10]


@pytest.mark.parametrize("evaluated", [True, False])
def test_without_a_usable_checkpoint_the_advice_names_none(
    place: Path, refuse: Callable[..., None], evaluated: bool
) -> None:
    refuse(*range(3, 30))
    advice = "with --resume run/best.npz" if evaluated else "start again with --learning-rate"
    with pytest.raises(UserError, match=advice):
        run("run", eval_interval=2 if evaluated else 100, max_steps=40)
    assert saved() == []


class Asked:
    """Asks for a checkpoint or an end once, when a step is refused."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.said: list[str] = []

    def __call__(self, event: Event) -> None:
        self.said += [getattr(event, "text", "")]
        if isinstance(event, Step) and not event.applied and self.how:
            how, self.how = self.how, ""
            if how == "StopRun":
                raise StopRun
            if how == "clock":
                due.MAX_UNSAVED_SECONDS = 0.0
            else:
                os.kill(os.getpid(), signal.Signals[how])


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "StopRun"])
def test_a_run_that_is_stopped_after_a_refused_step_keeps_its_last_checkpoint(
    place: Path, refuse: Callable[..., None], monkeypatch: pytest.MonkeyPatch, how: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    refuse(8, 9)
    received: list[int] = []  # the program gets the signal after the run has ended
    handlers = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        result = run("run", keep=1, on_event=Asked(how))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert [signal.Signals(number).name for number in received] == [how] * (how != "StopRun")
    assert (result.steps, result.saved_step, saved()) == (8, 5, [5])
    said = " ".join(capsys.readouterr().out.split())
    assert "Step 8 is not saved, because step 8 was refused" in said
    assert "the newest checkpoint is that of step 5." in said
    assert "Stopped at step 8 and not saved" in said
    run("whole")
    homespun.train(checkpoint_dir="run", resume="latest")
    assert_equal_runs(Path("whole"), Path("run"), STEPS)


@pytest.mark.parametrize("how", ["interval", "SIGUSR1", "clock"])
def test_a_save_that_is_due_after_a_refused_step_waits_for_the_next_applied_one(
    place: Path, refuse: Callable[..., None], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(due, "MAX_UNSAVED_SECONDS", 1e9)
    monkeypatch.setattr(due, "MAX_SAVING_SHARE", 1e9)
    refuse(6, 7)
    interval = 7 if how == "interval" else 1000
    run("run", keep=9, save_interval=interval, max_steps=8, on_event=Asked(how.replace("interval", "")))  # fmt: skip
    assert saved() == [8]


def test_a_run_whose_last_step_was_refused_is_not_saved(
    place: Path, refuse: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(STEPS)
    result = run("run")
    assert (result.saved_step, saved()) == (15, [5, 10, 15])
    assert "Step 20 is not saved" in capsys.readouterr().out


def test_a_run_whose_last_step_ruined_the_weights_is_not_saved(
    place: Path, ruin: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    ruin(19)
    run("run", max_steps=19)
    assert saved() == [5, 10, 15]
    assert "because its validation loss is not finite" in " ".join(capsys.readouterr().out.split())


# Going back


def test_a_run_that_went_back_is_the_run_that_never_went_further(place: Path) -> None:
    for resume, later in ((10, [15, 20]), ("control/checkpoint_step_5.npz", [10, 15, 20])):
        shutil.copytree("control", "before")
        homespun.train(checkpoint_dir="control", resume=resume)
        assert_equal_runs(Path("before"), Path("control"), STEPS)
        assert saved("control/later.1") == later
        assert kept(Path("control/later.1")) == kept(Path("before"))
        shutil.rmtree("control")
        Path("before").rename("control")


def test_a_run_goes_back_to_its_best_weights(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("run", max_steps=8)
    shutil.copy("run/best.npz", "best.npz")
    homespun.train(checkpoint_dir="run", resume="latest", max_steps=11)
    shutil.copy("best.npz", "run/best.npz")  # as if no later evaluation had been better
    with np.load("best.npz") as best:
        weights = {name: best[name] for name in best.files if not name.endswith("json")}
    before = kept(Path("run"))
    homespun.train(resume="run/best.npz", max_steps=8)
    assert "holds weights alone" in " ".join(capsys.readouterr().out.split())
    assert (saved("run"), saved("run/later.1")) == ([8], [8, 10, 11])
    went_back = tensors(Path("run"), 8)
    for name, tensor in weights.items():
        np.testing.assert_array_equal(tensor, went_back[name], err_msg=name)
    assert not np.any(went_back["exp_avg/model.embed_tokens.weight"])
    assert kept(Path("run")) == [record for record in before if record["step"] <= 8]
    assert homespun.train(checkpoint_dir="run", resume="latest", max_steps=12).steps == 12


def test_sample_texts_of_the_best_step_are_in_the_record_once(place: Path) -> None:
    several = {"sample_interval": 4, "sample_prompts": ("One", "Two")}
    run("run", max_steps=8, **several)
    before = kept(Path("run"))
    assert read_archive(Path("run/best.npz")).step == 8
    homespun.train(resume="run/best.npz", max_steps=8)
    assert kept(Path("run")) == before
    assert [record["prompt"] for record in before if "prompt" in record] == ["One", "Two"] * 2


def test_a_run_goes_on_where_the_disk_had_room_for_all_of_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own checkpoints make room for the next ones, so they count as free."""

    def files() -> int:
        return sum(path.stat().st_size for path in Path("run").glob("*.npz"))

    needed = bytes_on_disk(from_checkpoint(read_archive(Path("control/best.npz"))).config, keep=2)
    n_bytes = int(1.05 * needed)  # with the headers
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=n_bytes - files()))
    run("run", max_steps=15, keep=2)
    assert n_bytes - files() < needed
    with pytest.raises(DiskFullError, match="the checkpoints need"):
        homespun.train(resume="run/checkpoint_step_10.npz")  # the later ones are kept
    assert saved() == [10, 15]
    assert homespun.train(checkpoint_dir="run", resume="latest", max_steps=16).steps == 16


def test_best_weights_of_earlier_versions_hold_no_position(place: Path) -> None:
    run("run", max_steps=8)
    best = read_archive(Path("run/best.npz"))
    header = {name: value for name, value in best.header.items() if name != "position"}
    Path("old").mkdir()
    write_archive(Path("old/best.npz"), best.tensors(), header, step=best.step)
    homespun.train(checkpoint_dir="run", resume="latest", max_steps=9)
    assert homespun.train(resume="old/best.npz", max_steps=9).checkpoint_dir == Path("old")
    ours, theirs = (
        next(r for r in kept(Path(folder)) if r["step"] == 9 and "loss" in r)
        for folder in ("old", "run")
    )
    assert best.step == 8
    for name in ("tokens", "batch", "loss", "lr"):
        assert ours[name] == theirs[name]


@pytest.mark.parametrize("where", ["requested", "resolved"])
@pytest.mark.parametrize("reward", ["evil.py:score", "evil:score"])
def test_a_file_that_names_code_runs_none(place: Path, reward: str, where: str) -> None:
    """A run from elsewhere may name a reward: without the reader's word, it is not loaded."""
    (place / "evil.py").write_text("open('ran', 'w').close()\ndef score(*_): return []\n")
    kept = CheckpointFolder(Path("control")).latest()
    assert kept
    settings = kept.weights.header[where] | {"reward": reward, "init_from": "control"}
    header = kept.weights.header | {where: settings}
    write_archive(Path("given.npz"), kept.weights.tensors(), header, step=kept.weights.step)
    with pytest.raises(UserError, match=f"this run .*--reward {reward}"):
        homespun.train(resume="given.npz", checkpoint_dir="mine", max_steps=99)
    assert not (place / "ran").exists()


def test_a_run_may_go_on_in_another_folder(place: Path) -> None:
    """The folder may hold another run, which is moved aside. The named file stays as it is."""
    run("other", max_steps=2)
    before = {path.name: path.read_bytes() for path in Path("control").iterdir()}
    homespun.train(resume="control/checkpoint_step_10.npz", checkpoint_dir="other")
    for name, tensor in tensors(Path("control"), STEPS).items():
        np.testing.assert_array_equal(tensor, tensors(Path("other"), STEPS)[name], err_msg=name)
    assert kept(Path("other"))[0]["step"] == 11
    assert Path("other.1/best.npz").exists()
    del before[".lock"]
    assert before == {p.name: p.read_bytes() for p in Path("control").iterdir() if p.name in before}


def test_a_better_best_file_is_kept_when_a_run_goes_back(place: Path) -> None:
    """The best weights of the later part move with it, so that a worse evaluation does not replace them."""
    with np.load("control/best.npz") as best:
        before = best["manifest.json"]
    homespun.train(checkpoint_dir="control", resume=5, max_steps=8, learning_rate=1e-6)
    with np.load("control/later.1/best.npz") as best:
        assert np.array_equal(best["manifest.json"], before)
    assert Path("control/best.npz").exists()


@pytest.mark.parametrize(
    ("resume", "message"),
    [
        (7, r"no checkpoint of step 7 \(there are: 5, 10, 15, 20\)"),
        (10, "checkpoint_step_10.npz is damaged"),
        ("control/checkpoint_step_10.npz", "checkpoint_step_10.npz is damaged"),
        ("control/none.npz", "none.npz: there is no such file"),
        ("stories.npz", "not a checkpoint"),
        ("perhaps", '"never" or "latest" or "auto", a step, or a file'),
    ],
)
def test_a_point_that_cannot_be_used_is_refused_and_nothing_changes(
    place: Path, resume: str | int, message: str
) -> None:
    flip(Path("control/checkpoint_step_10.npz"))
    shutil.copy("stories.txt", "stories.npz")
    before = {path: path.read_bytes() for path in Path().glob("c*/*") if path.name != ".lock"}
    with pytest.raises(UserError, match=message) as refused:
        homespun.train(checkpoint_dir="control", resume=resume)
    assert "\n" not in str(refused.value)
    assert before == {
        path: path.read_bytes() for path in Path().glob("c*/*") if path.name != ".lock"
    }
