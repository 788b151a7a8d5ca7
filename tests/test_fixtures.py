"""Unfinished runs of earlier code (tests/fixtures) still load, generate and resume with the same results."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun
from tests.fixtures.make import FIXTURES, PROMPT, SAMPLING, TEXT, compared, processor

NAMES = sorted(path.parent.name for path in FIXTURES.glob("*/expected.json"))
HALFWAY_STEP = 30
"""The step at which the runs were stopped."""
CLOSE = 1e-4
"""Tolerated relative difference of losses if the processor or a library differs from those that made the files."""


def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIXTURES / name / "expected.json").read_text())
    return found


def facts(folder: Path) -> dict[str, str]:
    """The machine and libraries that computed the newest checkpoint of a run."""
    files = folder.glob("checkpoint_step_*[0-9].npz")
    newest = max(files, key=lambda path: int(path.stem.rpartition("_")[2]))
    with np.load(newest) as archive:
        header = json.loads(archive["manifest.json"])["header"]
    found: dict[str, str] = header["facts"]
    return found


def test_there_is_a_run_for_each_architecture_and_engine() -> None:
    assert NAMES == ["gpt2-mlx", "gpt2-torch", "qwen3-mlx", "qwen3-torch"]


@pytest.mark.parametrize("name", NAMES)
def test_best_weights_load_and_write_the_same_texts(name: str) -> None:
    model = homespun.load(FIXTURES / name / "run", engine="numpy")
    for how, settings in SAMPLING.items():
        assert model.generate(PROMPT, **settings) == expected(name)["texts"][how], how
    ids = model.tokenizer.encode((FIXTURES / TEXT).read_text())[: model.config.seq_len]
    _, loss = model(ids[:-1], ids[1:])
    assert loss == pytest.approx(expected(name)["loss"], rel=1e-5)


def resumed(name: str, place: Path, module: str) -> tuple[str, list[dict[str, Any]]]:
    """The output of a run that a program resumes, and its records."""
    engine = name.rpartition("-")[2]
    if not importlib.util.find_spec(engine):
        pytest.skip(f"{engine} is not installed here")
    shutil.copytree(FIXTURES / name / "run", place / "run")
    shutil.copy(FIXTURES / TEXT, place)
    done = subprocess.run(
        [sys.executable, "-m", module, "train", "--resume", "--checkpoint-dir", "run", "--engine", engine],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(FIXTURES.parents[1])},
        check=True,
        timeout=300,
        capture_output=True,
        text=True,
    )  # fmt: skip
    lines = (place / "run" / "metrics.jsonl").read_text().splitlines()
    return done.stdout, compared(map(json.loads, lines))


def without_text(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "text"}


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_to_the_records_of_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    """The order of the samples is the earlier one. Sample texts are left out: later versions draw other ones."""
    _, now = resumed(name, tmp_path, "tests.fixtures.earlier_order")
    then = expected(name)["records"]
    assert [sorted(record) for record in now] == [sorted(record) for record in then]
    before = facts(FIXTURES / name / "run")
    if facts(tmp_path / "run") == before and processor() == expected(name)["processor"]:
        assert [without_text(record) for record in now] == [without_text(record) for record in then]
        return
    for ours, theirs in zip(now, then, strict=True):
        for what in ("step", "tokens", "batch", "lr", "prompt"):
            assert ours.get(what) == theirs.get(what)
        for what in ("loss", "val_loss"):
            assert math.isclose(ours.get(what, 0), theirs.get(what, 0), rel_tol=CLOSE), ours


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_says_that_the_order_of_its_samples_is_new(name: str, tmp_path: Path) -> None:
    """All else that can be equal is: the records so far, the rates, and the steps of all records."""
    output, now = resumed(name, tmp_path, "homespun")
    assert output.count("From here on it takes its samples in a new order.") == 1
    then = expected(name)["records"]
    begun = [record for record in then if record["step"] <= HALFWAY_STEP]
    assert now[: len(begun)] == begun
    assert [sorted(record) for record in now] == [sorted(record) for record in then]
    for ours, theirs in zip(now, then, strict=True):
        for what in ("step", "tokens", "lr", "prompt"):
            assert ours.get(what) == theirs.get(what)
        assert ours.get("loss", 0) == pytest.approx(theirs.get("loss", 0), rel=0.2)
