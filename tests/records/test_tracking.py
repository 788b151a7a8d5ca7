"""Trackers get the records, each once, however often a run is interrupted; whatever they do, the run goes on."""

import contextlib
import importlib.util
import os
import signal
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun
from homespun.records import tracking
from homespun.records.events import Ended, Sample, TrainResult
from homespun.records.tracking import TrackedRun, Tracking
from tests.conftest import Command, finished, records

NAMES = [name for name in tracking.available() if importlib.util.find_spec(name)]
EVERY = pytest.mark.parametrize("name", NAMES)
RUN = (
    *("train", "--vocab-size", 400, "--model-size", "pico", "--n-layers", 1, "--d-model", 32),
    *("--n-heads", 2, "--seq-len", 32, "--batch-size", 4, "--eval-tokens", 500),
    *("--log-interval", 1, "--eval-interval", 4, "--sample-interval", 8, "--save-interval", 6),
    *("--sample-prompts", "The cat", "a/b: <c>?", "--precision", "float32", "--compile", "off"),
)
SECTION = {"loss": "train", "val_loss": "validation"}
OF_THE_CLOCK = {"tokens_per_second", "seconds", "memory_bytes", "active_memory_bytes"}

Point = tuple[int, str]
"""Step and name."""


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from the home of whoever runs the tests, or written to it."""
    for variable in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


def of_records(folder: Path) -> tuple[dict[Point, float], set[Point]]:
    """The numbers and the texts that a tracker of the run should have."""
    numbers, texts = {}, set()
    for record in records(folder):
        for kind, section in SECTION.items():
            for field, value in record.items() if kind in record else ():
                if field != "step" and isinstance(value, int | float):
                    numbers[record["step"], f"{section}/{field}"] = float(value)
        if "text" in record:
            texts.add((record["step"], f"sample/{record['prompt']}"))
    return numbers, texts


def of_tensorboard(folder: Path) -> Iterator[tuple[Point, float | str]]:
    """As TensorBoard shows it."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder / "tensorboard"), {"tensors": 0})
    events.Reload()
    for tag in events.Tags()["tensors"]:
        for event in events.Tensors(tag):
            if event.tensor_proto.string_val:
                yield (event.step, tag), event.tensor_proto.string_val[0].decode()
            elif (number := make_ndarray(event.tensor_proto)).ndim == 0:
                yield (event.step, tag), float(number)


def of_wandb(folder: Path) -> Iterator[tuple[Point, float | str]]:
    import json

    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for record in _wandb_records(file):
            items = {"/".join([i.key, *i.nested_key]).strip("/"): i for i in record.history.item}
            values = {name: json.loads(item.value_json) for name, item in items.items()}
            for name, value in values.items():
                if name.startswith(("train/", "validation/")):
                    yield (values["_step"], name), value
                elif name.endswith("/path"):
                    page = (file.parent / "files" / value).read_text()
                    yield (values["_step"], name.removesuffix("/path")), page


