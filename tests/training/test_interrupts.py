"""The signals that stop a run, and the messages to the sender."""

import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    with Interrupts(quits=True) as interrupts:
        interrupts.steps_begun = True
        signal.raise_signal(number)
        assert (interrupts.stopped_by, exits) == (number, [])
        signal.raise_signal(number)
    assert exits == [128 + number]
    first, second = capfd.readouterr().err.splitlines()
    assert "Press Ctrl-C again" in first
    assert second == "Stopped without saving. Steps after the last checkpoint are lost."


def test_in_a_program_the_second_signal_gets_the_handler_of_the_program(exits: list[int]) -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
    try:
        with Interrupts() as interrupts:
            interrupts.steps_begun = True
            signal.raise_signal(signal.SIGINT)
            assert interrupts.stopped_by == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (calls, exits) == ([signal.SIGTERM], [])


class Broken:
    """A stream that fails in every way."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


@pytest.mark.parametrize("stream", [None, Broken(), io.StringIO()], ids=["none", "broken", "text"])
def test_a_signal_is_obeyed_without_standard_streams(
    stream: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is written to descriptors that belong to other files."""
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    kept = os.dup(2)
    with (tmp_path / "weights").open("wb") as weights:
        os.dup2(weights.fileno(), 2)
        try:
            with Interrupts() as interrupts:
                interrupts.steps_begun = True
                signal.raise_signal(signal.SIGTERM)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    assert interrupts.stopped_by == signal.SIGTERM
    assert (tmp_path / "weights").read_bytes() == b""
    if isinstance(stream, io.StringIO):
        assert "Finishing this step" in stream.getvalue()


def test_a_terminal_that_is_closed_never_ends_a_run_at_once(exits: list[int]) -> None:
    with Interrupts(quits=True) as interrupts:
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


def test_where_a_panel_is_in_the_way_it_shows_the_message(
    exits: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    with Interrupts(quits=True) as interrupts:
        interrupts.show = lambda message: not shown.append(message)  # type: ignore[func-returns-value]
        interrupts.steps_begun = True
        signal.raise_signal(signal.SIGINT)
        assert capfd.readouterr().err == ""
        signal.raise_signal(signal.SIGINT)  # quits at once, so it writes itself
    assert shown == ["Finishing this step and saving. Press Ctrl-C again to quit now."]
    assert capfd.readouterr().err.startswith("Stopped without saving.")
