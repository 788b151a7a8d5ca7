"""Speed of generating text, one at a time: `generate` of transformers, and ours, from the prompt to the last character.

    python -m benchmarks.generation

200 tokens at temperature 0.8 after a prompt of 8, random weights. Each variant is a process of its own.
"""

import itertools
import random
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import tyro

from benchmarks import report
from benchmarks.models import in_transformers, model_config
from benchmarks.rounds import NextTurn, Process, compared, interleaved
from homespun import tokenizer
from homespun.config import LoadConfig, ModelConfig, Precision, SamplingConfig
from homespun.engine import select
from homespun.generation.generate import generate, prompt_ids
from homespun.model.spec import count_parameters, initial_weights
from homespun.tokenizer import Tokenizer

PROMPT_TOKENS, TEMPERATURE = 8, 0.8
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
"""In float32 models of this size are read by NumPy, in bfloat16 by PyTorch."""


def ours(config: ModelConfig, precision: Precision, n_tokens: int, next_turn: NextTurn) -> None:
    """Figures are tokens per second; a turn is one text."""
    engine = select.reader(config, LoadConfig(precision=precision))
    engine.load(initial_weights(config, seed=0))
    words = _words()
    speech = tokenizer.train([" ".join(words)] * 2, config.vocab_size)
    prompt = _prompt(speech, words)
    for seed in itertools.count():
        sampling = SamplingConfig(max_tokens=n_tokens, temperature=TEMPERATURE, seed=seed)
        start = time.perf_counter()
        [written] = generate(engine.decoder, speech, prompt, sampling, context=config.seq_len)
        # Random weights may draw the mark that ends a text.
        next_turn(len(written.token_ids) / (time.perf_counter() - start))


def transformers(
    config: ModelConfig, precision: Precision, n_tokens: int, next_turn: NextTurn
) -> None:
    """The same with the library's own `generate`, from ids to ids."""
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


def _words() -> list[str]:
    """Enough different ones for any vocabulary."""
    rng = random.Random(0)
    syllables = [a + b for a in "bdfghjklmnprstvwz" for b in "aeiou"]
    return ["".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(10_000)]


def _prompt(speech: Tokenizer, words: list[str]) -> str:
    """A text that is as many tokens long as the other side's, with the mark that begins it."""
    for n_words in range(1, PROMPT_TOKENS):
        for first in range(0, len(words), n_words):
            prompt = " ".join(words[first : first + n_words])
            if len(prompt_ids(speech, prompt, PROMPT_TOKENS + 100)) == PROMPT_TOKENS:
                return prompt
    raise AssertionError("no prompt has that length")


def main(
    rounds: int = 7,
    n_tokens: int = 200,
    shapes: tuple[tuple[int, int], ...] = ((6, 384), (12, 576)),
    vocab_size: int = 8000,
) -> None:
    """Measure and save.

    Args:
        rounds: texts of each variant that count.
        n_tokens: length of a text.
        shapes: layers and width of the models.
        vocab_size: their vocabulary.
    """
    tables = {}
    for (n_layers, d_model), precision in itertools.product(shapes, PRECISIONS):
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
            rows = compared(interleaved(processes, rounds), "tokens/s", 1)
        title = f"{n_layers} x {d_model} ({count_parameters(gpt2) / 1e6:.1f} M), {precision}"
        tables[title] = rows
    report.save("generation", tables)


if __name__ == "__main__":
    tyro.cli(main)
