"""Runs a command with faults put into it: `python -m tests.faults.wrong NAME[=VALUE] ... -- train ...`

Accidents happen to a correct program: a NaN, a kill at a given place. Sabotages are mistakes in the program itself.
Each sabotage must make a check in this folder fail, which proves that the check works.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import resource
import signal
import sys
import time
import types
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

Change = Callable[[str], None]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def nth(n: int, act: Callable[[], object], then: Callable[..., Any]) -> Callable[..., Any]:
    """`then`, with a call of `act` before its n-th call."""
    calls = 0

    @functools.wraps(then)
    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == n:
            act()
        return then(*arguments, **named)

    return counted


def loaded_torch() -> Any:
    """PyTorch, loaded as the command line loads it, with threads that do not spin."""
    from homespun.engine import select

    select.machine()
    import torch

    return torch


# Accidents


def nan_in_batch(fingerprints: str) -> None:
    """Set one gradient value to NaN in these batches (fingerprints as in metrics.jsonl, joined by commas)."""
    torch = loaded_torch()
    from homespun.engine.torch.engine import TorchEngine

    step, backward = TorchEngine.train_step, torch.autograd.backward
    poisoned: Any = None

    def train_step(engine: Any, microbatches: Any, *arguments: Any, **limits: float) -> Any:
        nonlocal poisoned
        value = 0
        for batch in microbatches:
            value = zlib.crc32(batch.inputs.tobytes(), value)
        poisoned = engine if f"{value:08x}" in fingerprints.split(",") else None
        return step(engine, microbatches, *arguments, **limits)

    def poisoned_backward(loss: Any) -> None:
        backward(loss)
        if poisoned:
            first = next(iter(poisoned.weights.values()))
            first.grad.view(-1)[0] = float("nan")

    TorchEngine.train_step = train_step  # type: ignore[method-assign]
    torch.autograd.backward = poisoned_backward


def die_in_step(number: str) -> None:
    """Die inside the accumulation of this step of the process, after the first of its two micro-batches."""
    torch = loaded_torch()
    torch.autograd.backward = nth(2 * int(number), die, torch.autograd.backward)


def die_evaluating(number: str) -> None:
    """Die before this batch of an evaluation."""
    loaded_torch()
    from homespun.engine.torch.engine import TorchEngine

    TorchEngine.loss = nth(int(number), die, TorchEngine.loss)  # type: ignore[method-assign]


def die_sampling(number: str) -> None:
    """Die before this token of a sample."""
    loaded_torch()
    from homespun.engine.torch.decoder import TorchDecoder

    TorchDecoder.step = nth(int(number), die, TorchDecoder.step)  # type: ignore[method-assign]


def keep_batches(folder: str) -> None:
    """Keep the targets of each step in a file of its number."""
    loaded_torch()
    import numpy as np

    from homespun.engine.torch.engine import TorchEngine

    train_step = TorchEngine.train_step

    def keeping(engine: Any, microbatches: Any, lr: Any, step: int, **limits: float) -> Any:
        targets = np.concatenate([batch.targets for batch in microbatches])
        np.save(Path(folder) / f"{step}.npy", targets)
        return train_step(engine, microbatches, lr, step, **limits)

    TorchEngine.train_step = keeping  # type: ignore[method-assign]


def endless_step(number: str) -> None:
    """This step of the process never ends."""
    loaded_torch()
    from homespun.engine.torch.engine import TorchEngine

    def wait() -> None:
        print("this step takes for ever", flush=True)
        while True:
            signal.pause()

    TorchEngine.train_step = nth(int(number), wait, TorchEngine.train_step)  # type: ignore[method-assign]


def truncate_shards_in_step(number: str) -> None:
    """Cut all shards of training tokens to 1,000 bytes before this step of the process."""
    loaded_torch()
    from homespun.engine.torch.engine import TorchEngine

    def truncate() -> None:
        for shard in Path("data/tokens").glob("*/training-*.tokens"):
            os.truncate(shard, 1_000)

    TorchEngine.train_step = nth(int(number), truncate, TorchEngine.train_step)  # type: ignore[method-assign]


def a_shard_for_each_document(_: str) -> None:
    from homespun.data import prepare

    prepare.SHARD_BYTES = 1


def few_open_files(more: str) -> None:
    """Allow this many more open files than the process has after loading PyTorch."""
    loaded_torch()
    unused = os.open(os.devnull, os.O_RDONLY)
    os.close(unused)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused + int(more), hard))


def slow_set_up(name: str) -> None:
    """The preparations wait until a file of this name is there."""
    from homespun.training import stages

    tokenize = stages.tokenize

    def slow(*arguments: Any) -> Any:
        print("these preparations take for ever", flush=True)
        while not Path(name).exists():
            time.sleep(0.01)
        return tokenize(*arguments)

    stages.tokenize = slow


# Sabotages of saving


@contextlib.contextmanager
def _replacing(
    path: Path, *, in_place: bool = False, early: bool = False, tidy: bool = True
) -> Iterator[BinaryIO]:
    """`durable.replacing` with a mistake."""
    from homespun import durable

    temporary = path if in_place else durable.temporary_name(path)
    try:
        with temporary.open("wb") as file:
            if early:
                temporary.replace(path)
            yield file
            durable.sync(file)
        if not early:
            temporary.replace(path)
    except BaseException:
        if tidy:
            temporary.unlink(missing_ok=True)
        raise
    durable.sync_folder(path.parent)


def replacing_with(**mistake: bool) -> Change:
    def change(_: str) -> None:
        from homespun import durable

        durable.replacing = functools.partial(_replacing, **mistake)

    return change


def no_fsync_of_files(_: str) -> None:
    from homespun import durable

    durable.sync = lambda file: file.flush()


def no_fsync_of_folders(_: str) -> None:
    from homespun import durable

    durable.sync_folder = lambda folder: None


def old_checkpoint_dropped_first(_: str) -> None:
    from homespun.checkpoint.folder import CheckpointFolder

    save = CheckpointFolder.save

    def dropping(folder: CheckpointFolder, *arguments: Any) -> Any:
        for path in folder.path.glob("checkpoint_step_*"):
            path.unlink()
        return save(folder, *arguments)

    CheckpointFolder.save = dropping  # type: ignore[method-assign]


def committed_before_the_weights(_: str) -> None:
    """The state is renamed before the weights, although its name commits the checkpoint."""
    from homespun.checkpoint import folder

    write, late = folder.write_archive, []

    def write_archive(path: Path, *arguments: Any, **named: Any) -> str:
        if named.get("kind") != "state" and path.name.startswith("checkpoint"):
            late.append(path)
            return write(path.with_name("late"), *arguments, **named)
        sha256 = write(path, *arguments, **named)
        for path in late:
            path.with_name("late").replace(path)
        return sha256

    folder.write_archive = write_archive


def failed_saves_are_silent(_: str) -> None:
    from homespun.checkpoint.folder import CheckpointFolder
    from homespun.checkpoint.writer import CheckpointWriter
    from homespun.errors import UserError

    save = CheckpointFolder.save

    def silent(*arguments: Any) -> Any:
        with contextlib.suppress(UserError):
            return save(*arguments)

    CheckpointFolder.save = silent  # type: ignore[method-assign]
    CheckpointWriter.no_room = lambda writer, error: None  # type: ignore[method-assign]


# Sabotages of resuming and stopping


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


def ruined_in_step(number: str) -> None:
    """This step of the process is applied, and leaves weights that are not finite."""
    torch = loaded_torch()
    from homespun.engine.torch.engine import TorchEngine

    step = TorchEngine.train_step
    calls = 0

    def ruining(engine: Any, *arguments: Any, **limits: float) -> Any:
        nonlocal calls
        calls += 1
        handle = step(engine, *arguments, **limits)
        if calls == int(number):
            with torch.no_grad():
                next(iter(engine.weights.values())).fill_(float("inf"))
        return handle

    TorchEngine.train_step = ruining  # type: ignore[method-assign]


def stopped_in_set_up(_: str) -> None:
    """The process stops after it has chosen its checkpoint, as if it were suspended."""
    from homespun.training import train

    set_up = train.set_up

    def stopping(*arguments: Any) -> Any:
        print("set-up begins", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        return set_up(*arguments)

    train.set_up = stopping


def refused_steps_saved(_: str) -> None:
    from homespun.training.loop import Loop

    Loop.refusal = lambda loop: None  # type: ignore[method-assign]


def newest_checkpoint_alone_kept(_: str) -> None:
    from homespun.training import train

    train.LEAST_KEPT = 1


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


def new_folders_not_flushed(_: str) -> None:
    from homespun import durable

    def make_folder(path: Path, mode: int = 0o777) -> list[Path]:
        path.mkdir(mode, parents=True, exist_ok=True)
        return []

    durable.make_folder = make_folder


def lock_not_taken(_: str) -> None:
    from homespun import durable

    durable.try_lock = lambda descriptor: True


# Sabotages of checking


class _Agreeing(str):
    """A hash that equals any other hash."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def hashes_of_arrays_ignored(_: str) -> None:
    from homespun.checkpoint import archive

    def sha256(data: Any = b"") -> Any:
        if isinstance(data, memoryview):
            return types.SimpleNamespace(hexdigest=lambda: _Agreeing("0" * 64))
        return hashlib.sha256(data)

    archive.hashlib = types.SimpleNamespace(sha256=sha256)


