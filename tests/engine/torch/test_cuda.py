"""The decisions of the engine on CUDA, tested with a simulated device, so that no GPU is needed."""

from typing import Any

import numpy as np
import pytest
import torch

from homespun.config import ModelConfig
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.torch import machine, mixture
from homespun.engine.torch.engine import TorchEngine, TorchStep
from tests.reference import GPT2, QWEN3, random_batch

RATES = {"adamw": 1e-3, "muon": 1e-2}


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A GPU of 24 GB that computes in bfloat16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    properties = type("Properties", (), {"total_memory": 24 * 10**9})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 123)
    return monkeypatch


def test_a_gpu_is_taken_where_there_is_one(cuda: pytest.MonkeyPatch) -> None:
    assert machine.device() == torch.device("cuda")
    assert machine.device_name() == "Some GPU"
    assert machine.memory_capacity() == 24 * 10**9
    assert machine.peak_memory() == 123
    cuda.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.device() == torch.device("cpu")


def test_its_precision_is_bfloat16_where_that_is_not_emulated(cuda: pytest.MonkeyPatch) -> None:
    assert machine.computing_dtype("auto") == torch.bfloat16
    # Older cards emulate bfloat16, which is slower than float32.
    cuda.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert machine.computing_dtype("auto") == torch.float32
    assert machine.computing_dtype("bfloat16") == torch.bfloat16
    assert not machine.computes_in_half("auto")


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "expected"),
    [
        ("cuda", torch.bfloat16, (8, 0), True),
        ("cuda", torch.bfloat16, (12, 0), True),
        ("cuda", torch.bfloat16, (7, 5), False),
        ("cuda", torch.float32, (9, 0), False),
        ("cpu", torch.bfloat16, (9, 0), False),
    ],
)
def test_experts_are_multiplied_in_one_call_where_pytorch_has_it(
    cuda: pytest.MonkeyPatch,
    device: str,
    dtype: torch.dtype,
    capability: tuple[int, int],
    expected: bool,
) -> None:
    cuda.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert mixture.in_one_call(torch.device(device), dtype) is expected


def test_tokens_go_there_from_pinned_memory_and_nobody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[Any] = []

    class Sent:
        def pin_memory(self) -> "Sent":
            done.append("pinned")
            return self

        def to(self, where: torch.device, **how: bool) -> "Sent":
            done.append((where.type, how))
            return self

    monkeypatch.setattr(torch, "from_numpy", lambda array: Sent())
    machine.on_device(np.zeros(3, dtype=np.int32), torch.device("cuda"))
    assert done == ["pinned", ("cuda", {"non_blocking": True})]


def test_a_step_is_read_when_its_own_figures_have_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    class Arrival:
        there = waited = False

        def query(self) -> bool:
            return self.there

        def synchronize(self) -> None:
            self.waited = True

    arrival = Arrival()
    monkeypatch.setattr(machine, "to_host", lambda figures: (figures, arrival))
    step = TorchStep(torch.tensor([2.0, 3.0, 0.0]), None, max_grad_norm=1.0)
    assert not step.ready()
    arrival.there = True
    assert step.ready()
    assert not arrival.waited
    result = step.result()
    assert arrival.waited
    assert (result.loss, result.grad_norm, result.clipped, result.applied) == (2.0, 3.0, True, True)


def dispatch(config: ModelConfig, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dispatch a step on PyTorch's meta device, which has shapes but no values, so that reading a value fails."""
    monkeypatch.setattr(machine, "device", lambda: torch.device("meta"))
    monkeypatch.setattr(
        machine, "on_device", lambda array, where: torch.from_numpy(array).to(where)
    )
    monkeypatch.setattr(machine, "to_host", lambda figures: (figures, None))
    settings = OptimizerSettings(
        optimizer, weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0
    )
    options = EngineOptions(settings, "bfloat16", document_mark=1, seed=None, dropout=0.1)
    engine, batch = TorchEngine(config, options), random_batch(config)
    step = engine.train_step([batch, batch], RATES, 0)
    assert step.figures.is_meta


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
def test_no_step_waits_for_the_device(
    config: ModelConfig, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatch(config, optimizer, monkeypatch)


def test_a_step_that_would_wait_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.nn.utils.get_total_norm

    def read(tensors: Any) -> torch.Tensor:
        norm = original(tensors)
        assert norm.item() >= 0
        return norm

    monkeypatch.setattr(torch.nn.utils, "get_total_norm", read)
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
        dispatch(GPT2, "adamw", monkeypatch)
