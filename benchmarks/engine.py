"""Training and generation speed of the engine at the 13.8 M GPT-2 shape, and at the same shape of the modern block.

    python -m benchmarks.engine

Every variant takes a few steps in turn, round after round, so that a machine whose speed drifts treats all alike; the
medians are printed, and the ratio to the first variant.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np

from homespun.config import ModelConfig
from homespun.engine import select
from homespun.engine.base import Batch, Engine, OptimizerSettings
from homespun.model.presets import preset, shaped

ROUNDS, STEPS = 5, 3
BATCH, SEQ_LEN, VOCAB = 8, 256, 8000
RATES = {"adamw": 1e-4, "muon": 1e-3}


def shape(architecture: str, n_layers: int, d_model: int) -> ModelConfig:
    base = preset("tiny" if architecture == "gpt2" else "mini")
    sizes = {"n_layers": n_layers, "d_model": d_model, "n_heads": d_model // 64}
    return shaped(base, {**sizes, "vocab_size": VOCAB, "seq_len": SEQ_LEN})


def engine(
    architecture: str,
    optimizer: str,
    precision: str,
    compiled: bool,
    n_layers: int = 6,
    d_model: int = 384,
) -> Engine:
    settings = OptimizerSettings(
        optimizer, weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0
    )
    return select.create(
        shape(architecture, n_layers, d_model),
        optimizer=settings,
        precision=precision,
        compiled=compiled,
    )


def training(one: Engine) -> Callable[[], float]:
    ids = np.random.default_rng(0).integers(0, VOCAB, (BATCH, SEQ_LEN + 1), dtype=np.int32)
    batch = Batch(np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:]))

    def tokens_per_second() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            one.train_step([batch], RATES).result()
        return STEPS * BATCH * SEQ_LEN / (time.perf_counter() - start)

    return tokens_per_second


def generation(one: Engine) -> Callable[[], float]:
    def tokens_per_second() -> float:
        decoder = one.decoder(1, SEQ_LEN)
        logits = decoder.prefill(np.zeros((1, 8), dtype=np.int32))
        start = time.perf_counter()
        for _ in range(200):
            logits = decoder.step(logits.argmax(-1).astype(np.int32))
        return 200 / (time.perf_counter() - start)

    return tokens_per_second


def main() -> None:
    variants = {
        f"{architecture} {optimizer} {precision}{' compiled' if compiled else ''}": training(
            engine(architecture, optimizer, precision, compiled)
        )
        for architecture, optimizer, precision, compiled in [
            ("gpt2", "adamw", "bfloat16", False),
            ("gpt2", "adamw", "bfloat16", True),
            ("gpt2", "adamw", "float32", False),
            ("gpt2", "muon", "bfloat16", False),
            ("qwen3", "adamw", "bfloat16", False),
            ("qwen3", "adamw", "bfloat16", True),
            ("qwen3", "muon", "bfloat16", False),
        ]
    }
    variants |= {
        f"generate, batch 1, {architecture} {precision}": generation(
            engine(architecture, "adamw", precision, False)
        )
        for architecture in ("gpt2", "qwen3")
        for precision in ("float32", "bfloat16")
    }
    for run in variants.values():
        run()
    measured = [{name: run() for name, run in variants.items()} for _ in range(ROUNDS)]
    first = next(iter(variants))
    print(f"{'variant':44} {'tokens/s':>9} {'ratio':>6}")
    for name in variants:
        ratio = statistics.median(one[name] / one[first] for one in measured)
        print(f"{name:44} {statistics.median(one[name] for one in measured):9,.0f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
