"""Speed of the server: one text at a time against 16 at once, in the batcher alone and through HTTP with streams.

    python -m benchmarks.serving

Each text has 128 tokens after a prompt of 8 tokens, drawn at temperature 1 with random weights and without an end. Each
variant runs in its own process.
"""

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE

import tyro

from benchmarks import report
from benchmarks.generation import prompt_of, story_words
from benchmarks.models import model_config
from benchmarks.rounds import NextTurn, Process, compared, interleaved
from homespun import tokenizer
from homespun.architectures.families import count_parameters, initial_weights
from homespun.config import (
    ModelConfig,
    ReaderConfig,
    ReaderName,
    ReaderPrecision,
    SamplingConfig,
)
from homespun.language_model import LanguageModel, load_stored
from homespun.model_formats.stored_model import StoredModel

AT_ONCE = 16
NO_END = {0: -100.0}


def loaded(config: ModelConfig, wanted: ReaderConfig) -> tuple[LanguageModel, str]:
    """A model with random weights, and a prompt for it."""
    words = story_words()
    speech = tokenizer.train([" ".join(words)] * 2, config.vocab_size)
    stored = StoredModel(
        Path("random"), config, speech, lambda: iter(initial_weights(config, seed=0)), {}
    )
    return load_stored(stored, wanted), prompt_of(speech, words)


def batched(
    config: ModelConfig, wanted: ReaderConfig, n_texts: int, n_tokens: int, next_turn: NextTurn
) -> None:
    """The batcher alone. A turn is `n_texts` texts at once, its figure tokens per second of all together."""
    from homespun.generation.batching import Batcher

    model, prompt = loaded(config, wanted)
    ids = model.session.prompt_ids(prompt)
    with Batcher(model.session) as batcher:
        for seed in itertools.count():
            sampling = SamplingConfig(max_tokens=n_tokens, temperature=1.0, min_p=0.0, seed=seed)
            start = time.perf_counter()
            for _ in batcher.write(ids, sampling, n=n_texts, bias=NO_END):
                pass
            next_turn(n_texts * n_tokens / (time.perf_counter() - start))


def served(
    config: ModelConfig, wanted: ReaderConfig, n_texts: int, n_tokens: int, next_turn: NextTurn
) -> None:
    """As `batched`, by so many clients of a server, each of which reads a stream, in a process of their own."""
    from homespun.server import launch
    from homespun.server.app import server_app
    from homespun.server.writing import Service

    model, prompt = loaded(config, wanted)
    service = Service(model, "random")
    listening = launch.bind("127.0.0.1", 0, None)
    server = launch.new_server(server_app(service))
    threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
    body = json.dumps(
        {
            "model": "random",
            "prompt": prompt,
            "max_tokens": n_tokens,
            "stream": True,
            "logit_bias": {str(token): bias for token, bias in NO_END.items()},
        }
    )

    with clients_of(listening.getsockname()[1], n_texts, body) as read:
        while True:
            next_turn(n_texts * n_tokens / read())


@contextmanager
def clients_of(port: int, n: int, body: str) -> Iterator[Callable[[], float]]:
    """A function that lets `n` clients send a request each, and gives the seconds until all have their answers."""
    command = [sys.executable, "-m", "benchmarks.stream_clients", str(port), str(n), body]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        to, back = process.stdin, process.stdout
        assert to
        assert back

        def read() -> float:
            print(file=to, flush=True)
            return float(back.readline())

        yield read
        to.close()


def measured(
    config: ModelConfig, wanted: ReaderConfig, n_tokens: int, rounds: int
) -> dict[str, list[report.Row]]:
    """One text at a time and 16 at once, in the batcher and by the server."""
    works = {"batcher": batched, "server": served}
    with ExitStack() as stack:
        variants = {
            (title, n): stack.enter_context(Process(partial(work, config, wanted, n, n_tokens)))
            for title, work in works.items()
            for n in (1, AT_ONCE)
        }
        names = {f"{title} {n}": turn for (title, n), turn in variants.items()}
        figures = interleaved(names, rounds)
    together = {title: figures[f"{title} {AT_ONCE}"] for title in works}
    return {
        title: compared(
            {f"{n} at once": figures[f"{title} {n}"] for n in (1, AT_ONCE)}, "tokens/s", 1
        )
        for title in works
    } | {f"{AT_ONCE} at once": compared(together, "tokens/s", 1)}


def main(
    rounds: int = 7,
    n_tokens: int = 128,
    shapes: tuple[tuple[int, int], ...] = ((6, 384),),
    vocab_size: int = 8000,
    precisions: tuple[ReaderPrecision, ...] = ("float32", "bfloat16"),
    engine: ReaderName = "auto",
    threads: int | None = None,
) -> None:
    """Measure and save.

    Args:
        rounds: measured turns of each variant.
        n_tokens: length of a text.
        shapes: layers and width of the models.
        vocab_size: vocabulary of the models.
        precisions: of the weights.
        engine: the one that reads the model; auto: as `homespun serve` chooses it.
        threads: of the engine; None: as many as are faster.
    """
    tables = {}
    for (n_layers, d_model), precision in itertools.product(shapes, precisions):
        config = model_config("gpt2", n_layers, d_model, vocab_size)
        size = count_parameters(config) / 1e6
        wanted = ReaderConfig(engine, precision, threads)
        for title, rows in measured(config, wanted, n_tokens, rounds).items():
            tables[f"{title}, {n_layers} x {d_model} ({size:.1f} M), {precision}"] = rows
    report.save("serving", tables)


if __name__ == "__main__":
    tyro.cli(main)
