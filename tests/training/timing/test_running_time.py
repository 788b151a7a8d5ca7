"""Seconds in which a process could run, on a fake clock that only the tests move."""

import os
import signal
import subprocess
import sys
import time

import pytest

from homespun.training.checkpointing.position import Position
from homespun.training.timing.clock import Clock
from homespun.training.timing.running_time import LONGEST_DELAY, LOOK_SECONDS, RunningTime


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the fake clock, as a list of one item. No thread looks at it."""
    now = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(RunningTime, "_look", lambda running: None)
    return now


def test_time_between_two_looks_that_are_far_apart_does_not_count(now: list[float]) -> None:
    with RunningTime() as running:
        began = running()
        for seconds in (LOOK_SECONDS, LOOK_SECONDS + LONGEST_DELAY, 3600.0, LOOK_SECONDS):
            now[0] += seconds
            running()
    assert running() - began == pytest.approx(4 * LOOK_SECONDS + LONGEST_DELAY)


def test_a_suspension_costs_no_time_budget_and_the_schedule_goes_on_where_it_was(
    now: list[float],
) -> None:
    with RunningTime() as running:
        clock = Clock(Position(), total_steps=None, time_budget=100.0, now=running)
        for _ in range(100):
            now[0] += 0.5
            clock.progress()
        assert clock.progress() == pytest.approx(0.5)
        now[0] += 7200.0
        assert clock.progress() == pytest.approx(0.5, abs=0.01)
        assert not clock.out_of_time()


SUSPENDED = """
import sys, time
from homespun.training.timing import running_time
running_time.LONGEST_DELAY = 0.5
running_time.LOOK_SECONDS = 0.05
with running_time.RunningTime() as running:
    began, system = running(), time.perf_counter()
    print("begun", flush=True)
    sys.stdin.readline()  # in one long call, as a step is
    print(time.perf_counter() - system - (running() - began))
"""


def test_a_process_that_is_really_stopped_notices_that() -> None:
    command = [sys.executable, "-c", SUSPENDED]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        stopped = time.monotonic()
        while time.monotonic() - stopped < 1.5:  # the suspension itself
            time.sleep(0.1)
        process.send_signal(signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.flush()
        assert float(process.stdout.read()) > 0.9
    assert process.returncode == 0


def test_a_suspension_does_not_spoil_the_time_that_is_left(now: list[float]) -> None:
    """A laptop sleeps for a night in the middle of a run of 1,000 steps."""
    with RunningTime() as running:
        position = Position()
        clock = Clock(position, total_steps=1000, time_budget=None, now=running)
        for _ in range(500):
            now[0] += 1.0
            position.step += 1
            clock.seconds_left()
        assert clock.seconds_left() == pytest.approx(500.0)
        now[0] += 8 * 3600.0
        position.step += 1
        assert clock.seconds_left() == pytest.approx(499.0, rel=0.01)
