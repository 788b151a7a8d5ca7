"""Runs that are broken on purpose are diagnosed, healthy ones are not accused. The records were made by `runs`."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homespun.checkpoint.names import METRICS
from homespun.data.corpus import survey
from homespun.errors import UserError
from homespun.reporting.diagnosis import BAD_TEXT, blocks_of, diagnose, passing_notes
from homespun.reporting.doctor import examine_run
from homespun.reporting.run_record import RunRecord, read_run
from tests.reporting import runs


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts like those of the runs, and shorter."""
    folder = tmp_path_factory.mktemp("texts")
    runs.write_texts(folder, 500)
    return folder


@pytest.mark.parametrize("name", runs.BROKEN)
def test_a_broken_run_is_diagnosed(name: str, texts: Path) -> None:
    first = diagnose(runs.kept(name, texts))[0]
    assert first.cause in runs.BROKEN[name].causes
    assert first.evidence
    for word, direction in (("x100", "too high"), ("x0.01", "too low")):
        if word in name:
            assert direction in first.text
            assert "--learning-rate" in first.text


@pytest.mark.parametrize("name", runs.HEALTHY)
def test_a_healthy_run_is_not_accused(name: str, texts: Path) -> None:
    assert diagnose(runs.kept(name, texts)) == []


@pytest.mark.parametrize("name", [name for name in runs.CASES if name not in runs.BAD_TEXTS])
def test_fewer_lines_give_the_same_diagnosis(name: str, texts: Path) -> None:
    """As with a longer --log-interval."""
    run = runs.kept(name, texts)
    lines = [r for r in run.records if "loss" in r]
    thinner = tuple(r for r in run.records if "loss" not in r or lines.index(r) % 2 == 0)
    found = diagnose(dataclasses.replace(run, records=thinner))
    assert bool(found) == (name in runs.BROKEN)
    if found:
        assert found[0].cause in runs.BROKEN[name].causes


@pytest.mark.parametrize("name", ["rate_x100", "always_clipped", "adamw", "muon"])
def test_blocks_hold_every_step_once(name: str, texts: Path) -> None:
    run = runs.kept(name, texts)
    blocks = blocks_of(run)
    logged = run.steps[-1]["step"]
    assert logged - max(block.steps for block in blocks) < sum(b.steps for b in blocks) <= logged
    assert all(block.is_possible() for block in blocks)


def test_a_bad_text_needs_its_file(texts: Path, tmp_path: Path) -> None:
    assert diagnose(runs.kept("random_stretch", texts))[0].cause == BAD_TEXT
    assert not diagnose(runs.kept("random_stretch", tmp_path))


def test_another_text_of_the_same_name_accuses_nobody(texts: Path, tmp_path: Path) -> None:
    run = runs.kept("random_stretch", texts)
    path = Path(run.header["data_file"])
    for sha256, faulty in ((survey(path).sha256, True), ("0" * 64, False)):
        read = dataclasses.replace(run, header=run.header | {"data_sha256": sha256})
        assert (read.text == path) == faulty
        assert (BAD_TEXT in [found.cause for found in diagnose(read)]) == faulty


def lines(*records: dict[str, Any]) -> RunRecord:
    return RunRecord(Path("run"), tuple({"tokens": 0} | record for record in records))


def test_validation_far_above_training_in_the_first_pass_is_the_text() -> None:
    steps = [{"step": n, "loss": 2.0, "grad_norm": 1.0, "epoch": 0.1} for n in range(1, 30)]
    far = {"step": 29, "val_loss": 4.0, "epoch": 0.1}
    assert [found.cause for found in diagnose(lines(*steps, far))] == [BAD_TEXT]
    assert not diagnose(lines(*steps, far | {"val_loss": 2.1}))
    later = [step | {"epoch": 3.0} for step in steps]
    assert not diagnose(lines(*later, far | {"epoch": 3.0}))


