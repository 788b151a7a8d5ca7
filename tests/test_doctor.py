"""The doctor passes engines that compute correctly and fails those that do not."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from homespun import doctor
from homespun.architectures.base import Family
from homespun.architectures.families import FAMILIES, model_config
from homespun.cli.main import main
from homespun.engine import select
from homespun.engine.base import Engine
from homespun.engine.torch.engine import TorchEngine
from homespun.errors import UserError
from homespun.named_array import NamedArray


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One family, one engine, and no measurement of speed."""
    monkeypatch.setattr(doctor, "FAMILIES", {"gpt2": FAMILIES["gpt2"]})
    monkeypatch.setattr(select, "available", lambda: ("torch",))
    monkeypatch.setattr(doctor, "training_speed", lambda name: ["tiny: 1 tokens/s"])


def verdicts(output: str) -> dict[str, str]:
    """PASS or FAIL of each check, by the check's name."""
    found = re.findall(r"^(PASS|FAIL)  \S+(?: and \S+)?, gpt2: (.*?)  ", output, re.MULTILINE)
    return {what: verdict for verdict, what in found}


def examined(capsys: pytest.CaptureFixture[str], status: int) -> str:
    assert main(["doctor", "--engine"]) == status
    return capsys.readouterr().out


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_family_is_checked_with_shared_keys_where_it_has_them(family: Family) -> None:
    config = doctor.tiny_model(family)
    assert config.architecture == family.name
    assert model_config(dataclasses.asdict(config)) == config
    grouped = dataclasses.asdict(config) | {"n_kv_heads": config.n_heads // 2}
    if family.has_grouped_heads:
        assert model_config(grouped) == config
    else:
        with pytest.raises(UserError, match="key/value heads"):
            model_config(grouped)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_right_gradients_pass_in_every_family(family: Family) -> None:
    """Also where a weight that moves too far would give tokens other experts."""
    checks = doctor._against_numpy("torch", doctor.tiny_model(family))
    found = {check.name: check for check in itertools.islice(checks, 3)}
    assert found["gradients, by differences of losses"].passed


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
    tiny = doctor.tiny_model(FAMILIES["gpt2"])
    monkeypatch.setattr(doctor, "preset", lambda name: tiny)
    monkeypatch.setattr(doctor, "shaped", lambda base, shape: tiny)
    line, other = doctor.training_speed("torch")
    assert re.search(r"^2 x 32, .*: [\d,]+ tokens/s, .* s a step, peak \d\.\d GB \(torch ", line)
    assert re.search(r"32 x 24 tokens a step: [\d,]+ tokens/s", other)
    monkeypatch.setattr(doctor, "MAX_STEP_SECONDS", 0.0)
    assert "left out" in list(doctor.training_speed("torch"))[1]


@pytest.mark.parametrize("flags", [[], ["--engine"]])
def test_the_only_check_runs_with_and_without_its_flag(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(doctor, "examine_engines", lambda say: not asked.append(say))
    assert main(["doctor", *flags]) == 0
    assert len(asked) == 1
