"""Several processes train as one does: equal samples in equal order, equal numbers up to rounding. Real processes."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from homespun.checkpoint.folder import CheckpointFolder
from homespun.cli.main import main
from homespun.data.batch import IGNORED, PADDING, Batch
from homespun.engine import launcher, select
from homespun.engine.base import EngineOptions, OptimizerSettings
from homespun.engine.launcher import Place, place
from homespun.engine.probe import probe
from homespun.engine.torch import group, shares
from homespun.errors import UserError
from tests.conftest import Command, finished, records
from tests.reference import GPT2
from tests.test_resume import kept, tensors

ROOT = str(Path(__file__).parent.parent)
RUN = [
    "train", "--n-layers", 2, "--d-model", 32, "--n-heads", 2, "--vocab-size", 300, "--seq-len", 32,
    "--precision", "float32", "--threads", 1, "--log-interval", 1, "--eval-interval", 5,
    "--eval-tokens", 500, "--sample-interval", 1000, "--compile", "off",
]  # fmt: skip
DENSE = [*RUN, "--architecture", "gpt2", "--batch-size", 3, "--dropout", 0.1, "--max-steps", 10]
MIXTURE = [
    *RUN, "--architecture", "qwen3_moe", "--experts", 4, "--batch-size", 2,
    "--grad-accumulation-steps", 4, "--max-steps", 10,
]  # fmt: skip


def launch(
    n_ranks: int,
    *arguments: object,
    launcher_flags: tuple[object, ...] = (),
    module: tuple[str, ...] = ("homespun",),
    **environment: str,
) -> "subprocess.Popen[str]":
    """Start a command in so many processes, in the working folder. `module` is what they run."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", n_ranks]
    words += [*launcher_flags, "-m", *module, *arguments]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **environment},
    )


def assert_followed(one: Path, other: Path, step: int = 10, weights: float = 1e-2) -> None:
    """Both runs saw the same samples in the same order, with equal losses up to rounding, and weights that are at most
    this part of their norm apart."""
    left, right = kept(one), kept(other)
    assert [r["step"] for r in left] == [r["step"] for r in right]
    for name in ("loss", "grad_norm", "val_loss"):
        pairs = [(a[name], b[name]) for a, b in zip(left, right, strict=True) if name in a]
        assert pairs
        for a, b in pairs:
            assert b == pytest.approx(a, rel=1e-5)
    mine, theirs = tensors(one, step), tensors(other, step)
    for name in mine:
        away = np.linalg.norm((theirs[name] - mine[name]).astype(np.float64))
        assert away <= weights * np.linalg.norm(mine[name].astype(np.float64)) + 1e-12, name


@pytest.fixture(autouse=True)
def _in_workplace(workplace: Path) -> None:
    """Every test works in a folder of its own."""


def test_two_ranks_follow_one_process_and_either_resumes_the_other(homespun: Command) -> None:
    finished(homespun(*DENSE, "--checkpoint-dir", "one"))
    output = finished(launch(2, *DENSE, "--checkpoint-dir", "two"))
    assert "1 thread, 2 ranks" in output
    assert_followed(Path("one"), Path("two"))
    longer = ["train", "--resume", "--max-steps", 14, "--checkpoint-dir"]
    finished(launch(2, *longer, "one"))
    finished(homespun(*longer, "two"))
    assert_followed(Path("one"), Path("two"), 14)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [DENSE, MIXTURE])
@pytest.mark.parametrize("n_ranks", [3, 4])
def test_more_ranks_follow_one_process(
    homespun: Command, flags: list[object], n_ranks: int
) -> None:
    if flags is MIXTURE and n_ranks == 3:
        pytest.skip("a mixture's micro-batches would be others")
    finished(homespun(*flags, "--checkpoint-dir", "one"))
    finished(launch(n_ranks, *flags, "--checkpoint-dir", "other"))
    assert_followed(Path("one"), Path("other"))


