"""The estimates of memory and time: which settings they depend on."""

import dataclasses

import pytest

from homespun.architectures.families import (
    count_parameters,
    family,
    flops_per_token,
    parameters,
)
from homespun.architectures.lora import Lora, count_trained
from homespun.architectures.presets import PRESETS, shaped
from homespun.engine import traits
from homespun.engine.muon import MAX_STACK_SIZE
from homespun.engine.traits import LONGEST_IN_FULL
from homespun.planning.estimate import (
    UTILISATION,
    Computing,
    expected_seconds_per_step,
    expected_tokens_per_second,
    training_memory,
)

FLOAT32 = Computing("adamw", traits.torch_on_cpu(False, 256))
HALF = Computing("adamw", traits.torch_on_cpu(True, 256))


def test_memory_holds_weights_gradients_and_moments_and_grows_with_the_batch() -> None:
    small = dataclasses.replace(PRESETS["gpt2-small"], seq_len=512)
    weights = count_parameters(small)
    matrices = sum(p.size for p in parameters(small) if p.group == "matrix")

    def needed(batch_size: int, computing: Computing = FLOAT32) -> int:
        return training_memory(small, batch_size, computing).total

    assert needed(1) > 16 * weights
    assert needed(1) < needed(2) < needed(16)
    # Only the activations and the mask of documents grow with the batch size, but for rounding.
    assert abs(needed(16) - needed(8) - 2 * (needed(8) - needed(4))) <= 4
    assert needed(8) - needed(8, dataclasses.replace(FLOAT32, optimizer="muon")) == 4 * matrices
    assert needed(16, HALF) < needed(16)
    assert needed(16, dataclasses.replace(FLOAT32, checkpointing=True)) < 0.6 * needed(16)


def test_each_part_of_the_memory_depends_on_its_own_settings() -> None:
    small = dataclasses.replace(PRESETS["small"], seq_len=512)
    weights = 4 * count_parameters(small)
    plain = training_memory(small, 8, FLOAT32)
    assert (plain.weights, plain.gradients, plain.moments) == (weights, weights, 2 * weights)
    assert plain.casts == 0
    half = training_memory(small, 8, HALF)
    matrices = sum(p.size for p in parameters(small) if p.group == "matrix")
    assert half.casts == 2 * matrices
    assert half.activations < plain.activations
    by_muon = training_memory(small, 8, dataclasses.replace(FLOAT32, optimizer="muon"))
    less = plain.moments - by_muon.moments
    assert dataclasses.replace(by_muon, moments=plain.moments) == plain
    assert less == 4 * matrices
    recomputed = training_memory(small, 8, dataclasses.replace(FLOAT32, checkpointing=True))
    assert recomputed.activations < plain.activations
    assert dataclasses.replace(recomputed, activations=plain.activations) == plain
    assert plain.total == sum(dataclasses.asdict(plain).values())


def test_muon_updates_the_experts_of_a_block_together_however_large() -> None:
    mixture = shaped(PRESETS["small"], {"experts": 256, "seq_len": 16})
    largest = max(p.size for p in parameters(mixture) if p.group == "matrix")
    assert largest > MAX_STACK_SIZE
    found = training_memory(mixture, 0, dataclasses.replace(FLOAT32, optimizer="muon"))
    assert found.update + found.logits == FLOAT32.traits.muon_bytes * largest


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_low_memory_keeps_matrices_and_embeddings_in_16_bits(optimizer: str) -> None:
    small = dataclasses.replace(PRESETS["gpt2-small"], seq_len=256)
    full = dataclasses.replace(HALF, optimizer=optimizer, checkpointing=True)
    low = dataclasses.replace(full, low_memory=True)
    before, after = (training_memory(small, 1, computing) for computing in (full, low))
    vectors = sum(p.size for p in parameters(small) if p.group == "vector")
    narrow = count_parameters(small) - vectors
    assert after.weights == after.gradients == 2 * narrow + 4 * vectors
    assert 2 * narrow + 8 * vectors < after.moments < 2.02 * narrow + 8 * vectors
    assert after.activations == before.activations
    assert after.total < before.total * 0.6
    adapters = dataclasses.replace(full, lora=Lora(8, 16.0))
    of_adapters = dataclasses.replace(adapters, low_memory=True)
    assert training_memory(small, 1, of_adapters) == training_memory(small, 1, adapters)


