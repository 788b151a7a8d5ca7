"""The signals that stop a run, and the messages to the sender."""

import os
import signal
from collections.abc import Iterator

import pytest

from homespun.training.interrupts import Interrupts, StoppedInSetUp


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    return statuses


@pytest.fixture(autouse=True)
def hang_up() -> Iterator[None]:
    """The default handler of SIGHUP, as in a terminal, even if the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_at_once_and_says_so(
    number: signal.Signals, exits: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    with Interrupts() as interrupts:
        interrupts.steps_begun = True
        signal.raise_signal(number)
        assert (interrupts.stopped_by, exits) == (number, [])
        signal.raise_signal(number)
    assert exits == [128 + number]
    first, second = capfd.readouterr().err.splitlines()
    assert "Press Ctrl-C again" in first
    assert second == "Stopped without saving. Steps after the last checkpoint are lost."


def test_a_terminal_that_is_closed_never_ends_a_run_at_once(exits: list[int]) -> None:
    with Interrupts() as interrupts:
        interrupts.steps_begun = True
        interrupts.output_lost("Input/output error")
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    assert (interrupts.stopped_by, exits) == (signal.SIGPIPE, [])


def test_a_run_under_nohup_goes_on() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupts() as interrupts:
        interrupts.steps_begun = True
        signal.raise_signal(signal.SIGHUP)
    assert interrupts.stopped_by is None


def test_handlers_are_given_back(exits: list[int]) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with Interrupts():
        assert all(
            signal.getsignal(number) != handler
            for number, handler in zip(numbers, before, strict=True)
        )
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_before_the_first_step_a_signal_ends_the_run_at_once(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupts = Interrupts()
    with pytest.raises(StoppedInSetUp) as stopped, interrupts:
        signal.raise_signal(number)
    assert (stopped.value.number, interrupts.stopped_by) == (number, number)
    assert capfd.readouterr().err == "Stopped before the first step.\n"


def test_before_the_first_step_a_wish_to_save_is_remembered() -> None:
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGUSR1)
    assert interrupts.save_wanted
