"""Loading a model for reading does not change the settings of the process."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from homespun import child_process
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.torch import machine
from homespun.engine.torch.engine import TorchEngine
from tests.reference import QWEN3, random_batch

SETTINGS = OptimizerSettings("adamw", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0)


@pytest.fixture
def malloc_settings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    changed: list[str] = []
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: changed.append("malloc"))
    return changed


def test_a_reader_computes_with_its_threads_and_gives_them_back(
    malloc_settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    original = torch.nn.functional.silu
    monkeypatch.setattr(
        torch.nn.functional,
        "silu",
        lambda x: [used.append(torch.get_num_threads()), original(x)][1],
    )
    torch.set_num_threads(3)
    reader = TorchEngine(QWEN3, EngineOptions(precision="float32", threads=1))
    batch = random_batch(QWEN3)
    assert reader.facts["threads"] == "1"
    reader.loss(batch)
    reader.logits(batch.inputs)
    decoder = reader.decoder(3, 20)
    decoder.prefill(batch.inputs[:, :5], [5, 3, 4])
    decoder.step(batch.inputs[:, 5])
    assert set(used) == {1}
    assert torch.get_num_threads() == 3
    assert not malloc_settings


def test_a_failed_call_gives_its_threads_back() -> None:
    torch.set_num_threads(3)
    reader = TorchEngine(QWEN3, EngineOptions(precision="float32", threads=1))
    with pytest.raises(IndexError):
        reader.logits(np.array([[QWEN3.vocab_size]], dtype=np.int32))
    assert torch.get_num_threads() == 3


def test_a_training_engine_sets_the_process_up(malloc_settings: list[str]) -> None:
    torch.set_num_threads(3)
    TorchEngine(QWEN3, EngineOptions(SETTINGS, "float32", threads=1))
    assert torch.get_num_threads() == 1
    assert malloc_settings == ["malloc"]


RESIDENT = """
import sys
import torch
from homespun.engine.torch import machine

def resident():
    return 4096 * int(open("/proc/self/statm").read().split()[1])

getattr(machine, sys.argv[1])()
before = resident()
pairs = [(torch.ones(2**22), torch.ones(2**14)) for _ in range(8)]
small = [pair[1] for pair in pairs]
del pairs
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are those of glibc")
@pytest.mark.parametrize(
    ("setting", "least", "most"),
    [("keep_freed_memory", 2**26, 2**28), ("return_freed_memory", 0, 2**23)],
)
def test_large_blocks_are_kept_or_returned(setting: str, least: int, most: int) -> None:
    """Eight of 16 MiB among small ones that stay."""
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, setting],
        env=child_process.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert least <= int(done.stdout) <= most


def test_a_new_model_draws_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    TorchEngine(QWEN3, EngineOptions(precision="float32", threads=2))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("wanted", "used"), [(1, 1), (None, 2)])
def test_the_speed_is_measured_with_the_threads_of_the_run(
    wanted: int | None, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emulated product takes a long time, so the clock ends the measurement."""
    monkeypatch.setattr(machine.hardware, "usable_cpus", lambda: 2)
    threads: list[int] = []
    original = torch.nn.functional.rms_norm

    def rms_norm(x: torch.Tensor, shape: tuple[int]) -> torch.Tensor:
        threads.append(torch.get_num_threads())
        return original(x, shape)

    monkeypatch.setattr(torch.nn.functional, "rms_norm", rms_norm)
    ticks = iter(range(1000))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: 0.1 * next(ticks))
    torch.set_num_threads(3)
    assert machine.flops_per_second("float32", wanted) > 0
    assert threads == [used] * 2
    assert torch.get_num_threads() == 3
