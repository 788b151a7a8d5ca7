"""Parameters, initial values and cost of every family, checked against `transformers` and by hand."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from transformers.pytorch_utils import Conv1D

from homespun.architectures.families import (
    FAMILIES,
    count_active_parameters,
    count_parameters,
    family,
    flops_per_token,
    initial_weights,
    model_config,
    parameters,
)
from homespun.config import ModelConfig
from homespun.data.batch import Batch
from homespun.engine import select
from homespun.engine.base import EngineOptions
from homespun.errors import UserError
from tests.reference import of_transformers

GPT2 = ModelConfig(
    architecture="gpt2",
    vocab_size=1000,
    seq_len=16,
    n_layers=2,
    d_model=64,
    n_heads=4,
    n_kv_heads=4,
    head_dim=16,
    d_ff=256,
)
QWEN3 = ModelConfig(
    architecture="qwen3",
    vocab_size=1000,
    seq_len=16,
    n_layers=3,
    d_model=64,
    n_heads=4,
    n_kv_heads=2,
    head_dim=32,
    d_ff=192,
    tie_embeddings=False,
    norm_eps=1e-6,
)
LLAMA = dataclasses.replace(QWEN3, architecture="llama")
QWEN3_MOE = dataclasses.replace(
    QWEN3, architecture="qwen3_moe", experts=8, experts_per_token=2, d_expert=96, dense_layers=1
)
SQUARE = dataclasses.replace(GPT2, d_ff=GPT2.d_model)
"""All feed-forward matrices are square, so their shapes do not show whether they are transposed."""
CONFIGS = {"gpt2": GPT2, "llama": LLAMA, "qwen3": QWEN3, "qwen3_moe": QWEN3_MOE}
ALL = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def test_all_families_are_tested() -> None:
    assert CONFIGS.keys() == FAMILIES.keys()
    for name, config in CONFIGS.items():
        assert config.architecture == family(name).name == name


def in_transformers(config: ModelConfig) -> torch.nn.Module:
    """The model of `transformers`, without memory allocated for the weights."""
    with torch.device("meta"):
        return of_transformers(config)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("config", [*CONFIGS.values(), SQUARE], ids=[*CONFIGS, "square"])
def test_parameters_are_those_of_transformers(config: ModelConfig, tied: bool) -> None:
    config = dataclasses.replace(config, tie_embeddings=tied)
    theirs = in_transformers(config)
    assert type(theirs).__name__ == family(config.architecture).huggingface_class
    is_transposed = family(config.architecture).is_transposed
    shapes = {
        p.name: p.shape[::-1] if is_transposed(p.name) else p.shape for p in parameters(config)
    }
    assert len(shapes) == len(parameters(config))
    assert shapes == {name: tuple(p.shape) for name, p in theirs.named_parameters()}
    assert count_parameters(config) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("config", [*CONFIGS.values(), SQUARE], ids=[*CONFIGS, "square"])
def test_exactly_the_matrices_of_conv1d_are_transposed(config: ModelConfig) -> None:
    conv1d = {
        f"{name}.weight"
        for name, module in in_transformers(config).named_modules()
        if isinstance(module, Conv1D)
    }
    is_transposed = family(config.architecture).is_transposed
    assert {p.name for p in parameters(config) if is_transposed(p.name)} == conv1d


@ALL
def test_parameters_of_a_block_begin_with_the_prefix_and_its_number(config: ModelConfig) -> None:
    prefix = family(config.architecture).block_prefix
    in_blocks = {p.name for p in parameters(config) if p.name.startswith(f"{prefix}.")}
    numbers = {name.removeprefix(f"{prefix}.").partition(".")[0] for name in in_blocks}
    assert numbers == set(map(str, range(config.n_layers)))
    assert in_blocks >= {p.name for p in parameters(config) if p.group == "matrix"}


@ALL
def test_the_default_shape_is_valid(config: ModelConfig) -> None:
    of = family(config.architecture)
    shape = of.default_shape(n_layers=3, d_model=256, n_heads=4)
    assert model_config(dataclasses.asdict(shape)) == shape
    assert (shape.architecture, shape.n_layers, shape.d_model) == (of.name, 3, 256)
    assert shape.d_ff == of.default_d_ff(256)
    dense = dataclasses.replace(shape, experts=0, experts_per_token=0, d_expert=0)
    assert (of.active_parameters(shape) == count_parameters(shape)) == (shape == dense)


@ALL
def test_only_families_with_grouped_heads_take_them(config: ModelConfig) -> None:
    grouped = dataclasses.asdict(config) | {"n_kv_heads": 2}
    if family(config.architecture).has_grouped_heads:
        assert model_config(grouped).n_kv_heads == 2
    else:
        with pytest.raises(UserError, match="leave --n-kv-heads out"):
            model_config(grouped)


def test_queries_and_keys_of_llama_have_no_norms() -> None:
    without = [p for p in parameters(QWEN3) if "q_norm" not in p.name and "k_norm" not in p.name]
    assert parameters(LLAMA) == without
    assert flops_per_token(LLAMA) == flops_per_token(QWEN3)
    kept, normed = (FAMILIES[name].activations(QWEN3) for name in ("llama", "qwen3"))
    assert kept.computed == normed.computed
    assert normed.float32 - kept.float32 == (QWEN3.n_heads + QWEN3.n_kv_heads) * QWEN3.head_dim


@pytest.mark.parametrize("config", [QWEN3, LLAMA], ids=["qwen3", "llama"])
def test_rotary_positions_need_an_even_head_size(config: ModelConfig) -> None:
    with pytest.raises(UserError, match="need an even head size, not 31"):
        model_config(dataclasses.asdict(config) | {"head_dim": 31})


def test_the_heads_of_gpt2_fill_its_width() -> None:
    with pytest.raises(UserError, match=r"needs --d-model \(64\) divisible by --n-heads"):
        model_config(dataclasses.asdict(GPT2) | {"head_dim": 8})


@ALL
def test_biases_and_norms_do_not_decay_and_all_else_does(config: ModelConfig) -> None:
    for p in parameters(config):
        is_vector = p.name.endswith(".bias") or "norm" in p.name or ".ln_" in p.name
        assert p.decay == (not is_vector)
        assert is_vector == (len(p.shape) == 1)
        in_block = ".h." in p.name or ".layers." in p.name
        assert (p.group == "matrix") == (in_block and not is_vector)


@ALL
@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_stored_once(config: ModelConfig, tied: bool) -> None:
    config = dataclasses.replace(config, tie_embeddings=tied)
    large = [p for p in parameters(config) if p.shape == (config.vocab_size, config.d_model)]
    assert [p.group for p in large] == (["embedding"] if tied else ["embedding", "head"])


@ALL
def test_initial_values_depend_on_seed_and_name_alone(config: ModelConfig) -> None:
    weights = dict(initial_weights(config, seed=1))
    deeper = dict(initial_weights(dataclasses.replace(config, n_layers=5), seed=1))
    for name, values in weights.items():
        assert values.dtype == np.float32
        if "c_proj" not in name:  # its standard deviation depends on the number of layers
            np.testing.assert_array_equal(values, deeper[name])
    again = dict(initial_weights(config, seed=1))
    other = dict(initial_weights(config, seed=2))
    random = [p.name for p in parameters(config) if p.std]
    drawn = set()
    for name in random:
        np.testing.assert_array_equal(weights[name], again[name])
        assert not np.array_equal(weights[name], other[name])
        drawn.add(weights[name].flat[0] / weights[name].std())
    assert len(drawn) == len(random)


@ALL
def test_initial_values_have_the_spread_that_is_specified(config: ModelConfig) -> None:
    modern: dict[str, float] = {"o_proj": 0, "down_proj": 0, "lm_head": 0, "embed_tokens": 1}
    modern[""] = config.d_model**-0.5
    gpt2 = {"c_proj": 0.02 / math.sqrt(2 * config.n_layers), "": 0.02}
    spread = {"gpt2": gpt2, "llama": modern, "qwen3": modern, "qwen3_moe": modern}[
        config.architecture
    ]
    for (name, values), p in zip(initial_weights(config, 0), parameters(config), strict=True):
        assert (name, values.shape) == (p.name, p.shape)
        if values.ndim == 1:
            expected = 0.0 if name.endswith("bias") else 1.0
            assert (values == expected).all()
        else:
            std = next(spread[part] for part in spread if part in name)
            assert values.std() == pytest.approx(std, rel=0.05)
            assert abs(values.mean()) <= 4 * std / math.sqrt(values.size)


@ALL
@pytest.mark.parametrize("tied", [True, False])
def test_a_fresh_model_guesses(config: ModelConfig, tied: bool) -> None:
    config = dataclasses.replace(config, tie_embeddings=tied)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (8, 17), dtype=np.int32)
    engine = select.create(config, EngineOptions(precision="float32"))
    total, count = engine.loss(Batch(ids[:, :-1].copy(), ids[:, 1:].copy()))
    assert total / count == pytest.approx(math.log(config.vocab_size), rel=0.01)


@ALL
def test_a_wide_tied_model_does_not_predict_its_own_token(config: ModelConfig) -> None:
    heads = {"n_heads": 16, "n_kv_heads": 16, "head_dim": 64}
    wide = dataclasses.replace(config, d_model=1024, tie_embeddings=True, **heads)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (4, 17), dtype=np.int32)
    engine = select.create(wide, EngineOptions(precision="float32"))
    total, count = engine.loss(Batch(ids[:, :-1].copy(), ids[:, 1:].copy()))
    assert total / count < math.log(config.vocab_size) + 0.5


def test_cost_of_a_token_by_hand() -> None:
    # Weights of a block: 4 d^2 in q, k, v and the projection, 8 d^2 in the two feed-forward matrices. The tied head is
    # one more product. Attention takes 2 products of d per position with 2 operations each, times 3 for forward and
    # backward.
    d, layers, vocab, seq_len = 64, 2, 1000, 16
    assert flops_per_token(GPT2) == 6 * (layers * 12 * d * d + vocab * d) + 3 * (
        layers * 2 * 2 * d * seq_len
    )
    q_and_o, kv, ff = 2 * 4 * 32 * 64, 2 * 2 * 32 * 64, 3 * 192 * 64
    assert flops_per_token(QWEN3) == 6 * (3 * (q_and_o + kv + ff) + 1000 * 64) + 3 * (
        3 * 2 * 2 * (4 * 32) * 16
    )
    # Tying the head saves memory but no operations.
    tied = dataclasses.replace(QWEN3, tie_embeddings=True)
    assert flops_per_token(tied) == flops_per_token(QWEN3)


def test_a_token_pays_for_the_experts_that_it_uses() -> None:
    d, layers = 64, 3
    others = count_parameters(QWEN3) - layers * 3 * 192 * d + 3 * 192 * d  # one block is dense
    router, of_expert = 8 * d, 3 * 96 * d
    assert count_parameters(QWEN3_MOE) == others + 2 * (router + 8 * of_expert)
    assert count_active_parameters(QWEN3_MOE) == others + 2 * (router + 2 * of_expert)
    # Two experts of half the width cost as much as the dense layer, and the router comes on top.
    assert flops_per_token(QWEN3_MOE) == flops_per_token(QWEN3) + 6 * 2 * router


def test_muon_sees_each_matrix_of_each_expert_by_itself() -> None:
    shapes = {p.name.rpartition(".")[2]: (p.stacked, p.matrix_shape) for p in parameters(QWEN3_MOE)}
    assert shapes["gate_up_proj"] == (16, (96, 64))
    assert shapes["down_proj"] == (8, (64, 96))


NO_EXPERTS = {"experts": 0, "experts_per_token": 0, "d_expert": 0, "dense_layers": 0}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"experts_per_token": 9}, "a token uses 9 of 8 experts"),
        ({"experts_per_token": 0}, "a token uses 0 of 8 experts"),
        ({"d_expert": 20}, "needs a multiple of 8 as --d-expert, not 20"),
        ({"dense_layers": 3}, "leaves no layer of 3 for experts"),
        ({"architecture": "qwen3", "dense_layers": 0}, "qwen3 has no experts: .* qwen3_moe"),
        *(
            (
                {"architecture": "llama", **NO_EXPERTS, name: 1},
                "llama has no experts: .* --d-expert",
            )
            for name in NO_EXPERTS
        ),
    ],
)
def test_impossible_mixtures_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_config(dataclasses.asdict(QWEN3_MOE) | changed)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(UserError, match="'quen3' is unknown: did you mean qwen3"):
        model_config({"architecture": "quen3"})
