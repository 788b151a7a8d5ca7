"""A run that moves from PyTorch to MLX and back matches a run that stays, and neither engine loads the other.

The tests start real processes.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Command, finished, records
from tests.test_resume import killed_when, tensors

RUN = [
    "train", "--model-size", "pico", "--n-layers", 2, "--d-model", 32, "--n-heads", 2, "--vocab-size", 300,
    "--seq-len", 32, "--batch-size", 2, "--grad-accumulation-steps", 2, "--max-steps", 12, "--optimizer", "muon",
    "--precision", "float32", "--threads", 2, "--log-interval", 1, "--eval-interval", 6, "--eval-tokens", 500,
    "--sample-prompts", "The cat",
]  # fmt: skip
CLOSE = 1e-3


@pytest.fixture
def tokenizer(homespun: Command) -> None:
    finished(homespun("tokenizer", "--vocab-size", 300))


@pytest.mark.usefixtures("tokenizer")
def test_a_run_that_changes_engine_twice_follows_the_uninterrupted_one(
    homespun: Command, workplace: Path
) -> None:
    finished(homespun(*RUN, "--engine", "torch", "--checkpoint-dir", "control"))
    resume = ["train", "--resume", "--checkpoint-dir", "moved"]

    first = homespun(*RUN, "--engine", "torch", "--checkpoint-dir", "moved")
    killed_when(first, "step  3/12  loss", signal.SIGINT)
    second = homespun(*resume, "--engine", "mlx")
    output = killed_when(second, "step  8/12  loss", signal.SIGINT)
    assert "engine was torch " in output
    assert "is mlx " in output
    # No engine is named, so the default engine of this machine is used.
    output = finished(homespun(*resume))
    assert "engine was mlx " in output
    assert "is torch " in output

    control, moved = (
        [record for record in records(workplace / name) if "run" not in record]
        for name in ("control", "moved")
    )
    machines = [r["run"]["machine"] for r in records(workplace / "moved") if "run" in r]
    assert ["mlx" in machine for machine in machines] == [False, True, False]
    assert [record["step"] for record in moved] == [record["step"] for record in control]
    for ours, theirs in zip(moved, control, strict=True):
        assert ours.get("batch") == theirs.get("batch")
        for measured in ("loss", "grad_norm", "val_loss"):
            if measured in theirs:
                assert ours[measured] == pytest.approx(theirs[measured], rel=CLOSE)
    left, right = (tensors(workplace / name, 12) for name in ("control", "moved"))
    assert list(left) == list(right)


@pytest.mark.usefixtures("tokenizer")
@pytest.mark.parametrize(("engine", "other"), [("mlx", "torch"), ("torch", "mlx")])
def test_an_engine_trains_and_generates_without_the_other(
    engine: str, other: str, workplace: Path
) -> None:
    train = [*map(str, RUN), "--engine", engine, "--max-steps", "2"]
    generate = ["generate", "--prompt", "The cat", "--max-tokens", "5", "--engine", engine]
    script = (
        "import sys\n"
        "from homespun.cli.main import main\n"
        f"assert not main({train}) and not main({generate})\n"
        f"assert {engine!r} in sys.modules and {other!r} not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
