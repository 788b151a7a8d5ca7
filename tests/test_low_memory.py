"""Runs with --memory low: resume bit for bit, files of half the size, what a run says, and the memory that it takes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun
from homespun.bfloat16 import from_bfloat16
from homespun.checkpoint.archive import read_archive
from homespun.errors import UserError
from homespun.model_formats.formats import open_model
from homespun.model_formats.model_card import model_card
from homespun.training.run import bytes_on_disk
from tests.conftest import records
from tests.test_mixture_runs import stopped_at
from tests.test_resume import assert_equal_runs

SETTINGS: dict[str, Any] = {
    "model_size": "pico",
    "memory": "low",
    "vocab_size": 300,
    "n_layers": 2,
    "d_model": 64,
    "n_heads": 2,
    "seq_len": 32,
    "batch_size": 2,
    "grad_accumulation_steps": 2,
    "dropout": 0.1,
    "log_interval": 1,
    "eval_tokens": 500,
    "sample_prompts": ("The cat",),
    "threads": 1,
    "max_steps": 12,
    "engine": "torch",
}


def trained(folder: str, **changes: Any) -> Path:
    return homespun.train(**{**SETTINGS, "checkpoint_dir": folder, **changes}).checkpoint_dir


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw", "precision": "bfloat16"},
        {"optimizer": "muon", "precision": "float32", "architecture": "qwen3_moe", "experts": 4},
        {"optimizer": "muon", "precision": "float32", "engine": "mlx", "max_steps": 6},
    ],
    ids=["adamw", "muon-mixture", "mlx"],
)
def test_a_stopped_and_resumed_run_is_the_uninterrupted_one(
    workplace: Path, settings: dict[str, Any]
) -> None:
    whole = trained("whole", **settings)
    part = trained("part", on_event=stopped_at(3), **settings)
    engine = settings.get("engine", "torch")
    homespun.train(checkpoint_dir=str(part), resume="latest", engine=engine)
    assert_equal_runs(whole, part, settings.get("max_steps", 12))
    losses = [record["loss"] for record in records(whole) if "loss" in record]
    assert losses[-1] < losses[0]


def test_files_are_half_as_large_and_every_command_reads_them(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained("low", max_steps=2)
    shown = " ".join(capsys.readouterr().out.split())
    assert "memory low: weights, gradients and means of the optimizer in bfloat16" in shown
    files = {path.name: read_archive(path) for path in folder.glob("*.npz")}
    for name, archive in files.items():
        vectors = [n for n, info in archive.arrays.items() if not info.holds]
        kinds = ("norm", "optimizer/step", "exp_avg_sq_")
        assert all(any(kind in n for kind in kinds) for n in vectors), (name, vectors)
    weights = files["best.npz"]
    model = open_model(folder).config
    room = bytes_on_disk(model, 3, low_memory=True)
    used = sum(path.stat().st_size for path in folder.glob("checkpoint_step_2*.npz"))
    assert used - 100_000 < room / 5  # of four checkpoints and twice the best weights
    assert room < 0.4 * bytes_on_disk(model, 3)
    with np.load(folder / "best.npz") as stored:
        for name, values in weights.tensors():
            bits = stored[name]
            np.testing.assert_array_equal(from_bfloat16(bits) if bits.ndim > 1 else bits, values)
    assert homespun.load(str(folder)).generate("The", max_tokens=3)
    assert "bfloat16 with stochastic rounding" in model_card(open_model(folder), "float32")
    full = trained("full", max_steps=1, memory="full")
    assert "stochastic" not in model_card(open_model(full), "float32")


def test_the_kind_of_memory_is_that_of_the_whole_run(workplace: Path) -> None:
    folder = trained("low", max_steps=1)
    with pytest.raises(UserError, match="--memory"):
        homespun.train(checkpoint_dir=str(folder), resume="latest", memory="full", max_steps=2)
    going_on = homespun.train(
        init_from=str(folder), checkpoint_dir="wide", max_steps=1, batch_size=2, eval_tokens=500, threads=1,
    ).checkpoint_dir  # fmt: skip
    assert not any(info.holds for info in read_archive(going_on / "best.npz").arrays.values())


def test_a_run_goes_on_with_the_other_engine_and_back(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both round by the same random numbers, so the run stays near the one that does not change."""
    settings: dict[str, Any] = {"precision": "float32", "max_steps": 6}
    whole = trained("whole", **settings)
    part = trained("part", on_event=stopped_at(2), **settings)
    resume: dict[str, Any] = {"checkpoint_dir": str(part), "resume": "latest"}
    homespun.train(engine="mlx", on_event=stopped_at(4), **resume)
    assert "is mlx " in " ".join(capsys.readouterr().out.split())
    homespun.train(engine="torch", **resume)
    left, right = (
        {r["step"]: r["loss"] for r in records(folder) if "loss" in r} for folder in (whole, part)
    )
    assert left.keys() == right.keys()
    assert list(right.values()) == pytest.approx(list(left.values()), rel=1e-3)
    stored, control = (read_archive(folder / "checkpoint_step_6.npz") for folder in (part, whole))
    assert {n: info.holds for n, info in stored.arrays.items()} == {
        n: info.holds for n, info in control.arrays.items()
    }


PEAK = """
from benchmarks.memory import Case, above_the_process
if __name__ == "__main__":
    case = Case("gpt2-small", 1, 64, 8000, checkpointing=True, low_memory=True)
    print(above_the_process(case), case.estimate())
"""


def test_a_step_takes_the_memory_that_is_estimated(tmp_path: Path) -> None:
    """A copy of the weights in float32 would take a third more."""
    (tmp_path / "peak.py").write_text(PEAK)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "peak.py")],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    measured, estimate = map(int, done.stdout.split())
    assert measured == pytest.approx(estimate, rel=0.2)
