"""Cost of a checkpoint for a run of the 13.8 M GPT-2 shape, saved in the background and in the foreground.

    python -m benchmarks.saving

A turn is a few steps, with a save after the first step or without a save, and ends when the save is done. The cost of a
save is the difference between the two kinds of turn. It includes all waiting and all slowing of the steps.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import count, dropwhile, takewhile
from pathlib import Path

import tyro

from benchmarks import report
from benchmarks.models import RATES, model_config, random_tokens, trainable
from benchmarks.rounds import interleaved
from homespun.architectures.families import count_parameters, parameters
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.writer import CheckpointWriter
from homespun.config import RecordConfig
from homespun.data.batch import Batch
from homespun.engine.base import Engine
from homespun.named_array import NamedArray
from homespun.training.timing.due import MAX_UNSAVED_SECONDS

BATCH, N_SAMPLES = 8, 256


class Trainer:
    """Trains on random tokens, optionally with a save."""

    def __init__(self, n_layers: int, d_model: int, vocab_size: int, steps: int) -> None:
        self.config = model_config("gpt2", n_layers, d_model, vocab_size)
        self.steps = steps
        self.engine: Engine = trainable(self.config, "adamw", "bfloat16", compiled=False)
        samples = random_tokens(self.config, N_SAMPLES).reshape(-1, BATCH, self.config.seq_len + 1)
        self.batches = [Batch(ids[:, :-1].copy(), ids[:, 1:].copy()) for ids in samples]
        self.weights = {p.name for p in parameters(self.config)}
        self.numbers = count(1)
        self.pauses: dict[str, list[float]] = {}
        self.seconds: dict[str, list[float]] = {}

    def turn(self, name: str, writer: CheckpointWriter | None) -> float:
        """Seconds for `steps` steps, and for a save after the first one if there is a `writer`."""
        start = time.perf_counter()
        for n in range(self.steps):
            step = next(self.numbers)
            self.engine.train_step([self.batches[step % len(self.batches)]], RATES, step).result()
            if writer and n == 0:
                began = time.perf_counter()
                writer.save(step, self.state(True), self.state(False), {}, {})
                self.pauses.setdefault(name, []).append(time.perf_counter() - began)
        if writer:
            writer.finish()
            self.seconds.setdefault(name, []).append(writer.seconds_to_save)
        return time.perf_counter() - start

    def state(self, of_weights: bool) -> Iterator[NamedArray]:
        choose = takewhile if of_weights else dropwhile
        return iter(choose(lambda named: named[0] in self.weights, self.engine.state()))


def main(
    rounds: int = 8, steps: int = 8, n_layers: int = 6, d_model: int = 384, vocab_size: int = 8000
) -> None:
    """Measure and save.

    Args:
        rounds: measured turns of each variant.
        steps: steps in a turn.
        n_layers: layers of the model.
        d_model: width of the model.
        vocab_size: vocabulary of the model.
    """
    trainer = Trainer(n_layers, d_model, vocab_size, steps)
    n_bytes = 4 * count_parameters(trainer.config)
    with tempfile.TemporaryDirectory() as folder:
        variants = {"without": partial(trainer.turn, "without", None)}
        for name, in_background in (("in the background", True), ("at once", False)):
            place = Path(folder) / name.replace(" ", "-")
            place.mkdir()
            writer = CheckpointWriter(
                CheckpointFolder(place), n_bytes, in_background=in_background, report=print
            )
            variants[name] = partial(trainer.turn, name, writer)
        turns = interleaved(variants, rounds)
    step = statistics.median(turns["without"]) / steps
    interval = min(RecordConfig.save_interval * step, MAX_UNSAVED_SECONDS)
    rows = []
    for name in list(variants)[1:]:
        lost = [one - other for one, other in zip(turns[name], turns["without"], strict=True)]
        rows.append(
            {
                "save": name,
                "run waits, s": round(statistics.median(trainer.pauses[name][1:]), 2),
                "written in, s": round(statistics.median(trainer.seconds[name][1:]), 2),
                "run lost, s": round(statistics.median(lost), 2),
                "least": round(min(lost), 2),
                "most": round(max(lost), 2),
                "% of the run": round(100 * statistics.median(lost) / interval, 2),
            }
        )
    title = (
        f"{n_layers} x {d_model}, vocabulary {vocab_size:,}, a step in {step:.2f} s, "
        f"{3 * n_bytes / 1e6:.0f} MB saved every {interval:.0f} s"
    )
    report.save("saving", {title: rows})


if __name__ == "__main__":
    tyro.cli(main)