@pytest.mark.parametrize("lora", [None, Lora(8, 16.0)])
def test_means_of_the_weights_take_as_much_as_the_trained_weights(lora: Lora | None) -> None:
    model = dataclasses.replace(PRESETS["mini"], seq_len=128)
    plain = dataclasses.replace(FLOAT32, lora=lora)
    means = dataclasses.replace(plain, averaging=True)
    before, after = (training_memory(model, 2, computing) for computing in (plain, means))
    assert after.total - before.total == 4 * count_trained(model, lora)


@pytest.mark.parametrize("half", [False, True])
def test_a_run_with_a_reward_holds_the_initial_model_and_writes_answers(half: bool) -> None:
    model = dataclasses.replace(PRESETS["mini"], seq_len=128)
    plain = Computing("adamw", traits.torch_on_cuda(half))
    with_reward = dataclasses.replace(plain, has_reference=True, writes_answers=True)
    before, after = (training_memory(model, 8, computing) for computing in (plain, with_reward))
    # Answers are written while the gradients and all of the backward pass are not there yet: nothing is added here.
    assert dataclasses.replace(after, initial_model=0) == before
    assert after.initial_model == 4 * count_parameters(model)
    assert after.total == before.total + after.initial_model

    # On a CPU, training finds only a part of the memory in which they were written.
    on_cpu = dataclasses.replace(with_reward, traits=traits.torch_on_cpu(half, 128))
    short, usual = (
        training_memory(dataclasses.replace(model, seq_len=n), 8, on_cpu) for n in (64, 128)
    )
    assert 0 < short.answers < usual.answers < usual.activations

    # Adapters have small gradients, and one short row has small activations.
    lora = dataclasses.replace(plain, lora=Lora(4, 8.0))
    long = dataclasses.replace(model, seq_len=2048)
    alone = training_memory(long, 0, lora)
    written = training_memory(long, 0, dataclasses.replace(lora, writes_answers=True))
    number_bytes = 2 if half else 4
    channels = long.n_layers * long.n_kv_heads * long.head_dim
    keys_and_values = 17 * 2048 * 2 * channels  # of 16 answers, and of the prompt that they copy
    kept = family(long.architecture).activations(long)
    reading = 16 * 2048 * (4 * kept.float32 + number_bytes * kept.computed)
    needed = number_bytes * (count_parameters(long) + keys_and_values) + reading
    of_training = alone.total - alone.weights - alone.moments
    assert written.answers == needed - of_training > 0
    assert dataclasses.replace(written, answers=0) == alone


@pytest.mark.parametrize("half", [False, True])
def test_adapters_alone_have_gradients_and_moments(half: bool) -> None:
    small = dataclasses.replace(PRESETS["gpt2-small"], seq_len=256)
    lora = Lora(8, 16.0)
    adapters = 4 * count_trained(small, lora)
    matrices = sum(p.size for p in parameters(small) if p.group == "matrix")
    computing = Computing("adamw", traits.torch_on_cpu(half, 256))
    whole = training_memory(small, 1, computing)
    ours = training_memory(small, 1, dataclasses.replace(computing, lora=lora))
    assert adapters < whole.weights / 50
    assert (ours.gradients, ours.moments) == (adapters, 2 * adapters)
    # The matrices are kept in the precision of the computation alone.
    assert ours.weights == whole.weights + adapters - (2 * matrices if half else 0)
    assert ours.casts == 0
    # Gradients do not come into the place of activations, so more memory lies in pieces.
    assert ours.activations > whole.activations
    assert ours.mask == whole.mask
    gradient = small.vocab_size * small.d_model * (2 if half else 4)
    assert ours.logits == whole.logits - gradient
    assert ours.total < whole.total / 2
    by_muon = training_memory(small, 1, dataclasses.replace(computing, optimizer="muon", lora=lora))
    assert by_muon == ours


