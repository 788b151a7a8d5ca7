"""Checkpoints with false headers and right hashes, which anybody can make, are taken or refused in a line."""

import dataclasses
import json
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun import durable
from homespun.architectures.families import initial_weights
from homespun.checkpoint import archive
from homespun.checkpoint.archive import ArrayInfo, ending_of, read_archive, write_archive
from homespun.config import TrainConfig
from homespun.engine.base import StepResult
from homespun.errors import UserError
from homespun.language_model import load
from homespun.planning.resolved import ResolvedConfig, given_settings
from homespun.training.checkpointing.position import Position
from homespun.training.checkpointing.resume import find_point
from homespun.training.diagnostics.step_guard import Limits
from homespun.training.diagnostics.trends import TrendWatch
from tests.faults.foreign_files import (
    MODEL,
    SECONDS,
    TITLE,
    TOKENIZER,
    Loader,
    Place,
    changed,
    odd,
    places,
    refused_or_taken,
)
from tests.faults.runs import NOTHING
from tests.faults.table import Table
from tests.faults.wrong import apply

__all__ = ["TITLE"]

HEADERS = "a checkpoint whose hashes are right and whose header is not"
BOMBS = "a checkpoint whose manifest takes many times its size when it is parsed"
MEMORY_OF_BOMBS = 8
"""Limit of memory for a manifest that is refused, relative to the file."""


def long_position() -> Position:
    """The position of a run that has filled all its parts."""
    position, config = Position(step=700, next_sample=2800, tokens=22_400), ResolvedConfig()
    position.watch = TrendWatch().begin(config, 5.0)
    for step in range(1, 701):
        result = StepResult(5.0 - step / 1000, 0.5, clipped=False, applied=True)
        position.guard.observe_step(step, result, Limits(), "batch", config)
        position.watch.observe_step(step, result, 1.0, config)
        if step % 50 == 0:
            position.guard.observe_evaluation(5.0)
            position.watch.observe_evaluation(step, 5.0, config)
    position.watch.advised_at["plateau"] = 600
    return position


PLANNED = TrainConfig(model_size="pico", seq_len=8, vocab_size=270)
WEIGHTS_HEADER = {
    "model": vars(MODEL),
    "tokenizer": TOKENIZER.to_json(),
    "tokenizer_sha256": TOKENIZER.sha256,
    "data_file": "text.txt",
    "data_sha256": "ab" * 32,
    "requested": dataclasses.asdict(PLANNED),
    "resolved": dataclasses.asdict(ResolvedConfig(**given_settings(PLANNED))),
    "facts": {"engine": "torch 2", "threads": "2"},
    "val_loss": 5.0,
}
STATE_HEADER = {"position": long_position().stored(), "metrics_length": 1234}
PLACES = [("weights", *place) for place in places(WEIGHTS_HEADER)]
PLACES += [("state", *place) for place in places(STATE_HEADER)]


def saved(folder: Path, weights: dict[str, Any], state: dict[str, Any]) -> Path:
    """A checkpoint with these headers and right hashes."""
    tensors = list(initial_weights(MODEL, 0))
    path = folder / "checkpoint_step_700.npz"
    sha256 = write_archive(path, tensors, weights, step=700)
    commit = {**state, "weights_sha256": sha256}
    write_archive(folder / "checkpoint_step_700.state.npz", [], commit, kind="state", step=700)
    return path


def used(path: Path) -> None:
    """Load the weights, and resume: a position that is accepted can go on."""
    load(path, engine="numpy")
    found = find_point(TrainConfig(resume="latest", checkpoint_dir=str(path.parent)), print)
    assert found
    position = found.position()
    config = ResolvedConfig(**found.header["resolved"])
    watch = position.watch.begin(config, 5.0)
    guard, limits = position.guard, Limits()
    for step in range(position.step + 1, position.step + 200):
        result = StepResult(5.0, 0.5, clipped=True, applied=True)
        if step % 10 == 0:  # each sees a window of 100 steps, and with the memory traced it is slow
            limits = guard.limits(step)
        guard.observe_step(step, result, limits, "batch", config)
        watch.observe_step(step, result, 1.0, config)
        if step % 20 == 0:
            guard.observe_evaluation(5.0)
            watch.observe_evaluation(step, 5.0, config)


