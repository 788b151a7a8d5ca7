"""The doctor finds nothing wrong with an engine that is right, and says so of one that is not."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from homespun import doctor
from homespun.cli.main import main
from homespun.engine import select
from homespun.engine.base import Engine
from homespun.engine.torch.engine import TorchEngine
from homespun.named_array import NamedArray


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One architecture, one engine, and no time for speed."""
    monkeypatch.setattr(doctor, "SHAPES", {"gpt2": doctor.SHAPES["gpt2"]})
    monkeypatch.setattr(select, "available", lambda: ("torch",))
    monkeypatch.setattr(doctor, "_paces", lambda name: ["tiny: 1 tokens/s"])


def verdicts(output: str) -> dict[str, str]:
    """PASS or FAIL of each check, by what is checked."""
    found = re.findall(r"^(PASS|FAIL)  \S+(?: and \S+)?, gpt2: (.*?)  ", output, re.MULTILINE)
    return {what: verdict for verdict, what in found}


def examined(capsys: pytest.CaptureFixture[str], status: int) -> str:
    assert main(["doctor", "--engine"]) == status
    return capsys.readouterr().out


def test_engines_that_are_right_pass(
    small: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "available", lambda: ("torch", "mlx"))
    output = examined(capsys, status=0)
    assert set(verdicts(output).values()) == {"PASS"}
    assert output.count("torch and mlx, gpt2:") == 3
    assert "tiny: 1 tokens/s" in output
    assert output.rstrip().endswith("checks.")
    assert "FAIL" not in output


def a_little_more(method: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*arguments: Any) -> Any:
        return 1.001 * method(*arguments)

    return wrong


def one_turned(method: Callable[..., Iterator[NamedArray]]) -> Callable[..., Iterator[NamedArray]]:
    def wrong(*arguments: Any) -> Iterator[NamedArray]:
        for name, gradient in method(*arguments):
            yield name, np.roll(gradient, name == "transformer.h.0.ln_1.weight")

    return wrong


def too_far(method: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: Engine, batches: Any, lr: dict[str, float], step: int) -> Any:
        return method(self, batches, {name: 1.01 * rate for name, rate in lr.items()}, step)

    return wrong


def broken(method: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*arguments: Any) -> Any:
        raise RuntimeError("no such kernel\nmore")

    return wrong


@pytest.mark.parametrize(
    ("method", "sabotage", "complaint"),
    [
        ("logits", a_little_more, "logits"),
        ("gradients", one_turned, "gradients, by differences of losses"),
        ("train_step", too_far, "10 steps of adamw"),
        ("train_step", too_far, "10 steps of muon"),
        ("loss", broken, "RuntimeError: no such kernel"),
    ],
)
def test_one_that_is_not_fails(
    small: None,
    method: str,
    sabotage: Callable[[Any], Any],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TorchEngine, method, sabotage(getattr(TorchEngine, method)))
    output = examined(capsys, status=1)
    assert verdicts(output)[complaint] == "FAIL"
    assert "\nFAIL: " in output


def test_two_engines_that_differ_fail(
    small: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = select.create

    def create(config: Any, options: Any, *, name: str) -> Engine:
        made = original(config, options)
        if name == "other":
            made.gradients = one_turned(made.gradients)  # type: ignore[method-assign]
        return made

    monkeypatch.setattr(select, "create", create)
    monkeypatch.setattr(select, "available", lambda: ("torch", "other"))
    assert verdicts(examined(capsys, status=1))["gradients, 1 - cosine"] == "FAIL"


def test_speed_and_memory_of_what_the_machine_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    tiniest = doctor.SHAPES["gpt2"]
    monkeypatch.setattr(doctor, "preset", lambda name: tiniest)
    monkeypatch.setattr(doctor, "shaped", lambda base, shape: tiniest)
    line, other = doctor._paces("torch")
    assert re.search(r"^2 x 32, .*: [\d,]+ tokens/s, .* s a step, peak \d\.\d GB \(torch ", line)
    assert re.search(r"32 x 24 tokens a step: [\d,]+ tokens/s", other)
    monkeypatch.setattr(doctor, "LONGEST_STEP", 0.0)
    assert "left out" in list(doctor._paces("torch"))[1]


def test_the_command_says_what_it_can_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 2
    assert "homespun doctor --engine" in capsys.readouterr().err
