"""Pieces of all texts are handed out together, except for those that someone waits for. No real time passes."""

from collections.abc import Callable
from typing import Any

import pytest

from homespun.server.writing import HANDING_OUT_SECONDS, Outbox


class Loop:
    """An event loop that runs what it was told to when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.is_closed = False
        self.n_woken = 0
        self._calls: list[tuple[float, Callable[..., object], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_soon_threadsafe(self, call: Callable[..., object], *values: Any) -> None:
        if self.is_closed:
            raise RuntimeError("the loop is closed")
        self.n_woken += 1
        self._calls.append((self.now, call, values))

    def call_at(self, when: float, call: Callable[..., object]) -> object:
        self._calls.append((when, call, ()))
        return object()

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass."""
        self.now += seconds
        while due := [one for one in self._calls if one[0] <= self.now]:
            self._calls.remove(due[0])
            due[0][1](*due[0][2])


class Reader:
    """Someone who waits for pieces."""

    def __init__(self) -> None:
        self.n_woken = 0
        self.is_cancelled = False

    @property
    def arrived(self) -> "Reader":
        return self

    def set(self) -> None:
        self.n_woken += 1

    def cancel(self) -> None:
        self.is_cancelled = True


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def outbox(loop: Loop) -> Any:
    outbox: Any = Outbox()
    outbox.use(loop)
    return outbox


def woken(readers: list[Reader]) -> set[int]:
    return {reader.n_woken for reader in readers}


def test_a_step_of_many_texts_wakes_the_loop_once(outbox: Any, loop: Loop) -> None:
    readers = [Reader() for _ in range(16)]
    for reader in readers:
        outbox.put_urgent(reader)
    outbox.send()
    loop.run()
    assert woken(readers) == {1}
    assert loop.n_woken == 1
    for reader in readers:
        outbox.put(reader)
    for _ in range(3):
        outbox.send()
    loop.run(0.9 * HANDING_OUT_SECONDS)
    assert woken(readers) == {1}
    assert loop.n_woken == 2
    loop.run(0.2 * HANDING_OUT_SECONDS)
    assert woken(readers) == {2}
    assert loop.n_woken == 2
    outbox.put(readers[0])
    outbox.send()
    loop.run(0.9 * HANDING_OUT_SECONDS)
    assert readers[0].n_woken == 2
    loop.run(0.2 * HANDING_OUT_SECONDS)
    assert readers[0].n_woken == 3


def test_texts_that_begin_and_end_do_not_delay_the_others(outbox: Any, loop: Loop) -> None:
    waiting, others = Reader(), Reader()
    outbox.put_urgent(others)
    outbox.send()
    loop.run()
    outbox.put(waiting)
    for n in range(20):
        outbox.put_urgent(others)
        outbox.send()
        loop.run(HANDING_OUT_SECONDS / 10)
        assert others.n_woken == n + 2
        if n < 8:
            assert not waiting.n_woken
    assert waiting.n_woken == 1


def test_what_comes_while_others_are_handed_out_is_not_lost(outbox: Any, loop: Loop) -> None:
    late = Reader()

    class Slow(Reader):
        def set(self) -> None:
            outbox.put(late)
            outbox.send()

    outbox.put(Slow())
    outbox.send()
    loop.run()
    loop.run(2 * HANDING_OUT_SECONDS)
    assert late.n_woken


def test_a_step_without_pieces_wakes_nobody(outbox: Any, loop: Loop) -> None:
    outbox.send()
    Outbox().send()
    assert loop.n_woken == 0


def test_texts_end_with_their_loop_and_another_loop_takes_new_ones(outbox: Any, loop: Loop) -> None:
    outbox.put(Reader())
    outbox.send()
    loop.is_closed = True
    urgent, waiting = Reader(), Reader()
    outbox.put_urgent(urgent)
    outbox.put(waiting)
    outbox.send()
    assert urgent.is_cancelled
    assert waiting.is_cancelled
    second, reader = Loop(), Reader()
    outbox.use(second)
    outbox.put(reader)
    outbox.send()
    second.run()
    assert reader.n_woken == 1