def structure_not_limited(_: str) -> None:
    from homespun.checkpoint import archive

    archive.check_structure = lambda text, limit: None


def hash_of_the_text_ignored(_: str) -> None:
    from homespun.training.checkpointing import resume

    survey = resume.survey

    def agreeing(*arguments: Any) -> Any:
        corpus = survey(*arguments)
        object.__setattr__(corpus, "sha256", _Agreeing(corpus.sha256))
        return corpus

    resume.survey = agreeing


def hash_of_the_tokenizer_ignored(_: str) -> None:
    from homespun.tokenizer import Tokenizer

    Tokenizer.sha256 = _Agreeing("0" * 64)  # type: ignore[assignment]


def report_of_the_tokenizer_ignored(_: str) -> None:
    from homespun.tokenizer import tokenizer

    tokenizer.read_report = lambda path: {}


def checksums_of_records_ignored(_: str) -> None:
    from homespun import durable

    durable._checksum = lambda record: _Agreeing("0" * 64)


def text_of_an_unfinished_download_not_hashed(_: str) -> None:
    from homespun.data import download_file

    agreeing: Any = types.SimpleNamespace(
        hexdigest=lambda: _Agreeing("0" * 64), update=lambda data: None
    )
    download_file._digest = lambda path, n_bytes: agreeing