@pytest.mark.slow
def test_adapters_follow_one_process(homespun: Command) -> None:
    finished(homespun(*DENSE, "--checkpoint-dir", "base"))
    adapters = ["train", "--init-from", "base", "--lora-rank", 4, "--max-steps", 10]
    adapters += ["--batch-size", 4, "--precision", "float32", "--log-interval", 1, "--threads", 1]
    finished(homespun(*adapters, "--checkpoint-dir", "one"))
    finished(launch(2, *adapters, "--checkpoint-dir", "two"))
    assert_followed(Path("one"), Path("two"))


def rank_processes(launched: "subprocess.Popen[str]") -> list[int]:
    """The processes of the ranks, by rank."""
    children = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()
    by_rank = {}
    for child in map(int, children):
        environment = Path(f"/proc/{child}/environ").read_bytes()
        if found := re.search(rb"(?:^|\0)RANK=(\d+)\0", environment):
            by_rank[int(found[1])] = child
    return [by_rank[rank] for rank in sorted(by_rank)]


def wait_for_step(launched: "subprocess.Popen[str]", number: int) -> str:
    """The output up to a step's line."""
    assert launched.stdout is not None
    output = ""
    for line in launched.stdout:
        output += line
        if re.match(rf"step\s+{number}/", line):
            return output
    raise AssertionError(output)


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_the_launcher_starts_again_after_a_death_and_the_losses_follow(
    homespun: Command, dies: int
) -> None:
    flags = [*DENSE, "--max-steps", 60, "--save-interval", 5]
    finished(homespun(*flags, "--checkpoint-dir", "control"))
    launched = launch(
        2,
        *flags,
        "--resume",
        "auto",
        "--checkpoint-dir",
        "other",
        launcher_flags=("--max-restarts", 1),
    )
    wait_for_step(launched, 12)
    os.kill(rank_processes(launched)[dies], signal.SIGKILL)
    finished(launched)
    assert_followed(Path("control"), Path("other"), 60)


@pytest.mark.slow
@pytest.mark.parametrize("hangs", [0, 1])
def test_a_rank_that_hangs_ends_the_job(hangs: int) -> None:
    flags = [*DENSE, "--max-steps", 100_000, "--save-interval", 5]
    launched = launch(2, *flags, HOMESPUN_RANK_TIMEOUT="5")
    wait_for_step(launched, 12)
    stopped = rank_processes(launched)[hangs]
    os.kill(stopped, signal.SIGSTOP)
    output = finished(launched, 1)
    assert "does not answer" in output or "a rank has died or hangs" in output
    finished(launch(2, "train", "--resume", "--max-steps", 20, "--checkpoint-dir", "checkpoints"))


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_and_ends() -> None:
    launched = launch(2, *DENSE, "--max-steps", 100_000)
    wait_for_step(launched, 12)
    launched.terminate()
    launched.communicate(timeout=100)
    step = CheckpointFolder(Path("checkpoints")).steps()[-1]
    assert step == records(Path("checkpoints"))[-1]["step"]
    finished(launch(2, "train", "--resume", "--max-steps", step + 2))


def test_a_mistake_of_the_user_ends_all_ranks() -> None:
    output = finished(launch(2, *DENSE, "--engine", "mlx"), 1)
    assert "error: --engine mlx trains in one process: several need --engine torch" in output


# Without processes.


@pytest.mark.parametrize(("n_batches", "n_rows"), [(1, 8), (4, 2), (3, 5), (1, 1)])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_the_shares_of_all_ranks_are_the_step(n_batches: int, n_rows: int, size: int) -> None:
    numbers = np.arange(n_batches * n_rows * 4, dtype=np.int32).reshape(n_batches, n_rows, 4)
    step = [Batch(rows, rows + 1) for rows in numbers]
    found: list[Batch] = []
    for rank in range(size):
        before, mine = shares.share_of(step, Place(rank, size))
        assert before == sum(len(batch.inputs) for batch in found)
        assert all(0 < len(batch.inputs) <= n_rows for batch in mine)
        found += mine
    inputs = np.concatenate([batch.inputs for batch in found])
    np.testing.assert_array_equal(inputs, numbers.reshape(-1, 4))
    np.testing.assert_array_equal(np.concatenate([b.targets for b in found]), inputs + 1)


