"""The presets, compared with the same models in `transformers`."""

import dataclasses

import pytest
import torch

from homespun.architectures.families import (
    FAMILIES,
    count_active_parameters,
    count_parameters,
    family,
    parameters,
)
from homespun.architectures.presets import PRESETS, preset, shaped
from homespun.config import ModelConfig
from homespun.errors import UserError
from tests.reference import of_transformers

SMALL_QWEN3 = ["pico", "nano", "micro", "mini", "small"]


def named(name: str) -> ModelConfig:
    """A preset with the vocabulary and the context of GPT-2."""
    return dataclasses.replace(PRESETS[name], seq_len=1024)


@pytest.mark.parametrize("name", PRESETS)
def test_names_and_shapes_and_count_are_those_of_transformers(name: str) -> None:
    config = named(name)
    with torch.device("meta"):  # allocates no memory for the weights
        model = of_transformers(config)
    # The parameters, not the state dict, which lists a tied weight twice.
    theirs = {n: tuple(p.shape) for n, p in model.named_parameters()}
    ours = {p.name: p.shape for p in parameters(config)}
    for matrix, shape in ours.items():
        if family(config.architecture).is_transposed(matrix):
            ours[matrix] = shape[::-1]
    assert ours == theirs
    assert len(parameters(config)) == len(ours)
    assert count_parameters(config) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("tiny", 51.5),
        ("tiny-moe", 52.4),
        ("gpt2-small", 124.4),
        ("gpt2-medium", 354.8),
        ("gpt2-large", 774.0),
        ("gpt2-xl", 1557.6),
        ("3b", 3000),
    ],
)
def test_a_name_is_the_size(name: str, millions: float) -> None:
    assert count_parameters(named(name)) / 1e6 == pytest.approx(millions, rel=0.05)


def test_the_gpt2_presets_are_the_published_shapes() -> None:
    """Radford et al., 2019, table 2. The number of heads changes no parameter count, so it is tested here."""
    shapes = {
        name: (c.n_layers, c.d_model, c.n_heads)
        for name, c in PRESETS.items()
        if name.startswith("gpt2")
    }
    assert shapes == {
        "gpt2-small": (12, 768, 12),
        "gpt2-medium": (24, 1024, 16),
        "gpt2-large": (36, 1280, 20),
        "gpt2-xl": (48, 1600, 25),
    }


def test_the_small_presets_grow() -> None:
    counts = [count_parameters(named(name)) for name in SMALL_QWEN3]
    assert counts == sorted(set(counts))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'gpt3' is unknown: choose one of .*gpt2-small.*3b$"):
        preset("gpt3")


@pytest.mark.parametrize("name", PRESETS)
def test_nothing_overridden_is_the_preset_and_every_architecture_will_do(name: str) -> None:
    assert shaped(PRESETS[name], {}) == PRESETS[name]
    unset = dict.fromkeys(("architecture", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_ff"))
    assert shaped(PRESETS[name], unset) == PRESETS[name]
    for architecture in FAMILIES:
        changed = shaped(PRESETS[name], {"architecture": architecture})
        assert changed.architecture == architecture
        assert changed.n_layers == PRESETS[name].n_layers
        assert changed.d_model == PRESETS[name].d_model


def test_experts_alone_make_a_mixture_of_the_same_block() -> None:
    mini = PRESETS["mini"]
    mixture = shaped(mini, {"experts": 16, "experts_per_token": 4})
    assert mixture == dataclasses.replace(
        mini, architecture="qwen3_moe", experts=16, experts_per_token=4, d_expert=mini.d_ff // 4
    )
    assert shaped(mini, {"d_expert": 64}).experts_per_token == 2
    assert shaped(PRESETS["mini-moe"], {"d_ff": 512}).d_expert == 256
    assert shaped(PRESETS["mini-moe"], {"d_model": 256}).d_expert == 352
    assert shaped(PRESETS["mini-moe"], {"d_model": 256, "d_expert": 64}).d_expert == 64
    with pytest.raises(UserError, match="gpt2 has no experts"):
        shaped(PRESETS["tiny"], {"experts": 4})


def test_the_mixtures_use_as_many_weights_for_a_token_as_the_dense_presets() -> None:
    for name in ("nano", "mini"):
        active = count_active_parameters(PRESETS[f"{name}-moe"])
        assert active == pytest.approx(count_parameters(PRESETS[name]), rel=0.01)
