"""Which matrices get adapters, and how these are merged."""

import numpy as np
import pytest

from homespun.architectures.families import initial_values, initial_weights, parameters
from homespun.architectures.lora import (
    Lora,
    adapter_parameters,
    adapters,
    merged,
    short_names,
    trained_parameters,
)
from homespun.config import ModelConfig
from homespun.errors import UserError
from tests.reference import GPT2, LLAMA, QWEN3, QWEN3_MOE

ATTENTION = {"gpt2": {"c_attn", "c_proj"}, "llama": {"q_proj", "k_proj", "v_proj", "o_proj"}}


def layers(config: ModelConfig, *targets: str) -> list[str]:
    return [adapter.layer for adapter in adapters(config, Lora(2, 4.0, targets))]


@pytest.mark.parametrize(
    "config", [GPT2, LLAMA, QWEN3, QWEN3_MOE], ids=lambda config: config.architecture
)
def test_all_are_the_matrices_of_the_blocks(config: ModelConfig) -> None:
    matrices = [
        p
        for p in parameters(config)
        if p.group == "matrix" and len(p.shape) == 2 and not p.is_router
    ]
    assert layers(config, "all") == [p.name.removesuffix(".weight") for p in matrices]
    for matrix, a, b in adapters(config, Lora(3, 6.0)):
        n_out, n_in = matrix.shape
        assert (a.shape, b.shape) == ((3, n_in), (n_out, 3))
    names = [p.name for p in adapter_parameters(config, Lora(3, 6.0))]
    assert len(set(names)) == len(names) == 2 * len(matrices)
    assert trained_parameters(config, None) == parameters(config)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=lambda config: config.architecture)
def test_attention_leaves_the_feed_forward_layers_out(config: ModelConfig) -> None:
    found = layers(config, "attention")
    assert {name.rpartition(".")[2] for name in found} == ATTENTION[config.architecture]
    assert not any("mlp" in name for name in found)


def test_a_target_is_the_end_of_a_name() -> None:
    assert layers(LLAMA, "v_proj", "q_proj") == [
        f"model.layers.{i}.self_attn.{name}" for i in (0, 1) for name in ("q_proj", "v_proj")
    ]
    assert len(layers(GPT2, "c_proj")) == 4
    assert layers(GPT2, "mlp.c_proj") == [f"transformer.h.{i}.mlp.c_proj" for i in (0, 1)]
    with pytest.raises(UserError, match="'proj' is no matrix of gpt2"):
        layers(GPT2, "proj")


def test_short_names_name_the_same_layers() -> None:
    for config in (GPT2, LLAMA, QWEN3):
        for targets in (("all",), ("attention",), ("mlp.c_proj",), ("0.mlp.up_proj", "q_proj")):
            try:
                expected = layers(config, *targets)
            except UserError:
                continue
            assert layers(config, *short_names(config, Lora(2, 4.0, targets))) == expected
    assert short_names(GPT2, Lora(2, 4.0, ("attention",))) == ["c_attn", "attn.c_proj"]
    assert short_names(GPT2, Lora(2, 4.0)) == ["c_attn", "c_proj", "c_fc"]


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean q_proj"):
        layers(LLAMA, "q_prj")
    with pytest.raises(UserError, match="choose all, attention, q_proj, k_proj, v_proj, o_proj, "):
        layers(LLAMA, "embed_tokens")
    with pytest.raises(UserError, match="--lora-rank 33 is more than"):
        adapters(GPT2, Lora(33, 66.0))


def test_the_model_begins_as_it_was() -> None:
    lora = Lora(4, 8.0)
    start = dict(initial_weights(GPT2, 0))
    values = dict(initial_values(adapter_parameters(GPT2, lora), 0))
    for name, array in merged(start.items(), values, GPT2, lora):
        np.testing.assert_array_equal(array, start[name])
    for _, a, b in adapters(GPT2, lora):
        assert values[a.name].std() == pytest.approx((3 * a.shape[1]) ** -0.5, rel=0.3)
        assert not values[b.name].any()


def test_merging_adds_the_product() -> None:
    lora, rng = Lora(4, 2.0, ("mlp.c_fc",)), np.random.default_rng(0)
    start = dict(initial_weights(GPT2, 0))
    values = {
        p.name: rng.standard_normal(p.shape, np.float32) for p in adapter_parameters(GPT2, lora)
    }
    result = dict(merged(start.items(), values, GPT2, lora))
    assert list(result) == list(start)
    for name, array in result.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_a" in values:
            product = 0.5 * values[f"{layer}.lora_b"] @ values[f"{layer}.lora_a"]
            np.testing.assert_allclose(array, start[name] + product, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(array, start[name])
        assert array.dtype == np.float32
