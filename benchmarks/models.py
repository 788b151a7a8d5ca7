"""The compared models: a shape of ours, the same shape in transformers, and random tokens to train them on."""

from typing import TYPE_CHECKING

import numpy as np

from homespun.architectures.presets import preset, shaped
from homespun.config import EngineName, ModelConfig
from homespun.data.batch import Tokens
from homespun.engine import select
from homespun.engine.base import Engine, EngineOptions, OptimizerSettings

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

SEQ_LEN = 256
RATES = {"adamw": 1e-4, "muon": 1e-3}
MAX_GRAD_NORM, WEIGHT_DECAY = 1.0, 0.1


def model_config(
    architecture: str, n_layers: int, d_model: int, vocab_size: int = 8000
) -> ModelConfig:
    """A model shape with heads of 64 channels."""
    base = preset("tiny" if architecture == "gpt2" else "mini")
    sizes = {"n_layers": n_layers, "d_model": d_model, "n_heads": d_model // 64}
    return shaped(base, {**sizes, "vocab_size": vocab_size, "seq_len": SEQ_LEN})


def trainable(
    config: ModelConfig,
    optimizer: str,
    precision: str,
    compiled: bool,
    checkpointing: bool = False,
    low_memory: bool = False,
    engine: EngineName = "auto",
) -> Engine:
    """Our engine with an optimizer."""
    settings = OptimizerSettings(
        optimizer, weight_decay=WEIGHT_DECAY, beta1=0.9, beta2=0.95, max_grad_norm=MAX_GRAD_NORM
    )
    options = EngineOptions(settings, precision, compiled, checkpointing, low_memory=low_memory)
    return select.create(config, options, name=engine)


def in_transformers(config: ModelConfig) -> "GPT2LMHeadModel":
    """The same GPT-2, without dropout, with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.seq_len,
            n_embd=config.d_model,
            n_layer=config.n_layers,
            n_head=config.n_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def random_tokens(config: ModelConfig, n_samples: int) -> Tokens:
    """Token ids [n_samples, seq_len + 1], the same at each call."""
    shape = (n_samples, config.seq_len + 1)
    return np.random.default_rng(0).integers(0, config.vocab_size, shape, dtype=np.int32)
