"""Runs of a mixture of experts: resume bit for bit, another engine, the records, and routers that learn to share."""

from pathlib import Path
from typing import Any

import pytest

import homespun
from homespun.records.events import Event, Step, StopRun
from homespun.records.plot import plot_run
from tests.conftest import records
from tests.test_resume import assert_equal_runs

SETTINGS: dict[str, Any] = {
    "architecture": "qwen3_moe",
    "model_size": "pico",
    "n_layers": 3,
    "n_heads": 2,
    "d_model": 32,
    "experts": 4,
    "d_expert": 32,
    "dense_layers": 1,
    "vocab_size": 300,
    "seq_len": 32,
    "batch_size": 2,
    "grad_accumulation_steps": 2,
    "dropout": 0.1,
    "gradient_checkpointing": True,
    "log_interval": 4,
    "eval_tokens": 500,
    "sample_prompts": ("The cat",),
    "precision": "float32",
    "threads": 1,
    "optimizer": "muon",
    "max_steps": 12,
}


def trained(folder: str, **changes: Any) -> Path:
    return homespun.train(**{**SETTINGS, "checkpoint_dir": folder, **changes}).checkpoint_dir


def stopped_at(step: int) -> Any:
    def on_event(event: Event) -> None:
        if isinstance(event, Step) and event.step == step:
            raise StopRun("for a test")

    return on_event


def test_a_stopped_and_resumed_run_is_the_uninterrupted_one(workplace: Path) -> None:
    whole = trained("whole")
    part = trained("part", on_event=stopped_at(6))  # between two lines of metrics
    homespun.train(checkpoint_dir=str(part), resume="latest")
    assert_equal_runs(whole, part)
    assert any("expert_load" in record for record in records(part))


def test_a_run_changes_its_engine(workplace: Path) -> None:
    whole = trained("whole", engine="torch")
    part = trained("part", engine="torch", on_event=stopped_at(5))
    homespun.train(checkpoint_dir=str(part), resume="latest", engine="mlx")
    machines = [record["run"]["machine"] for record in records(part) if "run" in record]
    assert ["mlx" in machine for machine in machines] == [False, True]
    moved, stayed = (
        [record for record in records(folder) if "run" not in record] for folder in (part, whole)
    )
    for ours, theirs in zip(moved, stayed, strict=True):
        for name in {"loss", "val_loss", "router_entropy", "balance_loss"} & theirs.keys():
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3)


def test_the_use_of_the_experts_is_recorded_and_drawn(workplace: Path) -> None:
    folder = trained("run", aux_loss=0.02, z_loss=0.003)
    logged = [record for record in records(folder) if "expert_load" in record]
    assert [record["step"] for record in logged] == [4, 8, 12]
    for record in logged:
        loads = record["expert_load"]
        assert [len(of_router) for of_router in loads] == [4, 4]
        assert all(sum(of_router) == pytest.approx(4, abs=1e-3) for of_router in loads)
        assert record["largest_load"] == pytest.approx(max(map(max, loads)), abs=1e-4)
        assert record["smallest_load"] == pytest.approx(min(map(min, loads)), abs=1e-4)
        assert record["dead_experts"] == 0
        assert 0 < record["router_entropy"] <= 1
        added = 2 * (0.02 * record["balance_loss"] + 0.003 * record["z_loss"])
        assert record["auxiliary_loss"] == pytest.approx(added)
        assert record["auxiliary_share"] == pytest.approx(added / (record["loss"] + added))
    plain, drawn = folder / "plain.png", folder / "drawn.png"
    plot_run(folder / "metrics.jsonl", drawn)
    dense = trained("dense", architecture="qwen3", experts=None, d_expert=None, dense_layers=None)
    assert not any("expert_load" in record for record in records(dense))
    plot_run(dense / "metrics.jsonl", plain)
    heights = [int.from_bytes(path.read_bytes()[20:24], "big") for path in (plain, drawn)]
    assert heights[0] < heights[1]


def test_adapters_alone_are_trained_without_the_losses_of_the_frozen_routers(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = trained("base", max_steps=1)
    gradients, logged = [], []
    for aux_loss in (0.0, 50.0):
        settings = {"aux_loss": aux_loss, "z_loss": aux_loss, "optimizer": "adamw"}
        folder = homespun.train(
            init_from=str(base), checkpoint_dir=f"adapted-{aux_loss}", lora_rank=2, threads=1,
            precision="float32", batch_size=2, max_steps=2, log_interval=1, eval_tokens=500, **settings,
        ).checkpoint_dir  # fmt: skip
        found = [record for record in records(folder) if "expert_load" in record]
        gradients.append([record["grad_norm"] for record in found])
        logged += found
    assert gradients[0] == gradients[1]
    assert "--aux-loss and --z-loss have no effect: adapters" in capsys.readouterr().out
    assert len(logged) == 4
    assert not any(name.startswith("auxiliary") for record in logged for name in record)


def test_a_dense_run_says_that_it_has_no_routers(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "--aux-loss has no effect: "
    trained("mixture", max_steps=1, aux_loss=0.5)
    assert line not in capsys.readouterr().out
    dense = {"architecture": "qwen3", "experts": None, "d_expert": None, "dense_layers": None}
    trained("dense", max_steps=1, aux_loss=0.5, **dense)
    assert line + "the model has no experts." in capsys.readouterr().out


def test_a_header_states_both_sizes(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained("run", max_steps=1)
    shown = " ".join(capsys.readouterr().out.split())
    assert "of which a token uses" in shown
    assert "(2 of 4 experts of width 32)" in shown


@pytest.mark.slow
def test_no_expert_is_without_tokens_after_500_steps(workplace: Path) -> None:
    """Eight experts on stories, in the shape of a preset, without any advice."""
    folder = trained(
        "run",
        n_layers=4,
        d_model=128,
        experts=8,
        d_expert=64,
        dense_layers=0,
        vocab_size=1024,
        seq_len=128,
        batch_size=8,
        grad_accumulation_steps=1,
        gradient_checkpointing=False,
        dropout=0.0,
        max_steps=500,
        log_interval=100,
    )
    found = records(folder)
    last = [record for record in found if "expert_load" in record][-1]
    assert last["step"] == 500
    assert last["dead_experts"] == 0
    assert last["smallest_load"] > 0.2
    assert not any(record.get("cause") in ("dead expert", "collapsed router") for record in found)
