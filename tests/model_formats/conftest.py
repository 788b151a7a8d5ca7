"""Small models of every family, with a tokenizer that is trained here."""

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from homespun.architectures.families import FAMILIES, parameters
from homespun.config import ModelConfig
from homespun.model_formats.formats import EXPORTS
from homespun.model_formats.stored_model import StoredModel
from homespun.named_array import NamedArray
from homespun.stories import stories
from homespun.tokenizer import Tokenizer, train

WHOLE = [name for name in EXPORTS if name != "peft"]
"""The formats of whole models; PEFT's holds adapters alone."""
VOCAB_SIZE = 512
"""More than the tokenizer has, as in models whose vocabulary is padded."""


@cache
def small_tokenizer() -> Tokenizer:
    return train(list(stories(200, seed=1)), 500)


def small_config(architecture: str, *, tied: bool = True) -> ModelConfig:
    """A shape in which the matrices that write into the residual stream are square, except in feed-forward layers."""
    grouped = FAMILIES[architecture].has_grouped_heads
    has_experts = FAMILIES[architecture].expert_family == architecture
    return ModelConfig(
        architecture=architecture,
        vocab_size=VOCAB_SIZE,
        seq_len=64,
        n_layers=2,
        d_model=64,
        n_heads=4,
        n_kv_heads=2 if grouped else 4,
        head_dim=16,
        d_ff=96 if grouped else 256,
        tie_embeddings=tied,
        norm_eps=1e-6 if grouped else 1e-5,
        **{"experts": 4, "experts_per_token": 2, "d_expert": 32} if has_experts else {},
    )


def small_model(config: ModelConfig, tokenizer: Tokenizer | None = None) -> StoredModel:
    """A model with random weights, after seven steps of training."""
    generator = np.random.default_rng(0)
    weights: list[NamedArray] = [
        (p.name, (0.2 * generator.standard_normal(p.shape) + p.mean).astype(np.float32))
        for p in parameters(config)
    ]
    header = {"val_loss": 1.5, "data_file": "stories.txt", "model": dataclasses.asdict(config)}
    tokenizer = tokenizer or small_tokenizer()
    return StoredModel(Path("best.npz"), config, tokenizer, lambda: iter(weights), header, 7)


@pytest.fixture(params=[(name, tied) for name in FAMILIES for tied in (True, False)], ids=str)
def model(request: pytest.FixtureRequest) -> StoredModel:
    """Each family, with a tied and an untied head."""
    name, tied = request.param
    return small_model(small_config(name, tied=tied))
