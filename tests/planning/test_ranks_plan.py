"""The estimates for processes that train together: memory of each, bytes between them, and time lost to waiting."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from homespun.architectures.families import count_parameters
from homespun.architectures.lora import Lora, count_trained
from homespun.architectures.presets import preset, shaped
from homespun.config import TrainConfig
from homespun.engine import traits
from homespun.planning.estimate import Computing, training_memory
from homespun.planning.memory import chosen_ranks, memory_of_rank, ranks_here, step_memory
from homespun.planning.ranks import ALONE, Ranks, Traffic, exposed_seconds, traffic
from homespun.planning.recipe import plan
from homespun.planning.resolved import Plan

MODEL = shaped(preset("gpt2-small"), {"vocab_size": 8000, "seq_len": 256})
COMPUTING = Computing("adamw", traits.torch_on_cuda(True))


def planned(**settings: object) -> Plan:
    wanted = TrainConfig(model_size="gpt2-small", max_steps=10, batch_size=1, precision="float32")
    wanted = dataclasses.replace(wanted, **settings)  # type: ignore[arg-type]
    return plan(wanted, vocab_size=8000, n_samples=10_000, flops_per_second=1e12)


def machine(n_bytes: int, *, own: bool = True) -> Any:
    return SimpleNamespace(
        step_traits=lambda precision, seq_len: traits.torch_on_cuda(False),
        memory_capacity=lambda: n_bytes,
        has_own_memory=lambda: own,
    )


@pytest.mark.parametrize("lora", [None, Lora(8, 16.0)])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_more_ranks_need_less_memory_each(lora: Lora | None, optimizer: str) -> None:
    computing = dataclasses.replace(COMPUTING, optimizer=optimizer, lora=lora)
    alone = training_memory(MODEL, 1, computing)
    totals = [alone.total]
    for n in (2, 4, 8):
        whole, divided = (
            training_memory(MODEL, 1, dataclasses.replace(computing, ranks=Ranks(n, sharded=full)))
            for full in (False, True)
        )
        assert whole.moments == divided.moments == alone.moments // n
        assert (whole.weights, whole.gradients) == (alone.weights, alone.gradients)
        assert divided.weights == alone.weights // n
        assert divided.gathered == training_memory(MODEL, 1, dataclasses.replace(
            computing, ranks=Ranks(2, sharded=True))).gathered  # fmt: skip
        totals.append(divided.total)
    assert totals == sorted(totals, reverse=True)


def test_ranks_divide_a_model_that_does_not_fit_otherwise() -> None:
    whole = step_memory(planned(), machine(0), ranks=Ranks(4)).total
    assert not chosen_ranks(planned(), machine(whole), 4).sharded
    assert chosen_ranks(planned(), machine(whole - 1), 4).sharded
    assert not chosen_ranks(planned(shard="none"), machine(0), 4).sharded
    assert chosen_ranks(planned(shard="full"), machine(whole), 4).sharded
    assert not chosen_ranks(planned(shard="full"), machine(0), 1).sharded
    # Four processes of one machine share its memory, four GPUs do not.
    assert memory_of_rank(100, machine(100, own=False), Ranks(4, 4)) == 25
    assert memory_of_rank(100, machine(100), Ranks(4, 4)) == 100
    assert chosen_ranks(planned(), machine(2 * whole, own=False), 4, 4).sharded


def test_the_ranks_are_those_that_a_launcher_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert ranks_here(planned(), machine(0)) == ALONE
    for name, value in {"WORLD_SIZE": 4, "RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert ranks_here(planned(shard="none"), machine(0)) == Ranks(4, 2)


def test_a_rank_computes_no_more_sequences_than_its_share() -> None:
    eight = planned(batch_size=8, grad_accumulation_steps=1)
    four, one = (step_memory(eight, machine(0), ranks=Ranks(n)) for n in (2, 1))
    assert four.activations == pytest.approx(one.activations / 2, rel=0.01)
    assert Ranks(3).rows(8) == 3


def test_bytes_between_ranks() -> None:
    n_bytes = 4 * count_parameters(MODEL)
    assert traffic(MODEL, ALONE, 1, "adamw", half=True) == Traffic(0, 0)
    whole = traffic(MODEL, Ranks(4), 1, "adamw", half=True)
    assert whole == Traffic(round(0.75 * n_bytes), round(0.75 * n_bytes))
    assert traffic(MODEL, Ranks(4), 9, "muon", half=True) == whole
    divided = traffic(MODEL, Ranks(4, sharded=True), 1, "adamw", half=True)
    assert divided.gradients == whole.gradients
    assert whole.weights < divided.weights < 2 * whole.weights
    twice = traffic(MODEL, Ranks(4, sharded=True), 2, "adamw", half=True)
    assert twice.total == pytest.approx(2 * divided.total, abs=2)
    assert traffic(MODEL, Ranks(4, sharded=True), 1, "muon", half=True).weights > divided.weights
    lora = Lora(8, 16.0)
    adapters = traffic(MODEL, Ranks(4), 1, "adamw", lora, half=True)
    assert adapters.total == pytest.approx(2 * 0.75 * 4 * count_trained(MODEL, lora), abs=2)


def test_time_lost_to_waiting() -> None:
    whole, divided = Ranks(2), Ranks(2, sharded=True)
    sent = Traffic(60, 60)
    assert (
        exposed_seconds(sent, whole, 1, 90.0, 1.0) == 60.0
    )  # the sums hide behind the backward pass
    assert exposed_seconds(sent, whole, 2, 45.0, 1.0) == 90.0
    assert exposed_seconds(sent, divided, 1, 200.0, 1.0) == 0.0
    assert exposed_seconds(sent, divided, 1, 100.0, 1.0) == 20.0
