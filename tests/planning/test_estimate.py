"""The estimates of memory and time: which settings they depend on."""

import dataclasses

import pytest

from homespun.architectures.families import count_parameters, flops_per_token, parameters
from homespun.architectures.lora import Lora, count_trained
from homespun.architectures.presets import PRESETS
from homespun.config import ModelConfig
from homespun.engine.base import LONGEST_IN_FULL
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
    # Only the activations and the mask of documents grow with the batch size.
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


@pytest.mark.parametrize("half", [False, True])
def test_adapters_alone_have_gradients_and_moments(half: bool) -> None:
    small = dataclasses.replace(PRESETS["gpt2-small"], seq_len=256)
    lora = Lora(8, 16.0)
    adapters = 4 * count_trained(small, lora)
    matrices = sum(p.size for p in parameters(small) if p.group == "matrix")
    whole = training_memory(small, 1, "adamw", half=half, checkpointing=False)
    ours = training_memory(small, 1, "adamw", half=half, checkpointing=False, lora=lora)
    assert adapters < whole.weights / 50
    assert (ours.gradients, ours.moments) == (adapters, 2 * adapters)
    # The matrices are kept in the precision of the computation alone.
    assert ours.weights == whole.weights + adapters - (2 * matrices if half else 0)
    assert ours.casts == 0
    assert (ours.activations, ours.mask) == (whole.activations, whole.mask)
    gradient = small.vocab_size * small.d_model * (4 + (2 if half else 4))
    assert ours.head == whole.head - gradient
    assert ours.total < whole.total / 2
    by_muon = training_memory(small, 1, "muon", half=half, checkpointing=False, lora=lora)
    assert by_muon == ours


@pytest.mark.parametrize(
    ("name", "optimizer", "half", "checkpointing", "expected"),
    [
        ("pico", "adamw", False, False, 853_105_152),
        ("mini", "muon", True, False, 1_862_794_240),
        ("gpt2-small", "adamw", True, True, 2_967_732_224),
        ("3b", "muon", True, True, 39_428_777_984),
    ],
)
def test_the_estimates_stay_as_they_were(
    name: str, optimizer: str, half: bool, checkpointing: bool, expected: int
) -> None:
    """The estimates were fitted to measurements (benchmarks/memory.py), so a change needs new measurements."""
    found = training_bytes(PRESETS[name], 16, optimizer, half=half, checkpointing=checkpointing)
    assert found == expected


def test_the_mask_of_documents_grows_with_the_square_of_the_context() -> None:
    long = dataclasses.replace(PRESETS["pico"], seq_len=32_768)
    memory = training_memory(long, 1, "adamw", half=False, checkpointing=False)
    assert memory.mask == 4 * 32_768**2
    assert training_memory(long, 2, "adamw", half=True, checkpointing=True).mask == memory.mask


def test_attention_weights_are_counted_where_they_are_kept() -> None:
    model = dataclasses.replace(PRESETS["mini"], seq_len=LONGEST_IN_FULL)

    def activations(model: ModelConfig, *, full_attention: bool) -> int:
        return training_memory(
            model, 1, "adamw", half=True, checkpointing=False, full_attention=full_attention
        ).activations

    kept, not_kept = (activations(model, full_attention=full) for full in (True, False))
    assert kept - not_kept == (model.n_layers + 1) * 2 * model.n_heads * LONGEST_IN_FULL**2
    longer = dataclasses.replace(model, seq_len=LONGEST_IN_FULL + 1)
    assert activations(longer, full_attention=True) == activations(longer, full_attention=False)


def test_time_is_work_by_the_speed_that_training_reaches() -> None:
    model = PRESETS["gpt2-small"]
    seconds = expected_seconds_per_step(model, 4096, flops_per_second=1e12)
    assert seconds == 4096 * flops_per_token(model) / (UTILISATION * 1e12)
    assert 4096 / seconds == expected_tokens_per_second(model, 1e12)
