"""The estimates of memory and time: which settings they depend on."""

import dataclasses

import pytest

from homespun.architectures.families import count_parameters, flops_per_token, parameters
from homespun.architectures.presets import PRESETS
from homespun.planning.estimate import (
    UTILISATION,
    expected_seconds_per_step,
    expected_tokens_per_second,
    training_bytes,
    training_memory,
)


def test_memory_holds_weights_gradients_and_moments_and_grows_with_the_batch() -> None:
    small = dataclasses.replace(PRESETS["gpt2-small"], seq_len=512)
    weights = count_parameters(small)
    matrices = sum(p.size for p in parameters(small) if p.group == "matrix")

    def needed(batch_size: int, optimizer: str = "adamw", **options: bool) -> int:
        settings = {"half": False, "checkpointing": False} | options
        return training_bytes(small, batch_size, optimizer, **settings)

    assert needed(1) > 16 * weights
    assert needed(1) < needed(2) < needed(16)
    # Only the activations grow with the batch size.
    assert needed(16) - needed(8) == 2 * (needed(8) - needed(4))
    assert needed(8) - needed(8, "muon") == 4 * matrices
    assert needed(16, half=True) < needed(16)
    assert needed(16, checkpointing=True) < needed(16) / 2


def test_each_part_of_the_memory_depends_on_its_own_settings() -> None:
    small = dataclasses.replace(PRESETS["small"], seq_len=512)
    weights = 4 * count_parameters(small)
    plain = training_memory(small, 8, "adamw", half=False, checkpointing=False)
    assert (plain.weights, plain.gradients, plain.moments) == (weights, weights, 2 * weights)
    assert plain.casts == 0
    half = training_memory(small, 8, "adamw", half=True, checkpointing=False)
    matrices = sum(p.size for p in parameters(small) if p.group == "matrix")
    assert half.casts == 2 * matrices
    assert half.activations < plain.activations
    by_muon = training_memory(small, 8, "muon", half=False, checkpointing=False)
    less = plain.moments - by_muon.moments
    assert dataclasses.replace(by_muon, moments=plain.moments) == plain
    assert less == 4 * matrices
    recomputed = training_memory(small, 8, "adamw", half=False, checkpointing=True)
    assert recomputed.activations < plain.activations
    assert dataclasses.replace(recomputed, activations=plain.activations) == plain
    parts = dataclasses.asdict(plain)
    assert (
        plain.total
        == sum(parts.values())
        == training_bytes(small, 8, "adamw", half=False, checkpointing=False)
    )


@pytest.mark.parametrize(
    ("name", "optimizer", "half", "checkpointing", "expected"),
    [
        ("pico", "adamw", False, False, 848_910_848),
        ("mini", "muon", True, False, 1_860_697_088),
        ("gpt2-small", "adamw", True, True, 2_965_635_072),
        ("3b", "muon", True, True, 39_426_680_832),
    ],
)
def test_the_estimates_stay_as_they_were(
    name: str, optimizer: str, half: bool, checkpointing: bool, expected: int
) -> None:
    """The estimates were fitted to measurements (benchmarks/memory.py), so a change needs new measurements."""
    found = training_bytes(PRESETS[name], 16, optimizer, half=half, checkpointing=checkpointing)
    assert found == expected


def test_time_is_work_by_the_speed_that_training_reaches() -> None:
    model = PRESETS["gpt2-small"]
    seconds = expected_seconds_per_step(model, 4096, flops_per_second=1e12)
    assert seconds == 4096 * flops_per_token(model) / (UTILISATION * 1e12)
    assert 4096 / seconds == expected_tokens_per_second(model, 1e12)
