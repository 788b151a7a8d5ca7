"""A small run of the Python API, and token ids for its model."""

import numpy as np

import homespun

SMALL = homespun.TrainConfig(
    data_file="stories.txt",
    tokenizer_path="tokenizer_model",
    model_size="pico",
    n_layers=1,
    d_model=32,
    n_heads=2,
    seq_len=32,
    batch_size=4,
    max_steps=3,
    precision="float32",
    log_interval=1,
    eval_tokens=500,
)


def ids(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 400, shape)