def test_a_true_header_is_taken(tmp_path: Path) -> None:
    assert refused_or_taken(used, saved(tmp_path, WEIGHTS_HEADER, STATE_HEADER))


@pytest.mark.parametrize("examples", [100, pytest.param(3000, marks=pytest.mark.faults)])
def test_a_header_that_lies_is_refused(
    examples: int, tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "sync", lambda file: file.flush())  # only faster
    monkeypatch.setattr(durable, "sync_folder", lambda folder: None)

    @settings(derandomize=True, deadline=None, max_examples=examples, database=None)
    @given(st.dictionaries(st.sampled_from(PLACES), odd, min_size=1, max_size=3), st.booleans())
    def load_it(changes: dict[Place, Any], gone: bool) -> None:
        headers = changed({"weights": WEIGHTS_HEADER, "state": STATE_HEADER}, changes, gone)
        if all(isinstance(header, dict) for header in headers.values()):
            refused_or_taken(used, saved(tmp_path, headers["weights"], headers["state"]))

    load_it()
    table.row(HEADERS, tries=examples, lost=NOTHING, result="taken, or refused in a line")


def sealed(path: Path, **parts: str) -> Path:
    """A whole checkpoint whose manifest has these parts in their spelling."""
    tensors: list[ArrayInfo] = []
    manifest = {"schema": "1", "kind": '"weights"', "step": "0", "header": "{}", "arrays": "[]"}
    text = ", ".join(f'"{name}": {part}' for name, part in (manifest | parts).items())
    path.write_bytes(ending_of(tensors, f"{{{text}}}".encode())[1])
    return path


BOMB = "[" + ",".join(["{}"] * 300_000) + "]"


def bombs(folder: Path) -> Iterator[tuple[Loader, Path]]:
    """Files whose parsed content would take many times their size, and their loaders."""
    for part in ("header", "arrays", "step"):
        yield read_archive, sealed(folder / f"{part}.npz", **{part: BOMB})
    escaped = BOMB.encode("utf-16").decode("latin-1")
    yield read_archive, sealed(folder / "utf-16.npz", header=json.dumps({"a": 1}) + escaped)
    header = {**WEIGHTS_HEADER, "tokenizer": BOMB}
    path = folder / "tokenizer.npz"
    write_archive(path, initial_weights(MODEL, 0), header)
    yield lambda path: load(path, engine="numpy"), path


def memory_of_bombs(folder: Path) -> float:
    """The most memory that reading such a file takes, relative to its size."""
    worst = 0.0
    for loader, path in bombs(folder):
        tracemalloc.start()
        try:
            with pytest.raises(UserError):
                loader(path)
            worst = max(worst, tracemalloc.get_traced_memory()[1] / path.stat().st_size)
        finally:
            tracemalloc.stop()
    return worst


def test_a_manifest_takes_no_more_memory_than_its_size_justifies(
    tmp_path: Path, table: Table
) -> None:
    assert memory_of_bombs(tmp_path) < MEMORY_OF_BOMBS
    table.row(
        BOMBS, tries=len(list(bombs(tmp_path))), lost=NOTHING, result="refused before it is parsed"
    )


def test_a_manifest_that_is_parsed_at_once_would_show(
    tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "check_structure", archive.check_structure)  # to be restored
    apply(["structure-not-limited"])
    assert memory_of_bombs(tmp_path) > MEMORY_OF_BOMBS
    table.red(BOMBS, "structure-not-limited")


def test_many_arrays_are_read_in_linear_time() -> None:
    began = time.process_time()
    arrays = [ArrayInfo(f"a{i}", (), "<f4") for i in range(60_000)]
    assert len(ending_of(arrays, b"")[1]) > 60_000 * 80
    assert time.process_time() - began < SECONDS
