"""The training loop on a fake clock, with a fake engine: a run, its events and its saves flow out."""

import json
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from homespun.checkpoint.writer import CheckpointWriter
from homespun.config import ModelConfig
from homespun.config.checked import seconds
from homespun.data.samples import TextDataset
from homespun.engine.base import StepResult
from homespun.errors import UserError
from homespun.planning.recipe import step_limits
from homespun.planning.resolved import ResolvedConfig
from homespun.records.events import Event, Message
from homespun.records.record import as_record
from homespun.training.checkpointing.position import Position
from homespun.training.checkpointing.saver import Saver
from homespun.training.interrupts import Interrupts
from homespun.training.loop import Loop
from homespun.training.output.emitter import Emitter
from homespun.training.run import Run
from homespun.training.timing.clock import Clock

DISPATCH, STEP, EVALUATION, SAVE = 0.5, 2.0, 100.0, 50.0
"""Duration of each kind of work, in seconds of the fake clock."""


class Work:
    """A fake clock, and a fake engine that takes time on it.

    With `waits`, `train_step` returns when the step is computed, as on a CPU. Otherwise the step is computed while the
    loop continues, as on a GPU.
    """

    def __init__(self, waits: bool) -> None:
        self.waits = waits
        self.facts, self.narrow = {"device": "cpu (slow)"}, frozenset[str]()
        self.now = self.free = 0.0
        self.trained = 0.0
        self.steps: list[int] = []
        self.saved: list[int] = []
        """The saves of the run."""
        self.before_step: Callable[[], object] = lambda: None
        self.results: Callable[[int], StepResult] = lambda step: StepResult(1.0, 1.0, False, True)
        self.before_loss: Callable[[], object] = lambda: None

    def pass_by(self, seconds: float) -> None:
        self.now += seconds

    def train_step(
        self, microbatches: Any, lr: dict[str, float], step: int, **limits: float
    ) -> Any:
        self.before_step()
        self.steps.append(step)
        began = max(self.now, self.free)
        self.pass_by(DISPATCH)
        done = max(self.now, self.free) + STEP
        self.trained += done - began
        self.free = done
        if self.waits:
            self.now = done

        def result() -> StepResult:
            self.now = max(self.now, done)
            return self.results(step + 1)

        return SimpleNamespace(ready=lambda: self.now >= done, result=result)

    def loss(self, batch: Any) -> tuple[float, int]:
        self.before_loss()
        self.pass_by(EVALUATION)
        return 1.0, batch.n_targets

    def peak_memory(self) -> int:
        return 0

    def active_memory(self) -> None:
        return None

    def state(self) -> Any:
        return iter(())


class Story:
    """A run of the loop over `work`, with its events and the steps of its saves.

    With `failures`, the errors of saves by step, the run saves in the background. Each save succeeds or fails before
    the next step is computed.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        work: Work,
        failures: dict[int, UserError] | None = None,
        on_event: Callable[[Event], object] | None = None,
        position: Position | None = None,
        interrupts: Interrupts | None = None,
        **settings: Any,
    ) -> None:
        self.events: list[Event] = []
        self.saved: list[int] = []
        work.saved = self.saved
        self.checkpoint: dict[str, Any] | None = None
        """The position and the number of records that were saved last."""
        self.position = position or Position()
        self.config = ResolvedConfig(**{"seq_len": 4, "batch_size": 2} | settings)
        tokens = np.arange(100)
        run = Run(
            config=self.config,
            model=ModelConfig(architecture="qwen3", vocab_size=100, seq_len=4),
            engine=work,  # type: ignore[arg-type]
            tokenizer=SimpleNamespace(byte_lengths=np.ones(100, dtype=np.int32)),  # type: ignore[arg-type]
            tokens=SimpleNamespace(training=tokens, validation=tokens),  # type: ignore[arg-type]
            dataset=TextDataset(tokens, seq_len=4),
            header={},
            limits=step_limits(self.config, 24),
        )

        def save(step: int, *parts: Any) -> Path:
            work.pass_by(SAVE)
            if failures and step in failures:
                raise failures[step]
            self.saved.append(step)
            self.checkpoint = json.loads(json.dumps(parts[-1]))
            return Path(f"{step}.npz")

        folder: Any = SimpleNamespace(
            path=Path(),
            check_space=lambda *needed: None,
            save=save,
            save_best=lambda *parts: work.pass_by(SAVE),
        )
        monkeypatch.setattr(time, "perf_counter", lambda: work.now)
        budget = self.config.time_budget
        clock = Clock(self.position, run.total_steps, seconds(budget) if budget else None)
        self.emit = Emitter(self.position, clock, [self.events.append], on_event)
        writer = CheckpointWriter(
            folder, 0, in_background=failures is not None, report=self.emit.message
        )
        work.before_step = lambda: writer.under_way and futures.wait([writer.under_way])
        log: Any = SimpleNamespace(sync=lambda: len(self.records), sha256="")
        with writer:
            saver = Saver(run, self.position, writer, log)
            loop = Loop(run, self.position, clock, saver, self.emit, interrupts or Interrupts())
            self.ended_by = loop.train()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [dict(record) for record in map(as_record, self.events) if record]

    @property
    def messages(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Message)]

    def steps_with(self, measured: str) -> list[int]:
        return [record["step"] for record in self.records if measured in record]
