"""The choice of the engine, its changes to the process, and the message when a framework is missing."""

import builtins
import importlib
import os
import platform
import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from homespun.config import ModelConfig, ReaderConfig, TrainConfig
from homespun.engine import select
from homespun.engine.base import EngineOptions
from homespun.engine.mlx import machine as mlx_machine
from homespun.engine.mlx.engine import MlxEngine
from homespun.engine.torch import machine as torch_machine
from homespun.engine.torch.engine import TorchEngine
from homespun.errors import UserError
from tests.reference import GPT2, QWEN3, random_batch, random_weights

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
        assert isinstance(select.reader(GPT2, ReaderConfig(engine=name)), other)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_a_framework_that_is_missing_is_a_line_that_says_how_to_get_it(
    name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = importlib.import_module("homespun.engine")
    for module in list(sys.modules):
        if module.startswith(f"homespun.engine.{name}"):
            monkeypatch.delitem(sys.modules, module)
    original = builtins.__import__

    def without(module: str, *others: Any) -> ModuleType:
        if module.partition(".")[0] == name:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return original(module, *others)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delattr(parent, name)
    for ask in (lambda: select.machine(name), lambda: select.create(GPT2, READS, name=name)):
        with pytest.raises(UserError, match=f"--engine {name} is not installed here: pip install"):
            ask()


def test_torch_does_not_pretend_to_train_in_float16() -> None:
    with pytest.raises(UserError, match="choose --precision bfloat16 or float32"):
        TorchEngine(GPT2, EngineOptions(precision="float16"))


LOADS = """
import os
from homespun.config import ReaderConfig, ModelConfig
from homespun.engine import select
from homespun.engine.base import EngineOptions

os.environ.pop("OMP_DYNAMIC", None)
os.environ["GOMP_SPINCOUNT"] = "7"
before = dict(os.environ)
config = ModelConfig("gpt2", 97, 24, 1, 32, 4, 4, 8, 128)
if {reads}:
    select.reader(config, ReaderConfig(engine="torch"))
else:
    select.create(config, EngineOptions(seed=None), name="torch")
changed = {{name: value for name, value in os.environ.items() if before.get(name) != value}}
assert not before.keys() - os.environ.keys()
for name in select.THREADING:
    print(name, changed.get(name))
"""


def loaded(*, reads: bool) -> dict[str, str]:
    """The thread settings in the environment of a new process after it has loaded a model."""
    environment = {n: v for n, v in os.environ.items() if n not in select.THREADING}
    done = subprocess.run(
        [sys.executable, "-c", LOADS.format(reads=reads)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


def test_loading_a_model_leaves_the_environment_as_it_was() -> None:
    assert loaded(reads=True) == dict.fromkeys(select.THREADING, "None")


def test_a_training_run_keeps_the_threads_settings_but_those_of_the_user() -> None:
    assert loaded(reads=False) == select.THREADING | {"GOMP_SPINCOUNT": "None"}


def test_a_framework_is_loaded_with_the_threads_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework reads these variables only once, while it is loaded."""
    for name in select.THREADING:
        monkeypatch.delenv(name, raising=False)
    seen: list[dict[str, str]] = []

    def watched(*_: object) -> None:
        seen.append({name: os.environ[name] for name in select.THREADING})

    monkeypatch.setattr(TorchEngine, "__init__", watched)
    select.reader(GPT2, ReaderConfig(engine="torch"))
    assert seen == [select.THREADING]
    assert not select.THREADING.keys() & os.environ.keys()


@pytest.mark.parametrize("name", ["numpy", "torch", "mlx"])
@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
def test_a_decoder_keeps_its_weights_when_others_are_loaded(name: Any, config: ModelConfig) -> None:
    reader = select.reader(config, ReaderConfig(engine=name, precision="float32", threads=1))
    tokens = random_batch(config).inputs[:, :5]
    reader.load(random_weights(config).items())
    decoder = reader.decoder(3, 10)
    before = decoder.prefill(tokens)
    reader.load(random_weights(config, seed=1).items())
    decoder.rewind(0)
    np.testing.assert_array_equal(decoder.prefill(tokens), before)
    assert not np.allclose(reader.decoder(3, 10).prefill(tokens), before)
