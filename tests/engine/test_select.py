"""Which engine is taken, and what is said where it is not there."""

import builtins
import importlib
import platform
import sys
from types import ModuleType
from typing import Any

import pytest

from homespun.config import LoadConfig, TrainConfig
from homespun.engine import select
from homespun.engine.base import EngineOptions
from homespun.engine.mlx import machine as mlx_machine
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.torch import machine as torch_machine
from homespun.engine.torch.engine import TorchEngine
from homespun.errors import UserError
from tests.reference import GPT2

READS = EngineOptions(seed=None)


@pytest.mark.parametrize(
    ("system", "processor", "chosen"),
    [
        ("Darwin", "arm64", "mlx"),
        ("Darwin", "x86_64", "torch"),
        ("Linux", "x86_64", "torch"),
        ("Linux", "aarch64", "torch"),
    ],
)
def test_auto_is_mlx_on_apple_silicon_alone(
    system: str, processor: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: processor)
    assert TrainConfig().engine == "auto"
    engines = {"mlx": (MlxEngine, mlx_machine), "torch": (TorchEngine, torch_machine)}
    kind, machine = engines[chosen]
    assert isinstance(select.create(GPT2, READS), kind)
    assert select.machine() is machine
    for name, (other, its_machine) in engines.items():
        assert isinstance(select.create(GPT2, READS, name=name), other)  # type: ignore[arg-type]
        assert select.machine(name) is its_machine  # type: ignore[arg-type]
        assert isinstance(select.reader(GPT2, LoadConfig(engine=name)), other)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_a_framework_that_is_missing_is_a_line_that_says_how_to_get_it(
    name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in list(sys.modules):
        if module.startswith(f"homespun.engine.{name}_engine"):
            monkeypatch.delitem(sys.modules, module)
    original = builtins.__import__

    def without(module: str, *others: Any) -> ModuleType:
        if module.partition(".")[0] == name:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return original(module, *others)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delattr(importlib.import_module("homespun.engine"), f"{name}_engine")
    for ask in (lambda: select.machine(name), lambda: select.create(GPT2, READS, name=name)):
        with pytest.raises(UserError, match=f"--engine {name} is not installed here: pip install"):
            ask()


def test_torch_does_not_pretend_to_train_in_float16() -> None:
    with pytest.raises(UserError, match="choose --precision bfloat16 or float32"):
        TorchEngine(GPT2, EngineOptions(precision="float16"))
