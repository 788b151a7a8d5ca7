"""Several processes, the ranks, train one model: rank 0 runs the run, the others repeat the steps of its engine.

Rank 0 alone has the text, the records and the checkpoints. It sends each step to all ranks. Each rank computes its
share of the rows, the gradients of all are added up, and all make the same update. So the samples and their order
do not depend on the number of ranks, and what a run tells is the same.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from homespun.config import ModelConfig
from homespun.data.batch import IGNORED, PADDING, Batch
from homespun.engine import launcher
from homespun.engine.base import EngineOptions
from homespun.engine.launcher import Place
from homespun.engine.torch.engine import TorchEngine, TorchStep, Whole
from homespun.errors import UserError
from homespun.named_array import NamedArray

TIMEOUT = "HOMESPUN_RANK_TIMEOUT"
"""The environment variable with the seconds that ranks wait for each other."""
DEFAULT_TIMEOUT = 300.0
"""A rank that compiles its kernels lets the others wait."""
BEATS = 10
"""Rank 0 shows so many times within this time that it is alive."""

Command = dict[str, Any]
FILLED = {"inputs": 0, "targets": IGNORED, "documents": PADDING, "weights": 0}
"""The fields of a batch, and their values after the end of a row that is shorter than others."""


class RankLostError(UserError):
    """Another rank has died or does not answer."""


_joined: "list[Group]" = []
"""The group of this process: PyTorch has one for the whole process, too."""


def join() -> "Group":
    """Join the other ranks of this process's place; all of them have to.

    Raises:
        RankLostError: some rank has not come within the time.
        UserError: the environment is not that of a launcher.
    """
    place = launcher.place()
    assert place
    if not _joined:
        _joined.append(Group(place))
    return _joined[0]


def led() -> "Group":
    """The group whose other ranks repeat what this process does.

    Raises:
        UserError: they do not.
    """
    if not (_joined and _joined[0].is_led):
        raise UserError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but several processes train together with the commands "
            "`homespun train` and `homespun reinforce` only: start those, or unset WORLD_SIZE to train alone"
        )
    return _joined[0]


class Group:
    """The connections of this process to the other ranks."""

    def __init__(self, place: Place) -> None:
        """Join the others; all ranks have to.

        Raises:
            RankLostError: some rank has not come within the time.
            UserError: there is no GPU for this rank.
        """
        self.place = place
        self.is_led = False
        self.timeout = _timeout()
        within = timedelta(seconds=self.timeout)
        if torch.cuda.is_available():
            n_gpus = torch.cuda.device_count()
            if place.on_machine >= n_gpus:
                raise UserError(
                    f"each rank needs a GPU of its own, and this machine has {n_gpus}: start torchrun with "
                    f"--nproc-per-node {n_gpus}"
                )
            torch.cuda.set_device(place.on_machine)
        with self._lost("some ranks have not started"):
            self._base = TCPStore(
                place.host,
                place.port,
                is_master=place.rank == 0 and not place.has_store,
                timeout=within,
            )
            # Ranks that are started again do not meet what their predecessors have left.
            store = PrefixStore(f"homespun/{place.start}", self._base)
            dist.init_process_group(
                "nccl" if torch.cuda.is_available() else "gloo",
                store=PrefixStore("tensors", store),
                rank=place.rank,
                world_size=place.size,
                timeout=within,
            )
        self._store = PrefixStore("commands", store)
        self._n_commands = 0

    @property
    def leads(self) -> bool:
        return self.place.rank == 0

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Rank 0 shows that it is alive; at the end, the others end too."""
        ended = threading.Event()

        def beat() -> None:
            number = 0
            with contextlib.suppress(RuntimeError):  # the store has gone, as `send` finds out, too
                while not ended.wait(self.timeout / BEATS):
                    number += 1
                    self._store.set("alive", str(number))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        self.is_led = True
        try:
            yield
        except BaseException:
            with contextlib.suppress(RankLostError):
                self.send({"do": "end"})
            raise
        else:
            self.send({"do": "end"})
            with self._lost("the launcher has gone"):
                self._wait_for_followers()
        finally:
            self.is_led = False
            ended.set()
            thread.join()

    def send(self, command: Command, tokens: bytes = b"") -> None:
        """Give a command to all other ranks."""
        with self._lost("the launcher has gone"):
            value = json.dumps(command).encode() + b"\n" + tokens
            self._store.set(f"{self._n_commands}", value)  # type: ignore[arg-type]
        self._n_commands += 1

    def commands(self) -> Iterator[tuple[Command, bytes]]:
        """The commands of rank 0, up to its end. The last rank that reads one removes it: rank 0 may be steps ahead.

        Raises:
            RankLostError: rank 0 does not show that it is alive.
        """
        while True:
            key = f"{self._n_commands}"
            self._wait(key)
            with self._lost("rank 0 has ended"):
                line, _, tokens = self._store.get(key).partition(b"\n")
                command: Command = json.loads(line)
                if command["do"] == "end":
                    self._store.add("ended", 1)
                    return
                if self._store.add(f"{key} read", 1) == self.place.size - 1:
                    self._store.delete_key(key)
                    self._store.delete_key(f"{key} read")
            self._n_commands += 1
            yield command, tokens

    def shared(self, tensors: Iterable[Tensor]) -> None:
        """Give all ranks the tensors of rank 0."""
        with self._lost("the weights have not arrived"):
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their sums over all ranks."""
        with self._lost("the gradients have not arrived"):
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()

    def _wait(self, key: str) -> None:
        """Wait for a key as long as rank 0 is alive."""
        beat, seen = b"", time.monotonic()
        while True:
            try:
                self._store.wait([key], timedelta(seconds=self.timeout / BEATS))
                return
            except RuntimeError as error:
                now = time.monotonic()
                with self._lost("rank 0 has ended"):
                    found = self._store.get("alive") if self._store.check(["alive"]) else b""
                if found != beat:
                    beat, seen = found, now
                if now - seen > self.timeout:
                    raise RankLostError("rank 0 does not answer") from error

    def _wait_for_followers(self) -> None:
        """The store may end with this process, so the others have to have read the end."""
        end = time.monotonic() + self.timeout
        while self._store.add("ended", 0) < self.place.size - 1 and time.monotonic() < end:
            time.sleep(0.01)

    @contextmanager
    def _lost(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).partition("\n")[0][:200]
            raise RankLostError(
                f"rank {self.place.rank}: {what}, a rank has died or hangs ({reason}): the last checkpoint is intact; "
                "go on with --resume"
            ) from error


class RankedEngine(TorchEngine):
    """The engine of a rank. That of rank 0 tells the others to do what it does."""

    def __init__(self, config: ModelConfig, options: EngineOptions, group: Group) -> None:
        """Raises as `TorchEngine`."""
        self._group = group
        self._is_made = False
        if group.leads:
            group.send(
                {
                    "do": "make",
                    "config": dataclasses.asdict(config),
                    "options": options.stored(),
                }
            )
        super().__init__(config, options)
        self._is_made = True

    @property
    def facts(self) -> dict[str, str]:
        return super().facts | {"ranks": str(self._group.place.size)}

    def train_step(
        self, microbatches: Sequence[Batch], lr: dict[str, float], step: int, **limits: float
    ) -> TorchStep:
        if self._group.leads:
            command, tokens = _sent(microbatches)
            self._group.send(
                {"do": "step", "lr": lr, "step": step, "limits": limits} | command, tokens
            )
        return super().train_step(microbatches, lr, step, **limits)

    def gradients(
        self, microbatches: Sequence[Batch], step: int | None = None
    ) -> Iterator[NamedArray]:
        if self._group.leads:
            command, tokens = _sent(microbatches)
            self._group.send({"do": "gradients", "step": step} | command, tokens)
        return super().gradients(microbatches, step)

    def load(self, tensors: Iterable[NamedArray]) -> None:
        super().load(tensors)
        if self._is_made:
            self._group.send({"do": "load"})
            self.share()

    def load_base(self, tensors: Iterable[NamedArray]) -> None:
        super().load_base(tensors)
        self._group.send({"do": "load base"})
        self.share_base()

    def share(self) -> None:
        """Take weights and moments from rank 0."""
        with torch.no_grad():
            self._group.shared(tensor for _, tensor in self._tensors())

    def share_base(self) -> None:
        """Take the weights of the model below the adapters from rank 0."""
        with torch.no_grad():
            self._group.shared(self.base.values())

    def _backward(
        self, microbatches: Sequence[Batch], step: int | None, whole: Whole | None = None
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The share of this rank, and then the sums over all ranks."""
        n_targets = sum(batch.n_targets for batch in microbatches)
        first, mine = share_of(microbatches, self._group.place)
        seq_len = max(batch.inputs.shape[1] for batch in microbatches)
        loss, uses, grads = super()._backward(mine, step, Whole(n_targets, first * seq_len))
        if uses is None and (experts := self.model.config.experts):
            shape = self.model.config.n_layers - self.model.config.dense_layers, 3 + experts
            uses = torch.zeros(shape, device=self.device)
        self._group.add_up([loss, *([] if uses is None else [uses]), *grads.values()])
        return loss, uses, grads