def test_a_place_needs_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launcher.place() is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="start the ranks with torchrun"):
        place()
    for name, value in {"RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="below WORLD_SIZE, 2"):
        place()
    monkeypatch.setenv("RANK", "1")
    assert place() == Place(1, 2, port=1)


def environment_of_rank(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """The group of one of two ranks, which no other one joins."""
    place = {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in {**place, group.TIMEOUT: "1"}.items():
        monkeypatch.setenv(name, value)


def test_ranks_that_do_not_follow_are_not_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    environment_of_rank(monkeypatch, 0)
    settings = OptimizerSettings("adamw", weight_decay=0.0, beta1=0.9, beta2=0.9, max_grad_norm=1.0)
    with pytest.raises(UserError, match="unset WORLD_SIZE to train alone"):
        select.create(GPT2, EngineOptions(settings))
    reference = select.create(GPT2, EngineOptions(seed=0))
    assert "ranks" not in reference.facts


def test_a_trial_is_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    environment_of_rank(monkeypatch, 0)
    settings = OptimizerSettings("adamw", weight_decay=0.0, beta1=0.9, beta2=0.9, max_grad_norm=1.0)
    found = probe(GPT2, EngineOptions(settings, threads=1), 1, least_steps=1, steps_seconds=0.0)
    assert found
    assert "ranks" not in found.facts


def test_one_plan_is_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment_of_rank(monkeypatch, 1)
    assert main(["train", "--dry-run", "--max-steps", "3"]) == 0
    assert capsys.readouterr().out == ""


def member(store: dist.Store, rank: int, size: int) -> group.Group:
    """A group without tensors."""
    found = object.__new__(group.Group)
    found.place, found.timeout, found.is_led = Place(rank, size), 10.0, False
    found._store, found._n_commands = dist.PrefixStore("commands", store), 0
    found.arriving = []
    return found


def test_commands_stay_until_all_ranks_have_read_them() -> None:
    """On a GPU rank 0 is steps ahead of the others, since nothing waits for the sums."""
    store = dist.HashStore()
    leader, *others = (member(store, rank, 3) for rank in range(3))
    sent = [{"do": "step", "step": n} for n in range(4)]
    for command in sent:
        leader.send(command, b"tokens")
    leader.send({"do": "end"})
    for other in others:
        assert list(other.commands()) == [(command, b"tokens") for command in sent]
    assert not any(leader._store.check([f"{n}"]) for n in range(4))


def test_rows_of_different_length_are_filled_up() -> None:
    def part(length: int, value: int) -> Batch:
        ids = np.full((2, length), value, np.int32)
        return Batch(ids, ids, np.zeros_like(ids), np.ones(ids.shape, np.float32))

    [[short], [long]] = (shares.share_of([part(3, 7), part(5, 8)], Place(r, 2))[1] for r in (0, 1))
    np.testing.assert_array_equal(short.inputs, [[7, 7, 7, 0, 0]] * 2)
    np.testing.assert_array_equal(short.targets, [[7, 7, 7, IGNORED, IGNORED]] * 2)
    np.testing.assert_array_equal(short.documents, [[0, 0, 0, PADDING, PADDING]] * 2)
    np.testing.assert_array_equal(short.weights, [[1, 1, 1, 0, 0]] * 2)
    assert short.weights is not None
    assert short.weights.dtype == np.float32
    np.testing.assert_array_equal(long.inputs, np.full((2, 5), 8))
