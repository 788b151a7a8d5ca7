"""Generation with weights of 32, 16 and 8 bits: speed, beside `generate` of transformers and llama.cpp, and loss.

    python -m benchmarks.narrow_weights
    python -m benchmarks.narrow_weights --run checkpoints --data-file new_text.txt

One text of 200 tokens at temperature 0.8 after a prompt of 8 tokens, with random weights; each variant runs in its own
process. llama.cpp takes part where llama-cpp-python is installed. With a run, its loss on a text is measured in each
precision.
"""

import importlib.util
import itertools
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import report
from benchmarks.generation import PROMPT_TOKENS, TEMPERATURE, ours, story_words, transformers
from benchmarks.models import model_config
from benchmarks.rounds import NextTurn, Process, compared, interleaved
from homespun import tokenizer
from homespun.architectures.families import count_parameters, initial_weights
from homespun.config import EvalConfig, ModelConfig, ReaderConfig, ReaderPrecision
from homespun.engine import select
from homespun.engine.hardware import usable_cpus
from homespun.evaluation.evaluate import evaluate
from homespun.model_formats import gguf
from homespun.model_formats.stored_model import StoredModel

PRECISIONS: tuple[ReaderPrecision, ...] = ("float32", "bfloat16", "int8")
BATCH = 16
Environment = dict[str, str]


def llama_cpp(
    config: ModelConfig, precision: ReaderPrecision, n_tokens: int, next_turn: NextTurn
) -> None:
    """Generate with llama.cpp, from ids to ids; int8 is its Q8_0."""
    from llama_cpp import Llama

    speech = tokenizer.train([" ".join(story_words())] * 2, config.vocab_size)
    stored = StoredModel(Path("random"), config, speech, lambda: initial_weights(config, 0), {})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        gguf.write_file(stored, file, precision)
        model = Llama(
            str(file),
            n_ctx=config.seq_len,
            n_threads=usable_cpus(),
            logits_all=False,
            verbose=False,
        )
    prompt = list(range(1, 1 + PROMPT_TOKENS))
    while True:
        start = time.perf_counter()
        model.reset()
        written = model.generate(prompt, temp=TEMPERATURE, top_k=0, top_p=1.0, min_p=0.0)
        n_written = sum(1 for _ in itertools.islice(written, n_tokens))
        next_turn(n_written / (time.perf_counter() - start))


def in_batch(
    config: ModelConfig,
    precision: ReaderPrecision,
    batch_size: int,
    n_steps: int,
    next_turn: NextTurn,
) -> None:
    """Decode several texts together, without sampling; the figure is that of all texts."""
    reader = select.reader(config, ReaderConfig(precision=precision))
    reader.load(initial_weights(config, seed=0))
    rng = np.random.default_rng(0)
    decoder = reader.decoder(batch_size, PROMPT_TOKENS + n_steps)
    prompt = rng.integers(0, config.vocab_size, (batch_size, PROMPT_TOKENS), dtype=np.int32)
    while True:
        decoder.rewind(0)
        decoder.prefill(prompt)
        start = time.perf_counter()
        for _ in range(n_steps):
            decoder.step(rng.integers(0, config.vocab_size, batch_size, dtype=np.int32))
        next_turn(batch_size * n_steps / (time.perf_counter() - start))


def by_precision(
    config: ModelConfig, n_tokens: int, rounds: int, environment: Environment
) -> Iterator[tuple[str, list[report.Row]]]:
    """Each precision and peer in turn."""
    works: dict[str, Any] = {
        "transformers bfloat16": partial(transformers, config, "bfloat16", n_tokens)
    }
    works |= {name: partial(ours, config, name, n_tokens) for name in PRECISIONS}
    has_llama_cpp = importlib.util.find_spec("llama_cpp") is not None
    if has_llama_cpp:
        works |= {
            f"llama.cpp {name}": partial(llama_cpp, config, name, n_tokens) for name in PRECISIONS
        }
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(Process(work, environment)) for name, work in works.items()
        }
        measured = interleaved(processes, rounds)
    yield "one text", compared(measured, "tokens/s", 1)
    if has_llama_cpp:
        for name in PRECISIONS:
            pair = {other: measured[other] for other in (f"llama.cpp {name}", name)}
            yield f"one text, {name}", compared(pair, "tokens/s", 1)


def by_batch(
    config: ModelConfig, n_steps: int, rounds: int, environment: Environment
) -> list[report.Row]:
    """One text, and several together."""
    with ExitStack() as stack:
        rows: list[report.Row] = []
        for precision in PRECISIONS:
            processes = {
                f"{precision}, {n}": stack.enter_context(
                    Process(partial(in_batch, config, precision, n, n_steps), environment)
                )
                for n in (1, BATCH)
            }
            rows += compared(interleaved(processes, rounds), "tokens/s", 1)
        return rows


def loss(run: Path, data_file: Path) -> list[report.Row]:
    """Bits per byte of a text in each precision."""
    rows: list[report.Row] = []
    first = 0.0
    for precision in PRECISIONS:
        config = EvalConfig(models=(str(run),), data_file=str(data_file), precision=precision)
        [found] = evaluate(config, print)
        first = first or found.bits_per_byte
        rows.append(
            {
                "precision": precision,
                "tokens": found.n_tokens,
                "bits/byte": round(found.bits_per_byte, 5),
                "more": round(found.bits_per_byte - first, 5),
            }
        )
    return rows


def main(
    rounds: int = 7,
    n_tokens: int = 200,
    shapes: tuple[tuple[int, int], ...] = ((6, 384), (12, 576)),
    vocab_size: int = 8000,
    threads: int | None = None,
    run: Path | None = None,
    data_file: Path | None = None,
) -> None:
    """Measure and save.

    Args:
        rounds: measured texts of each variant.
        n_tokens: length of a text.
        shapes: layers and width of the models.
        vocab_size: vocabulary of the models.
        threads: of each process; by default one for each core. One thread is disturbed least by other programs.
        run: the folder of a run, whose loss is measured.
        data_file: the text for that.
    """
    tables = {}
    environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    for n_layers, d_model in shapes:
        config = model_config("gpt2", n_layers, d_model, vocab_size)
        size = f"{n_layers} x {d_model} ({count_parameters(config) / 1e6:.1f} M)"
        for title, rows in by_precision(config, n_tokens, rounds, environment):
            tables[f"{size}, {title}"] = rows
        tables[f"{size}, texts at a time"] = by_batch(config, n_tokens // 2, rounds, environment)
    if run is not None and data_file is not None:
        tables["loss"] = loss(run, data_file)
    report.save("narrow_weights", tables)


if __name__ == "__main__":
    tyro.cli(main)