def share_of(microbatches: Sequence[Batch], place: Place) -> tuple[int, list[Batch]]:
    """The number of rows of a step before those of a rank, and these rows in micro-batches that are as large at most.

    Each rank takes rows that follow each other, as many as any other or one less. If the number of micro-batches is a
    multiple of that of the ranks, the micro-batches are the same as without ranks.
    """
    whole = _stacked(microbatches)
    n_rows = len(whole["inputs"])
    largest = max(len(batch.inputs) for batch in microbatches)
    start, end = (n_rows * rank // place.size for rank in (place.rank, place.rank + 1))
    cuts = [(at, min(end, at + largest)) for at in range(start, end, largest)]
    return start, [_rows(whole, first, last) for first, last in cuts]


def _stacked(microbatches: Sequence[Batch]) -> dict[str, Any]:
    """The arrays of a step by the names of their fields, all rows below each other, and filled up to one length."""
    length = max(batch.inputs.shape[1] for batch in microbatches)
    whole = {}
    for name, value in FILLED.items():
        arrays = [getattr(batch, name) for batch in microbatches]
        if any(array is not None for array in arrays):
            rows = [
                np.pad(a, ((0, 0), (0, length - a.shape[1])), constant_values=value) for a in arrays
            ]
            whole[name] = np.concatenate(rows)
    return whole


def _rows(whole: dict[str, Any], first: int, end: int) -> Batch:
    return Batch(**{name: array[first:end] for name, array in whole.items()})


def follow(group: Group) -> None:
    """Do what rank 0 tells, until it ends.

    Raises:
        RankLostError: another rank has died or does not answer.
        OutOfMemory: a step needs more memory than there is.
    """
    engine: RankedEngine | None = None
    for command, tokens in group.commands():
        match command["do"]:
            case "make":
                engine = None  # its memory is needed
                engine = RankedEngine(
                    ModelConfig(**command["config"]),
                    EngineOptions.restored(command["options"]),
                    group,
                )
            case "load":
                assert engine
                engine.share()
            case "load base":
                assert engine
                engine.share_base()
            case "step":
                assert engine
                batches = _received(command, tokens)
                engine.train_step(batches, command["lr"], command["step"], **command["limits"])
            case "gradients":
                assert engine
                for _ in engine.gradients(_received(command, tokens), command["step"]):
                    pass


def _sent(microbatches: Sequence[Batch]) -> tuple[Command, bytes]:
    """The arrays of a step, and their types and shapes."""
    whole = _stacked(microbatches)
    arrays = {name: (array.dtype.str, array.shape) for name, array in whole.items()}
    rows = [len(batch.inputs) for batch in microbatches]
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in whole.values())
    return {"arrays": arrays, "rows": rows}, data


def _received(command: Command, data: bytes) -> list[Batch]:
    """The inverse of `_sent`."""
    whole, at = {}, 0
    for name, (dtype, shape) in command["arrays"].items():
        count = math.prod(shape)
        array = np.frombuffer(data, dtype, count, at).reshape(shape)
        whole[name] = array.copy()  # of its own memory, which may be written
        at += array.nbytes
    ends = list(itertools.accumulate(command["rows"]))
    return [_rows(whole, end - n, end) for n, end in zip(command["rows"], ends, strict=True)]


def _timeout() -> float:
    """The seconds that ranks wait for each other.

    Raises:
        UserError: the environment variable is no positive number.
    """
    given = os.environ.get(TIMEOUT)
    try:
        seconds = DEFAULT_TIMEOUT if given is None else float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"{TIMEOUT} is '{given}': give a number of seconds")
    return seconds
