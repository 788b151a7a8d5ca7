"""Training speed and memory at the 13.8 M GPT-2 shape: the Hugging Face Trainer, and our engine with each option.

    python -m benchmarks.training

A step is 8 x 256 random tokens, with clipping and the optimizer's update. Each variant runs in its own process.
"""

import logging
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Any

import tyro

from benchmarks import report
from benchmarks.models import (
    MAX_GRAD_NORM,
    RATES,
    WEIGHT_DECAY,
    in_transformers,
    model_config,
    random_tokens,
    trainable,
)
from benchmarks.rounds import NextTurn, Process, compared, interleaved
from homespun.config import ModelConfig
from homespun.data.batch import Batch

BATCH, N_SAMPLES = 8, 1024


def ours(
    config: ModelConfig,
    steps: int,
    optimizer: str,
    precision: str,
    compiled: bool,
    next_turn: NextTurn,
) -> None:
    """Train with our engine. A turn is `steps` steps, its figure tokens per second."""
    engine = trainable(config, optimizer, precision, compiled)
    samples = random_tokens(config, N_SAMPLES).reshape(-1, BATCH, config.seq_len + 1)
    batches = [Batch(ids[:, :-1].copy(), ids[:, 1:].copy()) for ids in samples]
    start = time.perf_counter()
    for step in count(1):
        engine.train_step([batches[step % len(batches)]], RATES, step).result()
        if step % steps == 0:
            next_turn(steps * BATCH * config.seq_len / (time.perf_counter() - start))
            start = time.perf_counter()


def trainer(config: ModelConfig, steps: int, compiled: bool, next_turn: NextTurn) -> None:
    """Train with the Trainer of transformers, in bfloat16 with fused AdamW."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Turns(TrainerCallback):
        """Waits for the next turn inside the Trainer's own loop."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % steps == 0:
                next_turn(steps * BATCH * config.seq_len / (time.perf_counter() - self.start))
                self.start = time.perf_counter()

    logging.getLogger("transformers").setLevel(logging.ERROR)
    samples = torch.from_numpy(random_tokens(config, N_SAMPLES)[:, :-1]).long()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=10**9,
            per_device_train_batch_size=BATCH,
            learning_rate=RATES["adamw"],
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=MAX_GRAD_NORM,
            optim="adamw_torch_fused",
            bf16=True,
            torch_compile=compiled,
            use_cpu=True,
            dataloader_pin_memory=False,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        Trainer(
            model=in_transformers(config),
            args=arguments,
            # The model shifts the labels by one itself.
            train_dataset=[{"input_ids": ids, "labels": ids} for ids in samples],
            callbacks=[Turns()],
        ).train()


def main(
    rounds: int = 7, steps: int = 5, n_layers: int = 6, d_model: int = 384, vocab_size: int = 8000
) -> None:
    """Measure and save.

    Args:
        rounds: measured turns of each variant.
        steps: steps in a turn.
        n_layers: layers of the models.
        d_model: width of the models.
        vocab_size: vocabulary of the models.
    """
    gpt2, qwen3 = (
        model_config(architecture, n_layers, d_model, vocab_size)
        for architecture in ("gpt2", "qwen3")
    )
    variants = {
        "Trainer gpt2 adamw bfloat16 compiled": partial(trainer, gpt2, steps, True),
        "Trainer gpt2 adamw bfloat16": partial(trainer, gpt2, steps, False),
        "gpt2 adamw bfloat16 compiled": partial(ours, gpt2, steps, "adamw", "bfloat16", True),
        "gpt2 adamw bfloat16": partial(ours, gpt2, steps, "adamw", "bfloat16", False),
        "gpt2 adamw float32": partial(ours, gpt2, steps, "adamw", "float32", False),
        "gpt2 muon bfloat16": partial(ours, gpt2, steps, "muon", "bfloat16", False),
        "qwen3 adamw bfloat16 compiled": partial(ours, qwen3, steps, "adamw", "bfloat16", True),
        "qwen3 adamw bfloat16": partial(ours, qwen3, steps, "adamw", "bfloat16", False),
        "qwen3 muon bfloat16": partial(ours, qwen3, steps, "muon", "bfloat16", False),
    }
    with ExitStack() as stack:
        processes = {name: stack.enter_context(Process(work)) for name, work in variants.items()}
        rows = compared(interleaved(processes, rounds), "tokens/s")
        memory = {name: process.peak_megabytes() for name, process in processes.items()}
    title = (
        f"{n_layers} x {d_model}, vocabulary {vocab_size:,}, {BATCH} x {gpt2.seq_len} tokens a step"
    )
    report.save(
        "training", {title: [{**row, "peak MB": memory[str(row["variant"])]} for row in rows]}
    )


if __name__ == "__main__":
    tyro.cli(main)