def test_a_run_that_only_made_its_model_worse_has_gained_nothing() -> None:
    started = {"step": 0, "run": {"settings": {"init_from": "base", "learning_rate": 0.01}}}

    def tuned(*losses: float, rate: float = 0.001, going_on: bool = True) -> list[str]:
        found = [
            {"step": 10 * n, "val_loss": loss, "loss": 2.0, "grad_norm": 1.0, "lr": rate}
            for n, loss in enumerate(losses)
        ]
        return [d.cause for d in diagnose(lines(*[started] * going_on, *found))]

    assert tuned(1.6, 1.8, 1.8, 1.7) == ["no gain"]
    assert not tuned(1.6, 1.8, 1.8, 1.5)
    assert not tuned(1.6, 1.8, 1.8, 1.7, rate=0.01)  # it may still fall
    assert not tuned(1.6, 1.8, 1.8, 1.7, going_on=False)


def test_a_run_that_ended_at_a_standstill_says_so_without_any_checkpoint() -> None:
    advice = {"step": 12, "cause": "standstill", "advice": "the loss was not finite: start again"}
    run = lines({"step": 10, "loss": 5.0, "grad_norm": 1.0, "lr": 0.5}, advice)
    assert [(d.cause, d.text) for d in diagnose(run)] == [("standstill", advice["advice"])]
    went_on = lines(advice, {"step": 90, "loss": 2.0, "grad_norm": 1.0, "lr": 0.1})
    assert not diagnose(went_on)
    assert passing_notes(went_on, []) == [{"tokens": 0, **advice}]


def test_one_spike_is_an_accident_and_three_are_not() -> None:
    spike = {"step": 5, "cause": "spike", "advice": "the loss jumped"}
    assert not diagnose(lines(spike))
    assert [d.cause for d in diagnose(lines(spike, spike, spike))] == ["spike"]


def test_settings_of_the_record_stand_in_for_a_checkpoint() -> None:
    run = lines({"step": 0, "run": {"settings": {"learning_rate": 0.5, "optimizer": "muon"}}})
    assert run.config.learning_rate == 0.5
    assert run.config.optimizer == "muon"
    assert lines({"step": 1, "lr": 0.25, "muon_lr": 0.125}).config.muon_learning_rate == 0.125


def test_steps_before_a_change_of_the_rate_do_not_count() -> None:
    def settings(step: int, rate: float) -> dict[str, Any]:
        return {"step": step, "run": {"settings": {"learning_rate": rate}}}

    def steps(first: int, loss: float, rate: float) -> Iterator[dict[str, Any]]:
        for n in range(first, first + 200, 10):
            yield {"step": n, "loss": loss + n % 3 / 100, "grad_norm": 1.0, "lr": rate}

    bad = [settings(0, 1.0), *steps(10, 3.0, 1.0), *steps(210, 9.0, 1.0)]
    assert [found.cause for found in diagnose(lines(*bad))] == ["divergence"]
    assert not diagnose(lines(*bad, settings(400, 0.1), *steps(410, 3.0, 0.1)))


def test_no_run_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="there is no run"):
            read_run(path)


def test_the_doctor_prints_a_diagnosis(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(
        '{"step": 3, "cause": "standstill", "advice": "stop; \\u001b[2J"}\nx\n'
    )
    printed: list[str] = []
    assert not examine_run(tmp_path, printed.append, 80)
    shown = "\n".join(printed)
    assert "problem 1" in shown
    assert "line 2" in shown
    assert "\x1b" not in shown
    (tmp_path / METRICS).write_text("")
    assert examine_run(tmp_path, printed.append, None)
    assert "Nothing was logged yet" in printed[-1]
    (tmp_path / METRICS).write_text("x\n" * 7)
    assert examine_run(tmp_path, printed.append, None)
    assert any("and 2 more damaged lines" in line for line in printed)
    assert "No line of the record can be read" in printed[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", runs.CASES)
def test_a_new_run_is_diagnosed_like_its_record(
    name: str, whole_texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(whole_texts)
    found = diagnose(read_run(runs.make(name, whole_texts)))
    causes = runs.CASES[name].causes
    assert found[0].cause in causes if causes else not found


@pytest.fixture(scope="session")
def whole_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The texts of the runs."""
    folder = tmp_path_factory.mktemp("whole_texts")
    runs.write_texts(folder)
    return folder