def _wandb_records(file: Path) -> Iterator[Any]:
    """The records of an offline run: a log of LevelDB after seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        position += 7
        parts += data[position : position + length]
        position += length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def of_trackio(folder: Path) -> Iterator[tuple[Point, float | str]]:
    import json

    with contextlib.closing(sqlite3.connect(folder.parent / "trackio" / "homespun.db")) as db:
        for step, metrics in db.execute("select step, metrics from metrics order by id"):
            for name, value in json.loads(metrics).items():
                yield (step, name), value["_value"] if isinstance(value, dict) else value


READERS: dict[str, Callable[[Path], Iterator[tuple[Point, float | str]]]] = {
    "tensorboard": of_tensorboard,
    "wandb": of_wandb,
    "trackio": of_trackio,
}


def check(name: str, folder: Path) -> None:
    """A tracker has each number and each sample of the record once."""
    pairs = list(READERS[name](folder))
    numbers, texts = of_records(folder)
    points = Counter(point for point, _ in pairs if not point[1].startswith("summary"))
    assert {point: n for point, n in points.items() if n > 1} == {}
    found = dict(pairs)
    assert len(numbers) > 50
    assert numbers.keys() <= found.keys(), sorted(numbers.keys() - found.keys())
    for point, value in numbers.items():
        if point[1].partition("/")[2] not in OF_THE_CLOCK:
            assert np.float32(found[point]) == np.float32(value), point
    sampled = {point for point in found if point[1].startswith("sample/")}
    assert {step for step, _ in sampled} == {step for step, _ in texts}
    assert len(sampled) == len(texts) > 0


@pytest.mark.skipif(not NAMES, reason="no tracker is installed")
def test_each_tracker_has_the_records_once_after_a_kill_and_a_resume(
    homespun: Command, workplace: Path
) -> None:
    process = homespun(*RUN, "--max-steps", 60, "--track", *NAMES)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("step 15/60") and "loss" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    folder = workplace / "checkpoints"
    assert records(folder)[-1]["step"] > 12  # which the resumed run repeats
    output = finished(homespun("train", "--resume"))
    for name in NAMES:
        assert f"Tracked by {name}: " in output
        check(name, folder)


@EVERY
def test_ctrl_c_saves_a_tracked_run_which_goes_on_in_the_same_tracker(
    homespun: Command, workplace: Path, name: str
) -> None:
    process = homespun(*RUN, "--max-steps", 1000, "--track", name)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("step     9") and "loss" in line:
            process.send_signal(signal.SIGINT)
            break
    output = finished(process, 130)
    assert "and saved" in output
    stopped_at = records(workplace / "checkpoints")[-1]["step"]
    assert (workplace / "checkpoints" / f"checkpoint_step_{stopped_at}.npz").exists()
    finished(homespun("train", "--resume", "--max-steps", stopped_at + 4))
    check(name, workplace / "checkpoints")


@pytest.mark.slow
@EVERY
def test_a_run_that_goes_back_and_one_that_is_tracked_later_have_all_records(
    homespun: Command, workplace: Path, name: str
) -> None:
    finished(homespun(*RUN, "--max-steps", 10))
    folder = workplace / "checkpoints"
    finished(homespun("train", "--resume", "--max-steps", 14, "--track", name))
    check(name, folder)
    finished(homespun("train", "--resume", 12, "--max-steps", 16, "--learning-rate", 1e-3))
    if name == "tensorboard":
        check(name, folder)
    else:  # the way after step 12 is another run, which has the steps before as well
        pairs = list(READERS[name](folder))
        numbers, _ = of_records(folder)
        for point, value in numbers.items():
            values = [v for p, v in pairs if p == point]
            assert np.float32(value) in map(np.float32, values), point


@pytest.mark.slow
def test_a_run_that_is_not_tracked_any_more(homespun: Command, workplace: Path) -> None:
    pytest.importorskip("tensorboard")
    finished(homespun(*RUN, "--max-steps", 8, "--track", "tensorboard"))
    finished(homespun("train", "--resume", "--max-steps", 10, "--track", "off"))
    steps = {step for (step, _), _ in of_tensorboard(workplace / "checkpoints")}
    assert max(steps) == 8


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("tensorbord", "--track tensorbord is unknown: did you mean tensorboard?"),
        ("mlflow", "choose from tensorboard, trackio, wandb"),
    ],
)
def test_an_unknown_tracker_is_refused_before_anything_is_done(
    workplace: Path, named: str, message: str
) -> None:
    before = set(workplace.iterdir())
    with pytest.raises(homespun.UserError, match=message.replace("?", r"\?")):
        homespun.train(track=[named])
    assert set(workplace.iterdir()) == before


def test_a_tracker_without_its_package_is_refused_with_the_command_that_installs_it(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "homespun.records.trackers.wandb", None)
    with pytest.raises(homespun.UserError, match=r"not installed here .*: pip install wandb"):
        homespun.train(track=["wandb"])


def test_names_may_be_repeated_or_listed() -> None:
    from homespun.cli.arguments import parse
    from homespun.cli.commands import COMMANDS

    words = ["--track", "a", "--max-steps", "3", "--track", "b,c", "d"]
    assert parse(COMMANDS["train"], words) == {"track": ["a", "b,c", "d"], "max_steps": 3}
    assert list(tracking.named(["off"])) == []


class Faulty:
    """A tracker that fails at some call."""

    takes_back, complete_to, place = False, -1, "nowhere"
    fails_at = ""

    def __init__(self, run: TrackedRun) -> None:
        self.calls: list[str] = []
        self._call("open")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails_at:
            raise RuntimeError(f"no {name}")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._call("numbers")

    def text(self, step: int, name: str, text: str) -> None:
        self._call("text")

    def summary(self, step: int, values: Mapping[str, Any]) -> None:
        self._call("summary")

    def close(self, *, failed: bool) -> None:
        self._call("close")


@pytest.mark.parametrize("call", ["open", "text", "summary", "close"])
def test_a_tracker_that_fails_is_dropped_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(Faulty, "fails_at", call)
    said: list[Any] = []
    where: dict[str, Any] = {"step": 3, "tokens": 9, "progress": 1.0, "seconds_left": 0.0}
    result = TrainResult(tmp_path, tmp_path / "best.npz", 3, "max_steps", 2.0, 2.0, None)
    with Tracking({"faulty": Faulty}, tmp_path, {}) as tracked:
        tracked.report = said.append
        for _ in range(2):
            tracked(Sample(prompt="a", text="b", **where))
        tracked(Ended(result=result, title="", facts={}, **where))
    lines = [line for line in [*tracked.lines, *said] if "no longer" in line]
    assert lines == [
        f"faulty tracks this run no longer (no {call}); the run and its own records go on."
    ]


def test_a_tracker_that_fails_does_not_cost_the_run(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Faulty, "fails_at", "numbers")
    monkeypatch.setattr(tracking, "_tracker", lambda name: Faulty)
    run = homespun.train(
        model_size="pico",
        vocab_size=400,
        n_layers=1,
        d_model=32,
        n_heads=2,
        seq_len=32,
        batch_size=4,
        max_steps=3,
        eval_tokens=500,
        log_interval=1,
        track=["faulty"],
    )
    assert run.steps == 3
    assert capsys.readouterr().out.count("faulty tracks this run no longer (no numbers)") == 1


@pytest.mark.slow
@pytest.mark.skipif("wandb" not in NAMES, reason="wandb is not installed")
def test_wandb_without_a_network_costs_nothing_but_a_line(
    homespun: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    output = " ".join(finished(homespun(*RUN, "--max-steps", 12, "--track", "wandb")).split())
    assert "Tracked by wandb: no connection (" in output
    assert "Done: 12 steps" in output
    check("wandb", workplace / "checkpoints")
