"""Figures of a resumed run that do not compare with earlier ones begin anew."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from homespun.checkpoint.folder import CheckpointFolder
from homespun.config import ModelConfig
from homespun.engine.base import StepResult
from homespun.planning.resolved import ResolvedConfig
from homespun.records.events import Event, Remeasured
from homespun.training.checkpointing.position import Position
from homespun.training.checkpointing.resume import ResumePoint
from homespun.training.checkpointing.yardstick import renew
from homespun.training.output.emitter import Emitter
from homespun.training.run import Run
from homespun.training.timing.clock import Clock

BEFORE = ResolvedConfig(seq_len=4, batch_size=2, eval_tokens=8)
SHAPE: dict[str, Any] = {"architecture": "qwen3", "vocab_size": 300}
HEADER = {"model": SHAPE, "tokenizer_sha256": "a", "data_sha256": "b"}


class Scales:
    """A fake engine: the loss of each token is its only weight."""

    def __init__(self) -> None:
        self.weight = 0.0

    def load(self, tensors: Any) -> None:
        self.weight = float(dict(tensors)["w"][0])

    def loss(self, batch: Any) -> tuple[float, int]:
        return self.weight * batch.n_targets, batch.n_targets


def tensor(value: float) -> list[tuple[str, np.ndarray]]:
    return [("w", np.full(3, value, np.float32))]


class Resumed:
    """A run of 100 validation tokens with weights 3.0, best weights 2.0, and 1.0 stated as the best loss."""

    def __init__(self, path: Path, best: dict[str, Any] | None = HEADER, **changes: Any) -> None:
        folder = CheckpointFolder(path)
        header = HEADER | {"resolved": dataclasses.asdict(BEFORE)}
        with folder.lock():
            if best is not None:
                folder.save_best(5, tensor(2.0), best)
            folder.save(9, tensor(3.0), [], header, {})
        checkpoint = folder.open(9)
        self.engine = Scales()
        self.engine.load(checkpoint.tensors())
        self.position = Position(step=9)
        self.position.guard.best_val_loss = 1.0
        self.position.guard.evaluations_without_better = 3
        self.position.guard.recent = [[8, 1.0, 1.0]]
        self.position.watch.evaluations = [[5, 1.0, 1.0]]
        run: Any = SimpleNamespace(
            config=dataclasses.replace(BEFORE, **changes),
            engine=self.engine,
            tokenizer=SimpleNamespace(byte_lengths=np.ones(100, dtype=np.int32)),
            tokens=SimpleNamespace(validation=np.arange(100)),
            header=HEADER,
            model=ModelConfig(**SHAPE),
        )
        run = Run(
            **{field.name: getattr(run, field.name, None) for field in dataclasses.fields(Run)}
        )
        self.events: list[Event] = []
        emit = Emitter(self.position, Clock(self.position, 99, None), [self.events.append], None)
        renew(
            run,
            self.position,
            ResumePoint(checkpoint.weights, checkpoint.state),
            folder,
            emit,
            lambda: False,
        )
        self.said = [event for event in self.events if isinstance(event, Remeasured)]


@pytest.mark.parametrize("changes", [{"eval_tokens": 16}, {"precision": "bfloat16"}])
def test_the_best_weights_are_measured_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = Resumed(tmp_path, **changes)
    guard = run.position.guard
    assert (guard.best_val_loss, guard.evaluations_without_better) == (2.0, 0)
    assert run.position.watch.evaluations == []
    assert run.engine.weight == 3.0  # those of the run, again
    [said] = run.said
    assert (said.best_val_loss, said.best_step) == (2.0, 5)
    assert said.eval_tokens == changes.get("eval_tokens", 8)
    assert guard.recent


@pytest.mark.parametrize("best", [None, HEADER | {"data_sha256": "another text"}, "damaged"])
def test_without_the_best_weights_the_next_ones_are_the_best(tmp_path: Path, best: Any) -> None:
    if best == "damaged":
        (tmp_path / "best.npz").write_bytes(b"damaged")
        best = None
    run = Resumed(tmp_path, best, eval_tokens=16)
    assert run.position.guard.best_val_loss is None
    assert run.position.guard.observe_evaluation(9.0)
    assert (run.engine.weight, run.said[0].best_step) == (3.0, None)


@pytest.mark.parametrize("changes", [{}, {"eval_tokens": 11}, {"patience": 2}, {"threads": 1}])
def test_settings_that_change_no_figure_change_nothing(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    run = Resumed(tmp_path, **changes)  # 11 tokens are two windows of 4 as well
    assert run.said == []
    assert run.position.guard.best_val_loss == 1.0
    assert run.position.guard.evaluations_without_better == 3


def test_training_losses_with_another_dropout_do_not_compare(tmp_path: Path) -> None:
    run = Resumed(tmp_path, dropout=0.5)
    assert run.position.guard.recent == []
    watch = run.position.watch.begin(BEFORE, 1.0)
    watch.observe_step(1, StepResult(1.0, 1.0, clipped=False, applied=True), 1.0, BEFORE)
    assert watch.begin(BEFORE, 1.0) is watch
    assert watch.begin(dataclasses.replace(BEFORE, dropout=0.5), 1.0) is not watch
    watch.settings = watch.settings[:3]  # as earlier versions stored them
    assert watch.begin(BEFORE, 1.0) is watch
