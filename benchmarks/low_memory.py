"""Measures how much memory `--memory low` saves, its cost in quality, and a step of a model of three billion weights.

    python -m benchmarks.low_memory steps
    python -m benchmarks.low_memory quality fairy_tales.txt
    python -m benchmarks.low_memory 3b
    python -m benchmarks.low_memory mlx

The steps and the 3B model are measured in processes of their own, since the peak memory of a process never falls. The
third command needs the whole of a machine with 24 GiB, 50 GB of disk and about half an hour. The last one measures MLX,
which counts its memory itself, on the device that it takes by default.
"""

import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks import report
from benchmarks.memory import Case, above_the_process
from benchmarks.models import RATES, random_tokens, trainable
from benchmarks.prose import FIXED, Seeds, scored, sides
from homespun.architectures.families import count_parameters
from homespun.checkpoint.folder import CheckpointFolder
from homespun.data.batch import Batch
from homespun.engine import select
from homespun.planning.estimate import Computing, training_memory
from homespun.records import reading

CASES = tuple(
    Case(size, batch_size, seq_len, optimizer=optimizer, checkpointing=True, low_memory=low)
    for size, batch_size, seq_len, optimizer in (
        ("gpt2-small", 4, 512, "adamw"),
        ("gpt2-small", 4, 512, "muon"),
        ("gpt2-medium", 1, 512, "adamw"),
        ("gpt2-medium", 8, 512, "adamw"),
    )
    for low in (False, True)
)
THREE_BILLION = Case("3b", 1, 512, checkpointing=True, low_memory=True)
MLX_CASES = tuple(
    Case("pico", 1, 64, 1000, 8, 256, precision="float32", checkpointing=True, low_memory=low)
    for low in (False, True)
)
MEMORIES = ("full", "low")
OPTIMIZERS = {
    "adamw": "",
    "muon": "--optimizer muon --learning-rate 0.04 --muon-learning-rate 0.017",
}
"""The flags of each optimizer, with the rates of the recipe."""
SHAPE = "--vocab-size 8000"
"""With it, the model of `FIXED` has 13.8 M weights."""
STOPPED_AT, END = 2, 3
"""Steps of the run with 3B."""
ENOUGH_TEXT = 4000
GIBIBYTE = 2**30


def steps(only: tuple[int, ...] = tuple(range(len(CASES)))) -> None:
    """Measure the memory of a step with checkpointing, with full and with low memory.

    Args:
        only: indices of the cases to measure.
    """
    report.save(
        "low_memory_steps",
        {"a training step, bfloat16, checkpointing": [measured(CASES[i]) for i in only]},
    )


def measured(case: Case) -> report.Row:
    """The peak of a case, above the process without the model, and its estimate."""
    found, estimate = above_the_process(case), case.estimate()
    row = {
        "model": f"{case.model.architecture} {case.model.n_layers} x {case.model.d_model}",
        "M parameters": round(count_parameters(case.model) / 1e6, 1),
        "tokens": f"{case.batch_size} x {case.seq_len}",
        "optimizer": case.optimizer,
        "memory": MEMORIES[case.low_memory],
        "measured MB": round(found / 1e6),
        "estimated MB": round(estimate / 1e6),
        "estimated / measured": round(estimate / found, 3),
    }
    print(report.table([row]), flush=True)
    return row


def mlx() -> None:
    """Measure the memory of a step with MLX, with full and with low memory, both with checkpointing."""
    rows = [in_a_process(_measure_mlx, case)["row"] for case in MLX_CASES]
    report.save("low_memory_mlx", {"a training step with MLX, float32, checkpointing": rows})


def _measure_mlx(case: Case) -> dict[str, Any]:
    """The peak of two steps as MLX counts it, and its estimate."""
    model = case.model
    engine = trainable(
        model, case.optimizer, case.precision, False, True, case.low_memory, engine="mlx"
    )
    ids = random_tokens(model, case.batch_size)
    batch = Batch(ids[:, :-1].copy(), ids[:, 1:].copy())
    for step in range(2):
        engine.train_step([batch], RATES, step).result()
    found = engine.peak_memory()
    use = select.machine("mlx").step_traits(case.precision, case.seq_len)
    computing = Computing(case.optimizer, use, True, masked=False, low_memory=case.low_memory)
    estimate = training_memory(model, case.batch_size, computing).total
    row = {
        "memory": MEMORIES[case.low_memory],
        "model": f"{model.architecture} {model.n_layers} x {model.d_model}",
        "M parameters": round(count_parameters(model) / 1e6, 1),
        "tokens": f"{case.batch_size} x {case.seq_len}",
        "measured MB": round(found / 1e6),
        "estimated MB": round(estimate / 1e6),
        "estimated / measured": round(estimate / found, 3),
    }
    return {"row": row}


