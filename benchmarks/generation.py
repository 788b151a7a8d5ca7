"""Speed of generating one text at a time: `generate` of transformers, and ours, from the prompt to the last character.

    python -m benchmarks.generation

200 tokens at temperature 0.8 after a prompt of 8 tokens, with random weights. Each variant runs in its own process. A
second part compares numbers of threads, on a quiet machine and beside one busy process per core.
"""

import itertools
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import tyro

from benchmarks import report
from benchmarks.models import in_transformers, model_config
from benchmarks.rounds import NextTurn, Process, compared, interleaved
from homespun import tokenizer
from homespun.architectures.families import count_parameters, initial_weights
from homespun.config import ModelConfig, Precision, ReaderConfig, SamplingConfig
from homespun.engine import select
from homespun.engine.base import Drawer
from homespun.engine.hardware import usable_cpus
from homespun.generation.session import Session
from homespun.tokenizer import Tokenizer

PROMPT_TOKENS, TEMPERATURE = 8, 0.8
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
"""Of both models."""


def ours(
    config: ModelConfig,
    precision: Precision,
    n_tokens: int,
    next_turn: NextTurn,
    threads: int | None = None,
) -> None:
    """Generate with our session. A turn is one text, its figure tokens per second."""
    engine = select.reader(config, ReaderConfig(precision=precision, threads=threads))
    engine.load(initial_weights(config, seed=0))
    words = story_words()
    speech = tokenizer.train([" ".join(words)] * 2, config.vocab_size)
    prompt = prompt_of(speech, words)
    draw = engine.draw if isinstance(engine, Drawer) else None
    session = Session(engine.decoder, speech, config.seq_len, draw=draw)
    for seed in itertools.count():
        sampling = SamplingConfig(max_tokens=n_tokens, temperature=TEMPERATURE, seed=seed)
        start = time.perf_counter()
        [written] = session.generate(prompt, sampling)
        # Random weights may draw the end-of-text mark early.
        next_turn(len(written.token_ids) / (time.perf_counter() - start))


def transformers(
    config: ModelConfig, precision: Precision, n_tokens: int, next_turn: NextTurn
) -> None:
    """Generate with the library's own `generate`, from ids to ids."""
    import torch

    model: Any = in_transformers(config).to(getattr(torch, precision)).eval()
    model.generation_config.eos_token_id = None
    ids = torch.arange(PROMPT_TOKENS)[None]
    attention = torch.ones_like(ids)
    while True:
        start = time.perf_counter()
        with torch.inference_mode():
            written = model.generate(
                ids,
                attention_mask=attention,
                max_new_tokens=n_tokens,
                do_sample=True,
                temperature=TEMPERATURE,
                top_k=0,
                use_cache=True,
                pad_token_id=0,
            )
        next_turn((written.shape[1] - PROMPT_TOKENS) / (time.perf_counter() - start))


def against_transformers(
    n_layers: int, d_model: int, vocab_size: int, precision: Precision, n_tokens: int, rounds: int
) -> list[report.Row]:
    gpt2, qwen3 = (
        model_config(architecture, n_layers, d_model, vocab_size)
        for architecture in ("gpt2", "qwen3")
    )
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(Process(partial(work, config, precision, n_tokens)))
            for name, work, config in [
                ("transformers gpt2", transformers, gpt2),
                ("gpt2", ours, gpt2),
                ("qwen3", ours, qwen3),
            ]
        }
        return compared(interleaved(processes, rounds), "tokens/s", 1)


def by_threads(config: ModelConfig, n_busy: int, n_tokens: int, rounds: int) -> list[report.Row]:
    """Generate with one thread, two threads and the automatic number, beside `n_busy` busy processes."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_busy)]
    try:
        with ExitStack() as stack:
            processes = {
                name: stack.enter_context(
                    Process(partial(ours, config, "float32", n_tokens, threads=threads))
                )
                for name, threads in [("one", 1), ("two", 2), ("as many as are faster", None)]
            }
            return compared(interleaved(processes, rounds), "tokens/s", 1)
    finally:
        for process in busy:
            process.kill()
            process.wait()


def story_words() -> list[str]:
    """Random words, enough different ones for any vocabulary here."""
    rng = random.Random(0)
    syllables = [a + b for a in "bdfghjklmnprstvwz" for b in "aeiou"]
    return ["".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(10_000)]


def prompt_of(speech: Tokenizer, words: list[str]) -> str:
    """A text of `PROMPT_TOKENS` tokens, counting the mark that begins it, like the prompt of transformers."""
    session = Session(None, speech, PROMPT_TOKENS + 100)
    for n_words in range(1, PROMPT_TOKENS):
        for first in range(0, len(words), n_words):
            prompt = " ".join(words[first : first + n_words])
            if len(session.prompt_ids(prompt)) == PROMPT_TOKENS:
                return prompt
    raise AssertionError("no prompt has that length")


def main(
    rounds: int = 7,
    rounds_of_threads: int = 5,
    n_tokens: int = 200,
    shapes: tuple[tuple[int, int], ...] = ((6, 384), (12, 576)),
    vocab_size: int = 8000,
) -> None:
    """Measure and save.

    Args:
        rounds: measured texts of each variant.
        rounds_of_threads: measured texts of each number of threads.
        n_tokens: length of a text.
        shapes: layers and width of the models.
        vocab_size: vocabulary of the models.
    """
    tables = {}
    for (n_layers, d_model), precision in itertools.product(shapes, PRECISIONS):
        size = count_parameters(model_config("gpt2", n_layers, d_model, vocab_size)) / 1e6
        tables[f"{n_layers} x {d_model} ({size:.1f} M), {precision}"] = against_transformers(
            n_layers, d_model, vocab_size, precision, n_tokens, rounds
        )
    for (n_layers, d_model), n_busy in itertools.product(shapes, (0, usable_cpus())):
        beside = f"beside {n_busy} busy processes" if n_busy else "on a quiet machine"
        config = model_config("gpt2", n_layers, d_model, vocab_size)
        tables[f"threads, {n_layers} x {d_model}, {beside}"] = by_threads(
            config, n_busy, n_tokens, rounds_of_threads
        )
    report.save("generation", tables)


if __name__ == "__main__":
    tyro.cli(main)