@pytest.mark.parametrize(
    ("name", "vocab_size", "seq_len", "batch_size", "computing", "measured"),
    [
        ("mini", 4096, 256, 8, Computing("muon", traits.torch_on_cpu(True, 256)), 594.7),
        ("mini", 4096, 256, 4, Computing("muon", traits.torch_on_cpu(True, 256)), 411.0),
        (
            "mini",
            4096,
            256,
            16,
            Computing("muon", traits.torch_on_cpu(True, 256), masked=False),
            961.8,
        ),
        ("mini", 4096, 1024, 4, Computing("muon", traits.torch_on_cpu(True, 1024)), 958.0),
        ("mini", 4096, 1024, 16, Computing("muon", traits.torch_on_cpu(True, 1024)), 3300.9),
        ("mini", 4096, 256, 4, Computing("adamw", HALF.traits, accumulates=True), 514.0),
        ("mini", 4096, 256, 4, Computing("adamw", HALF.traits, lora=Lora(16, 32.0)), 289.7),
        ("mini", 4096, 256, 4, Computing("adamw", FLOAT32.traits, lora=Lora(16, 32.0)), 449.0),
        ("nano", 4096, 256, 16, Computing("muon", HALF.traits, checkpointing=True), 316.0),
        ("nano", 4096, 256, 16, Computing("adamw", FLOAT32.traits, checkpointing=True), 429.0),
        ("nano-moe", 4096, 256, 16, Computing("adamw", HALF.traits, checkpointing=True), 451.0),
        ("pico", 2670, 256, 8, Computing("adamw", FLOAT32.traits, accumulates=True), 148.8),
        ("nano", 2670, 1024, 4, Computing("muon", traits.torch_on_cpu(False, 1024)), 635.7),
    ],
)
def test_the_estimates_are_near_measured_memory(
    name: str,
    vocab_size: int,
    seq_len: int,
    batch_size: int,
    computing: Computing,
    measured: float,
) -> None:
    """Megabytes of real steps; benchmarks/planning.py measures more."""
    model = dataclasses.replace(PRESETS[name], seq_len=seq_len, vocab_size=vocab_size)
    estimate = training_memory(model, batch_size, computing).total / 1e6
    assert estimate == pytest.approx(measured, rel=0.1)


def test_the_mask_of_documents_grows_with_the_square_of_the_context() -> None:
    def mask(seq_len: int, *, masked: bool = True) -> int:
        long = dataclasses.replace(PRESETS["pico"], seq_len=seq_len)
        on_gpu = Computing("adamw", traits.torch_on_cuda(False), masked=masked)
        return training_memory(long, 1, on_gpu).mask

    assert mask(32_768) == 4 * 32_768**2
    assert mask(16_384) == mask(32_768) / 4
    assert mask(32_768, masked=False) == 0


def test_attention_weights_are_counted_where_they_are_kept() -> None:
    model = dataclasses.replace(PRESETS["mini"], seq_len=LONGEST_IN_FULL)
    uses = dataclasses.replace(traits.torch_on_cpu(True, LONGEST_IN_FULL), lost=0.0)

    def activations(keeps: bool) -> int:
        use = dataclasses.replace(uses, keeps_attention=keeps)
        return training_memory(model, 1, Computing("adamw", use)).activations

    kept = (model.n_layers + uses.transient_blocks) * 2 * model.n_heads * LONGEST_IN_FULL**2
    assert activations(True) - activations(False) == kept
    assert uses.keeps_attention
    assert not traits.torch_on_cpu(True, LONGEST_IN_FULL + 1).keeps_attention
    assert not traits.torch_on_cpu(False, LONGEST_IN_FULL).keeps_attention
    assert traits.mlx(False).keeps_attention


def test_an_update_takes_more_only_where_the_backward_pass_takes_less() -> None:
    model = dataclasses.replace(PRESETS["mini"], seq_len=32, vocab_size=500)
    short, long = (
        training_memory(model, size, Computing("adamw", traits.mlx(False))) for size in (1, 64)
    )
    assert short.update > 0 == long.update


def test_time_is_work_by_the_speed_that_training_reaches() -> None:
    model = PRESETS["gpt2-small"]
    seconds = expected_seconds_per_step(model, 4096, flops_per_second=1e12)
    assert seconds == 4096 * flops_per_token(model) / (UTILISATION * 1e12)
    assert 4096 / seconds == expected_tokens_per_second(model, 1e12)
