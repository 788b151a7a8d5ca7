"""Messages flow between this process and others, which work for it on other cores.

Python computes in one thread of a process at a time, so one process uses hardly more than one core. The others are
started anew, not forked, because a forked tokenizer can hang. A message is its length and then its bytes.
"""

import contextlib
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO, Self, cast

from homespun import child_process
from homespun.errors import UserError

ERROR = b"err "
"""Begins an answer that is a message for the user. Other answers begin with another word of four bytes, so that an
array behind it is aligned."""
_LENGTH = struct.Struct("<Q")


class Ended(UserError):
    """The other process has ended."""


def send(pipe: BinaryIO, *parts: bytes) -> None:
    """Send the parts, one after another, as one message.

    Raises:
        BrokenPipeError: the other process has ended.
    """
    pipe.write(_LENGTH.pack(sum(map(len, parts))))
    for part in parts:
        pipe.write(part)
    pipe.flush()


def receive(pipe: BinaryIO) -> bytes | None:
    """The next message, or None if the other process has ended."""
    packed = pipe.read(_LENGTH.size)
    if len(packed) < _LENGTH.size:
        return None
    [length] = _LENGTH.unpack(packed)
    message = pipe.read(length)
    return message if len(message) == length else None


class Worker:
    """Another process, and the pipes to and from it."""

    def __init__(self, module: str) -> None:
        try:
            self._process = subprocess.Popen(
                child_process.command(module),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # One thread of the tokenizer's library, and a session of its own, so that Ctrl-C reaches only us.
                env=child_process.environment() | {"RAYON_NUM_THREADS": "1"},
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(
                f"no further process can be started ({error.strerror}): use fewer --workers"
            ) from None
        self._to = cast(BinaryIO, self._process.stdin)
        self._back = cast(BinaryIO, self._process.stdout)

    def ask(self, *parts: bytes) -> None:
        """Send a message. If the process has ended, `answer` tells so."""
        with contextlib.suppress(BrokenPipeError):
            send(self._to, *parts)

    def answer(self) -> bytes:
        """Wait for the next answer.

        Raises:
            Ended: there will be none.
            UserError: the answer is an error.
        """
        answer = receive(self._back)
        if answer is None:
            status = self._process.wait()
            how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
            raise Ended(
                f"a process that helps has ended ({how}): run this again; finished files of tokens are kept; "
                "if memory is short, with fewer --workers"
            )
        if answer.startswith(ERROR):
            raise UserError(answer.removeprefix(ERROR).decode(errors="surrogateescape"))
        return answer

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        self._back.close()


class Workers:
    """Up to `n` processes that run a module, each started when it is needed. Leaving the block ends them."""

    def __init__(self, module: str, n: int, *greeting: bytes) -> None:
        """`greeting`: the first message to each of them, if there is one."""
        self._module, self._greeting = module, greeting
        self._started: list[Worker] = []
        self._is_over = False
        self._lock = threading.Lock()
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        for _ in range(n):
            self._idle.put(None)  # to be started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._is_over = True
            for worker in self._started:
                worker.stop()

    @contextlib.contextmanager
    def one(self) -> Iterator[Worker]:
        """A worker for this thread alone, as soon as one is free. If the block ends by an exception, the worker is
        stopped, because answers that nobody has read may be on the way.

        Raises:
            UserError: it cannot be started.
        """
        worker = self._idle.get()
        try:
            if worker is None:
                worker = self._start()
            yield worker
        except BaseException:
            if worker:
                worker.stop()
                worker = None
            raise
        finally:
            self._idle.put(worker)

    def _start(self) -> Worker:
        with self._lock:
            if self._is_over:  # this thread belongs to work that was given up
                raise Ended("the processes that help have been stopped")
            worker = Worker(self._module)
            self._started.append(worker)
        if self._greeting:
            worker.ask(*self._greeting)
        return worker


def send_error(pipe: BinaryIO, error: UserError) -> None:
    """Send an error as the answer. Raises the exceptions of `send`."""
    send(pipe, ERROR, str(error).encode(errors="surrogateescape"))


def work(serve: Callable[[BinaryIO, BinaryIO], None]) -> None:
    """Run a worker: `serve` reads messages and writes answers until there are no more. It ends with the process that
    started it, at the latest when it writes. Anything that a library prints goes to standard error."""
    with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        serve(sys.stdin.buffer, answers)