def hash_of_the_records_ignored(_: str) -> None:
    from homespun.records.metrics import MetricsLog

    truncate = MetricsLog.truncate
    MetricsLog.truncate = lambda log, length, sha256: truncate(log, length)  # type: ignore[method-assign,misc]


def shards_not_verified(_: str) -> None:
    from homespun.data import shards

    shards.verify_ids = lambda *arguments: None


def shards_mapped(_: str) -> None:
    """Tokens are read through a mapping of the file."""
    import numpy as np

    from homespun.data.shards import Shard

    def ids(shard: Any, window: slice) -> Any:
        if not hasattr(shard, "mapped"):
            shape = (len(shard),)
            shard.mapped = np.memmap(shard.path, shard.header.dtype, "r", 176, shape)
        return shard.mapped[window]

    Shard.__getitem__ = ids  # type: ignore[method-assign,assignment]


def shards_stay_open(_: str) -> None:
    """No shard is closed again."""
    from homespun.data import shards

    kept = []
    init = shards._OpenFile.__init__

    def keep(file: Any, path: Path) -> None:
        init(file, path)
        kept.append(file)

    shards._OpenFile.__init__ = keep  # type: ignore[method-assign]


def not_finite_but_applied(_: str) -> None:
    loaded_torch()
    from homespun.engine.torch.optimizer import Optimizer

    step = Optimizer.step

    def applied(optimizer: Any, grads: Any, lr: Any, grad_scale: Any, refused: Any) -> None:
        step(optimizer, grads, lr, grad_scale, refused * 0)

    Optimizer.step = applied  # type: ignore[method-assign]


def refused_steps_not_counted(_: str) -> None:
    from homespun.training.diagnostics.step_guard import StepGuard

    observe_step = StepGuard.observe_step

    def uncounted(guard: StepGuard, step: int, result: Any, *more: Any) -> Any:
        return observe_step(guard, step, dataclasses.replace(result, applied=True), *more)

    StepGuard.observe_step = uncounted  # type: ignore[method-assign]


CHANGES: dict[str, Change] = {
    **{
        change.__name__.replace("_", "-"): change
        for change in (
            nan_in_batch,
            die_in_step,
            die_evaluating,
            die_sampling,
            keep_batches,
            endless_step,
            truncate_shards_in_step,
            a_shard_for_each_document,
            few_open_files,
            ruined_in_step,
            stopped_in_set_up,
            refused_steps_saved,
            newest_checkpoint_alone_kept,
            lock_taken_after_the_set_up,
            new_folders_not_flushed,
            slow_set_up,
            no_fsync_of_files,
            no_fsync_of_folders,
            old_checkpoint_dropped_first,
            committed_before_the_weights,
            failed_saves_are_silent,
            records_not_cut_back,
            records_not_flushed,
            signals_end_at_once,
            due_checks_forgotten,
            best_weights_not_measured_again,
            second_signal_ignored,
            save_on_demand_forgotten,
            samples_moved_to_documents,
            pass_begun_again,
            signals_answered_with_print,
            failed_output_ends_the_run,
            characters_not_escaped,
            lock_not_taken,
            hashes_of_arrays_ignored,
            structure_not_limited,
            hash_of_the_text_ignored,
            hash_of_the_tokenizer_ignored,
            report_of_the_tokenizer_ignored,
            checksums_of_records_ignored,
            text_of_an_unfinished_download_not_hashed,
            hash_of_the_records_ignored,
            shards_not_verified,
            shards_mapped,
            shards_stay_open,
            not_finite_but_applied,
            refused_steps_not_counted,
        )
    },
    "written-in-place": replacing_with(in_place=True),
    "renamed-before-it-is-whole": replacing_with(early=True),
    "temporary-files-left": replacing_with(tidy=False),
}


def apply(words: list[str]) -> None:
    """Put these faults into this process."""
    for word in words:
        name, _, value = word.partition("=")
        CHANGES[name](value)


def main() -> int:
    from homespun.cli.main import main

    end = sys.argv.index("--")
    apply(sys.argv[1:end])
    return main(sys.argv[end + 1 :])


if __name__ == "__main__":
    sys.exit(main())
