"""Ranks that divide a model train as one process does, and mistakes in ranks are found. Real processes."""

import os
import random
import re
import select
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import homespun as package
from homespun.architectures.families import count_parameters, parameters
from homespun.architectures.presets import preset, shaped
from homespun.config import ModelConfig
from homespun.engine.base import OutOfMemory
from homespun.engine.torch import replicas, shards
from homespun.planning.ranks import Ranks, traffic
from tests.conftest import Command, finished, records
from tests.reference import GPT2, QWEN3_MOE
from tests.test_ranks import (
    DENSE,
    MIXTURE,
    assert_followed,
    launch,
    rank_processes,
    wait_for_step,
)
from tests.test_resume import tensors

FULL = ("--shard", "full")
ADAMW = (*DENSE, "--optimizer", "adamw")


@pytest.fixture(autouse=True)
def _in_workplace(workplace: Path) -> None:
    """Every test works in a folder of its own."""


def test_divided_ranks_follow_one_process_and_either_resumes_the_other(homespun: Command) -> None:
    finished(homespun(*DENSE, "--checkpoint-dir", "one"))
    output = finished(launch(2, *DENSE, *FULL, "--checkpoint-dir", "two"))
    assert "1 thread, 2 ranks that divide the model" in output
    assert_followed(Path("one"), Path("two"))
    longer = ["train", "--resume", "--max-steps", 14, "--checkpoint-dir"]
    finished(launch(2, *longer, "one", *FULL))
    finished(homespun(*longer, "two"))
    assert_followed(Path("one"), Path("two"), 14)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [ADAMW, DENSE, MIXTURE])
@pytest.mark.parametrize("n_ranks", [2, 3, 4])
@pytest.mark.parametrize("shard", ["none", "full"])
def test_fifty_steps_of_any_number_of_ranks_follow_one_process(
    homespun: Command, flags: list[object], n_ranks: int, shard: str
) -> None:
    if flags is MIXTURE and n_ranks == 3:
        pytest.skip("a mixture's micro-batches would be others")
    flags = [*flags, "--max-steps", 50]
    finished(homespun(*flags, "--checkpoint-dir", "one"))
    finished(launch(n_ranks, *flags, "--shard", shard, "--checkpoint-dir", "other"))
    assert_followed(Path("one"), Path("other"), 50)


@pytest.mark.slow
@pytest.mark.parametrize("n_ranks", [2, 4])
def test_adapters_of_a_divided_model_follow_one_process(homespun: Command, n_ranks: int) -> None:
    finished(homespun(*DENSE, "--checkpoint-dir", "base"))
    adapters = ["train", "--init-from", "base", "--lora-rank", 4, "--max-steps", 50]
    adapters += ["--batch-size", 4, "--precision", "float32", "--log-interval", 1, "--threads", 1]
    finished(homespun(*adapters, "--checkpoint-dir", "one"))
    finished(launch(n_ranks, *adapters, *FULL, "--checkpoint-dir", "two"))
    assert_followed(Path("one"), Path("two"), 50)


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["none", "full"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_equal_runs_are_equal_bit_for_bit(shard: str, precision: str) -> None:
    """Sums have a fixed order, however fast each rank is."""
    flags = [*DENSE, "--shard", shard, "--precision", precision, "--grad-accumulation-steps", 2]
    for name in ("one", "two"):
        finished(launch(2, *flags, "--checkpoint-dir", name))
    assert_equal(Path("one"), Path("two"))


def assert_equal(one: Path, other: Path) -> None:
    """Two runs have equal numbers, bit for bit."""
    for left, right in zip(records(one), records(other), strict=True):
        for figure in ("loss", "grad_norm", "val_loss"):
            assert left.get(figure) == right.get(figure)
    mine, theirs = tensors(one, 10), tensors(other, 10)
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name])


@pytest.mark.slow
@pytest.mark.parametrize("flags", [DENSE, ADAMW, [*MIXTURE, "--grad-accumulation-steps", 3]])
@pytest.mark.parametrize("n_ranks", [2, 3])
def test_shared_memory_and_connections_give_equal_bits(flags: list[object], n_ranks: int) -> None:
    finished(launch(n_ranks, *flags, "--checkpoint-dir", "one"))
    apart = ("tests.sabotaged_ranks", "ranks_are_on_machines_of_their_own")
    finished(launch(n_ranks, *flags, "--checkpoint-dir", "two", module=apart))
    assert_equal(Path("one"), Path("two"))


SABOTAGES = {
    "loss_is_a_mean_over_ranks": (*DENSE,),
    "ranks_choose_rows_for_themselves": (*DENSE,),
    "norm_is_that_of_one_rank": (*DENSE,),
    "evaluation_is_that_of_one_rank": (*DENSE,),
    "gradients_of_neighbours_are_forgotten": (*DENSE,),
    "weights_stay_where_they_are_updated": (*DENSE,),
    "gradients_are_added_up_too_early": (*DENSE, "--grad-accumulation-steps", 4),
    "matrices_are_not_exchanged": (*DENSE, *FULL),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", SABOTAGES)
def test_a_mistake_is_found(homespun: Command, mistake: str) -> None:
    flags = SABOTAGES[mistake]
    finished(homespun(*flags, "--checkpoint-dir", "one"))
    finished(
        launch(2, *flags, "--checkpoint-dir", "two", module=("tests.sabotaged_ranks", mistake))
    )
    with pytest.raises(AssertionError):
        assert_followed(Path("one"), Path("two"))


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["none", "full"])
def test_forgotten_moments_are_found(homespun: Command, shard: str) -> None:
    finished(homespun(*DENSE, "--checkpoint-dir", "one"))
    finished(homespun(*DENSE, "--checkpoint-dir", "two"))
    longer = ["train", "--resume", "--max-steps", 14, "--checkpoint-dir"]
    finished(homespun(*longer, "one"))
    sabotaged = ("tests.sabotaged_ranks", "moments_are_forgotten")
    finished(launch(2, *longer, "two", "--shard", shard, module=sabotaged))
    with pytest.raises(AssertionError):
        assert_followed(Path("one"), Path("two"), 14)


