"""Mistakes in the way in which a run stops, tells about it, and goes on."""

import contextlib
import sys
from typing import Any


def records_not_cut_back(_: str) -> None:
    from homespun.records.metrics import MetricsLog

    MetricsLog.truncate = lambda log, *stored: None  # type: ignore[method-assign]


def records_not_flushed(_: str) -> None:
    """The checkpoint states a length of metrics.jsonl that was not flushed to the disk."""
    from homespun.records.metrics import MetricsLog

    MetricsLog.sync = lambda log: log.length  # type: ignore[method-assign]


def signals_end_at_once(_: str) -> None:
    from homespun.training.interrupts import Interrupts

    Interrupts.__enter__ = lambda interrupts: interrupts  # type: ignore[method-assign]


def due_checks_forgotten(_: str) -> None:
    """A resumed run does not look back at the evaluation and samples of the step at which it was stopped."""
    from homespun.training.loop import Loop

    settle = Loop.settle

    def later(loop: Loop) -> None:
        if loop.saver.saved_at != loop.position.step:
            settle(loop)

    Loop.settle = later  # type: ignore[method-assign]


def best_weights_not_measured_again(_: str) -> None:
    from homespun.training import train

    train.renew = lambda *arguments: None


def second_signal_ignored(_: str) -> None:
    from homespun.training.interrupts import Interrupts

    stop = Interrupts._stop

    def once(interrupts: Interrupts, *arguments: Any) -> None:
        if interrupts.stopped_by is None:
            stop(interrupts, *arguments)

    Interrupts._stop = once  # type: ignore[method-assign]


def save_on_demand_forgotten(_: str) -> None:
    from homespun.training.interrupts import Interrupts

    Interrupts._save = lambda *arguments: None  # type: ignore[method-assign]


def samples_moved_to_documents(_: str) -> None:
    """Samples begin with their document where it is near, so that other tokens are left out."""
    from homespun.data.samples import Batches
    from tests.fixtures.earlier_order import microbatches

    Batches.microbatches = microbatches  # type: ignore[method-assign]


def pass_begun_again(_: str) -> None:
    """A resumed run begins at the beginning of its pass, instead of in the middle."""
    from homespun.training.steps import Steps

    begin = Steps.__init__

    def at_the_beginning(steps: Steps, run: Any, position: Any, clock: Any) -> None:
        position.next_sample -= position.next_sample % run.dataset.samples_per_pass
        begin(steps, run, position, clock)

    Steps.__init__ = at_the_beginning  # type: ignore[method-assign]


def signals_answered_with_print(_: str) -> None:
    from homespun.training import interrupts

    def tell(message: str, control: bytes = b"") -> None:
        assert sys.__stderr__
        sys.__stderr__.write(message)

    interrupts._tell = tell


def failed_output_ends_the_run(_: str) -> None:
    from homespun.records.console import Console

    Console._writing = lambda console: contextlib.nullcontext()  # type: ignore[method-assign,assignment,return-value]


def characters_not_escaped(_: str) -> None:
    from homespun.records import console

    def write(text: str, file: Any) -> None:
        print(text, end="", file=file, flush=True)

    def writing(_: console.Console) -> Any:
        return contextlib.nullcontext()

    console.write = write
    console.Console._writing = writing  # type: ignore[method-assign]


def lock_taken_after_the_set_up(_: str) -> None:
    """The lock is given back as soon as it is taken, and taken again after the set-up."""
    from homespun.training import train

    set_up = train.set_up
    run = train._train

    def unlocked(config: Any, asked: Any, point: Any, lock: Any, *more: Any) -> Any:
        lock.release()

        def then_locked(*arguments: Any) -> Any:
            found = set_up(*arguments)
            lock._lock.take()
            return found

        train.set_up = then_locked
        return run(config, asked, point, lock, *more)

    train._train = unlocked


def lock_not_taken(_: str) -> None:
    from homespun import durable

    durable.try_lock = lambda descriptor: True