def quality(
    text: Annotated[Path, tyro.conf.Positional],
    seeds: Seeds = (0, 1, 2),
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS),
    flags: str = "",
) -> None:
    """Train the same model with full and with low memory, with several seeds, and score both.

    Args:
        text: the file; see `benchmarks.prose`.
        seeds: seeds of the runs.
        optimizers: the optimizers to measure.
        flags: more flags for `homespun train`.
    """
    learned, held_out = sides(text, tune=False)
    runs: list[report.Row] = []
    for seed in seeds:
        for optimizer in optimizers:
            for memory in MEMORIES:
                # `tyro` takes the last one of flags that are given twice.
                line = f"{FIXED} {SHAPE} {OPTIMIZERS[optimizer]} --gradient-checkpointing --memory {memory} {flags}"
                found = scored([*learned, *held_out], held_out, line, seed)
                runs.append({"optimizer": optimizer, "memory": memory, **found})
                print(report.table(runs[-1:]), flush=True)
    report.save("low_memory_quality", {"over the seeds": summary(runs), "each run": runs})


def summary(runs: list[report.Row]) -> list[report.Row]:
    """For each optimizer the bits per byte of both, and the difference between runs of equal seed."""
    rows: list[report.Row] = []
    for optimizer in dict.fromkeys(str(run["optimizer"]) for run in runs):
        figures: dict[str, list[float]] = {
            memory: [
                float(run["bits/byte"])
                for run in runs
                if (run["optimizer"], run["memory"]) == (optimizer, memory)
            ]
            for memory in MEMORIES
        }
        figures["low - full"] = [low - full for full, low in zip(*figures.values(), strict=True)]
        rows += [
            {
                "bits/byte": f"{optimizer}, {name}",
                "mean": round(statistics.mean(values), 4),
                "least": round(min(values), 4),
                "most": round(max(values), 4),
            }
            for name, values in figures.items()
        ]
    return rows


def three_billion() -> None:
    """Measure a step of the 3B preset with its whole vocabulary; then train it with the real command for three steps,
    also stopped after two and resumed, and compare the weights bit for bit."""
    step = measured(THREE_BILLION)
    rows: list[report.Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows.append({"process": "prepare", **in_a_process(_prepare, folder)})
        whole, part = folder / "whole", folder / "part"
        for label, where, settings in (
            (f"{END} steps", whole, {"resume": "never"}),
            (f"{STOPPED_AT} steps", part, {"resume": "never", "stop_at": STOPPED_AT}),
            ("resumed", part, {"resume": "latest"}),
        ):
            rows.append({"process": label, **in_a_process(_train, folder, str(where), settings)})
            print(report.table(rows[-1:]), flush=True)
            if where is whole:
                control = hashes(whole, END)
                losses = loss_of(whole)
                for file in whole.glob("*.npz"):
                    file.unlink()  # the disk has no room for both runs
        same = hashes(part, END) == control and loss_of(part) == losses
    outcome: report.Row = {
        "resumed run": "weights, moments and losses",
        "equal to the uninterrupted one": "yes" if same else "no",
    }
    report.save(
        "low_memory_3b",
        {"a training step": [step], "homespun train --memory low": rows, "resume": [outcome]},
    )


def in_a_process(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The result of work in a new process, with its duration and its peak memory."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    start = time.perf_counter()
    process = context.Process(target=_send, args=(theirs, work, *arguments))
    process.start()
    theirs.close()
    result: dict[str, Any] = ours.recv()
    process.join()
    return {"seconds": round(time.perf_counter() - start), **result}


def _send(connection: Connection, work: Callable[..., dict[str, Any]], *arguments: Any) -> None:
    result = work(*arguments)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connection.send({"peak GiB": round(peak / GIBIBYTE, 2), **result})


def _prepare(folder: Path) -> dict[str, Any]:
    import os

    import homespun

    os.chdir(folder)
    homespun.download(dataset="stories", num_samples=ENOUGH_TEXT)
    homespun.train_tokenizer(vocab_size=8000)
    return {}


def _train(folder: Path, where: str, settings: dict[str, Any]) -> dict[str, Any]:
    import os

    import homespun
    from homespun.records.events import Event, Step, StopRun

    os.chdir(folder)
    stop_at = settings.pop("stop_at", None)

    def on_event(event: Event) -> None:
        if isinstance(event, Step) and event.step == stop_at:
            raise StopRun("to be resumed")

    if settings["resume"] == "never":
        settings |= {
            "model_size": "3b", "memory": "low", "batch_size": 1, "seq_len": 512, "max_steps": END,
            "log_interval": 1, "eval_interval": 10**6, "sample_interval": 10**6, "eval_tokens": 512,
            "compile": "off", "keep": 1,
        }  # fmt: skip
    homespun.train(checkpoint_dir=where, on_event=on_event, **settings)
    return {}


def hashes(folder: Path, step: int) -> dict[str, str]:
    """The SHA-256 of each array of a checkpoint."""
    checkpoint = CheckpointFolder(folder).open(step)
    return {
        name: info.sha256
        for archive in (checkpoint.weights, checkpoint.state)
        for name, info in archive.arrays.items()
    }


def loss_of(folder: Path) -> list[str]:
    """The exact loss of each step."""
    found = reading.read(folder / "metrics.jsonl")
    return [record["loss_hex"] for record in found if "loss_hex" in record]


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"steps": steps, "quality": quality, "3b": three_billion, "mlx": mlx}
    )