@pytest.mark.slow
def test_twenty_kills_of_ranks_or_launcher_lose_nothing(homespun: Command) -> None:
    """The launcher starts its ranks again; a launcher that was killed is started again here, with other ranks."""
    flags = [*DENSE, "--max-steps", 600, "--save-interval", 5]
    finished(homespun(*flags, "--checkpoint-dir", "control"))
    flags += ["--resume", "auto", "--checkpoint-dir", "other"]
    dice, step = random.Random(0), 0
    launched: subprocess.Popen[str] | None = None
    for _ in range(20):
        if launched is None:
            shard, n_ranks = dice.choice(["none", "full"]), dice.choice([2, 3])
            launched = launch(
                n_ranks, *flags, "--shard", shard, launcher_flags=("--max-restarts", 20)
            )
        step += dice.randrange(10, 29)
        wait_for_step(launched, step)
        ranks = rank_processes(launched)
        victim = dice.choice([*ranks, launched.pid])
        ends = [os.pidfd_open(rank) for rank in ranks]
        os.kill(victim, signal.SIGKILL)
        if victim == launched.pid:
            launched.communicate()
            launched = None
        for end in ends:
            assert select.select([end], [], [], 100)[0], "a rank has not ended"
            os.close(end)
    if launched is None:
        launched = launch(2, *flags)
    finished(launched)
    # Adam makes a full step of the mere rounding in the gradients of key biases, which change nothing.
    assert_followed(Path("control"), Path("other"), 600, weights=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [DENSE, MIXTURE])
@pytest.mark.parametrize("shard", ["none", "full"])
def test_a_step_moves_as_many_bytes_as_planned(flags: tuple[object, ...], shard: str) -> None:
    output = finished(launch(2, *flags, "--shard", shard, module=("tests.counted_ranks",)))
    counted = [int(n) for n in re.findall(r"rank \d sent (\d+) bytes", output)]
    model = package.load("checkpoints").config
    micro_batches = 1 if flags is DENSE else 2
    planned = traffic(
        model, Ranks(2, 2, shard == "full"), micro_batches, optimizer="muon", half=False
    )
    assert len(counted) == 2
    assert sum(counted) / 2 == pytest.approx(planned.total, rel=0.03)


# Without processes.


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("config", [GPT2, QWEN3_MOE])
@pytest.mark.parametrize("n_ranks", [1, 2, 3, 8])
def test_every_row_is_updated_by_one_rank(
    config: ModelConfig, optimizer: str, n_ranks: int
) -> None:
    spec = parameters(config)
    rows = replicas.divided(spec, optimizer, n_ranks)
    assert rows.keys() == {p.name for p in spec}
    for p in spec:
        covered = [row for first, end in rows[p.name] for row in range(first, end)]
        assert covered == list(range(p.shape[0]))
        if optimizer == "muon" and p.group == "matrix" and len(p.shape) == 2:
            assert sum(end > first for first, end in rows[p.name]) == 1
    found = replicas.parcels(spec, rows)
    assert sorted(name for parcel in found for name in parcel.names) == sorted(rows)


def test_the_work_of_a_large_model_is_divided_evenly() -> None:
    config = shaped(preset("gpt2-small"), {"vocab_size": 50257, "seq_len": 1024})
    spec = {p.name: p for p in parameters(config)}
    for optimizer in ("adamw", "muon"):
        rows = replicas.divided(list(spec.values()), optimizer, 8)
        numbers = [
            sum(
                spec[name].size // spec[name].shape[0] * (r[rank][1] - r[rank][0])
                for name, r in rows.items()
            )
            for rank in range(8)
        ]
        assert max(numbers) < 1.15 * sum(numbers) / 8


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 300])
@pytest.mark.parametrize("n_ranks", [2, 3, 4])
def test_rows_are_those_of_pytorch(n: int, n_ranks: int) -> None:
    chunks = [len(chunk) for chunk in torch.arange(n).chunk(n_ranks)]
    chunks += [0] * (n_ranks - len(chunks))
    assert [end - first for first, end in shards.rows_of(n, n_ranks)] == chunks


def test_a_divided_model_is_not_gathered_where_it_has_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = object.__new__(shards.ShardedEngine)
    engine.decoding_model = None
    model = SimpleNamespace(config=GPT2, dtype=torch.float32)
    engine.model = model  # type: ignore[assignment]
    monkeypatch.setattr(shards.machine, "memory_available", lambda: 7 * count_parameters(GPT2))
    with pytest.raises(OutOfMemory):
        engine.decoder(1, 8)
