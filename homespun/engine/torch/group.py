"""The connections between the processes that train one model, the ranks: commands of rank 0, and sums of tensors.

Commands go through PyTorch's store, tensors through its process group: NCCL on GPUs, gloo on processors. A rank that
dies or hangs ends every wait of the others, with one error.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore, Work  # type: ignore[attr-defined]

from homespun.engine import launcher
from homespun.engine.launcher import Place
from homespun.engine.torch.shares import Command
from homespun.errors import UserError

TIMEOUT = "HOMESPUN_RANK_TIMEOUT"
"""The environment variable with the seconds that ranks wait for each other."""
DEFAULT_TIMEOUT = 300.0
"""A rank that compiles its kernels lets the others wait."""
TAGS = 2**16
"""Sums that are on their way at the same time have different numbers below this one."""
BEATS = 10
"""Rank 0 shows so many times within this time that it is alive."""


class Begun(Protocol):
    """An exchange of tensors that goes on by itself."""

    def wait(self) -> object: ...


class _Sum:
    """A sum at this rank. It adds the tensors of the others in their order, however they arrive."""

    def __init__(self, tensor: Tensor, works: list[Begun], parts: list[Tensor]) -> None:
        self._tensor, self._works, self._parts = tensor, works, parts

    def wait(self) -> None:
        for work, part in zip(self._works, self._parts, strict=True):
            work.wait()
            self._tensor += part


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
        self._with_gpus = torch.cuda.is_available()
        self._n_commands = self._n_sums = self._n_words = 0
        self.arriving: list[Begun] = []
        """Tensors that are on their way, for which nothing has waited yet."""

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
            for work in self.arriving:  # a process cannot end while tensors are on their way
                with contextlib.suppress(RuntimeError):
                    work.wait()
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
                    return
                if self._store.add(f"{key} read", 1) == self.place.size - 1:
                    self._store.delete_key(key)
                    self._store.delete_key(f"{key} read")
            self._n_commands += 1
            yield command, tokens

    def leave(self) -> None:
        """Tell rank 0, which waits for it, that this rank has done all."""
        with self._lost("rank 0 has ended"):
            if self._store.add("ended", 1) == self.place.size - 1:
                self._store.set("all ended", "")

    def told_by_all(self, word: str) -> list[str]:
        """The words of all ranks, in the order of their numbers. All ranks have to call this."""
        self._n_words += 1
        with self._lost("some ranks do not answer"):
            self._store.set(f"word {self._n_words} of {self.place.rank}", word)
            return [
                self._store.get(f"word {self._n_words} of {rank}").decode()
                for rank in range(self.place.size)
            ]

    def meet(self) -> Begun:
        """Begin to wait until all ranks have come here."""
        with self._lost("some ranks do not come"):
            return cast(Begun, dist.barrier(async_op=True))

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks."""
        self.wait([self._begun(dist.all_reduce, tensor)])

    def sum_at(self, tensor: Tensor, owner: int) -> Begun:
        """Begin to add a tensor of all ranks up at one of them. That of the others is then undefined."""
        if self._with_gpus:
            return self._begun(dist.reduce, tensor, dst=owner)
        # gloo's own `reduce` sends half as much again, and takes three times as long on a processor.
        self._n_sums += 1
        tag, place = self._n_sums % TAGS, self.place
        with self._lost("tensors have not arrived"):
            if place.rank != owner:
                return cast(Begun, dist.isend(tensor, dst=owner, tag=tag))
            parts = {rank: torch.empty_like(tensor) for rank in range(place.size) if rank != owner}
            works = [dist.irecv(part, src=rank, tag=tag) for rank, part in parts.items()]
        return _Sum(tensor, [cast(Begun, work) for work in works], list(parts.values()))

    def spread(self, tensor: Tensor, owner: int) -> Work:
        """Begin to replace a tensor by that of one rank."""
        return self._begun(dist.broadcast, tensor, src=owner)

    def wait(self, works: Iterable[Begun]) -> None:
        """Wait for all that was begun. On a GPU only its later work waits."""
        with self._lost("tensors have not arrived"):
            for work in works:
                work.wait()

    def settle(self) -> None:
        """Wait for all that is on its way."""
        arriving, self.arriving = self.arriving, []
        self.wait(arriving)

    def move(self, tensor: Tensor, source: int, target: int) -> None:
        """Copy a contiguous tensor of one rank to another; the other ranks have nothing to do."""
        with self._lost("a tensor has not arrived"):
            if source == target:
                return
            if self.place.rank == source:
                dist.send(tensor, dst=target)
            elif self.place.rank == target:
                dist.recv(tensor, src=source)

    def exchange(self, tensor: Tensor, here: list[int], there: list[int]) -> Tensor:
        """Send `here[r]` of the numbers of a flat tensor to each rank r, and return the `there[r]` that it sends."""
        received = tensor.new_empty(sum(there))
        with self._lost("tensors have not arrived"):
            dist.all_to_all_single(received, tensor, there, here)
        return received

    def _begun(self, collective: Callable[..., Any], tensor: Tensor, **ranks: int) -> Work:
        with self._lost("tensors have not arrived"):
            return cast(Work, collective(tensor, async_op=True, **ranks))

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
        with contextlib.suppress(dist.DistStoreError):  # one of them hangs, but the run is complete
            self._store.wait(["all ended"], timedelta(seconds=self.timeout))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """In the body, PyTorch exchanges tensors by itself, between computations that may fail for other reasons.

        Raises:
            RankLostError: an exchange has failed.
        """
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            with self._lost("tensors have not arrived"):
                raise

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
