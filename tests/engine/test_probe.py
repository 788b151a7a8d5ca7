"""A probe takes real steps in a process of its own, and survives steps that do not fit."""

import dataclasses

import pytest

from homespun.architectures.families import count_parameters
from homespun.architectures.presets import preset, shaped
from homespun.engine import probe as probing
from homespun.engine import select
from homespun.engine.base import EngineOptions, OptimizerSettings, OutOfMemory
from homespun.engine.probe import ProbeFailed, _probed, probe

MODEL = shaped(preset("pico"), {"vocab_size": 300, "seq_len": 64})
OPTIONS = EngineOptions(
    OptimizerSettings("muon", weight_decay=0.1, beta1=0.9, beta2=0.95, max_grad_norm=1.0),
    document_mark=0,
    threads=1,
)


def test_time_and_memory_of_real_steps() -> None:
    small, large = (
        probe(MODEL, OPTIONS, n, document_tokens=20, least_steps=1, steps_seconds=0.0)
        for n in (1, 64)
    )
    assert small
    assert large
    assert large.n_steps == 2
    assert large.facts["threads"] == "1"
    activations = 64 * 64 * 20 * MODEL.d_model
    assert large.memory > max(activations, small.memory)
    assert large.seconds_per_step(3) == 3 * large.micro_seconds + large.update_seconds


@pytest.mark.skipif("mlx" not in select.available(), reason="MLX is not installed")
def test_tensors_that_an_engine_counts_itself_are_all_counted() -> None:
    options = dataclasses.replace(OPTIONS, precision="float32")
    found = probe(MODEL, options, 1, engine="mlx", least_steps=1, steps_seconds=0.0)
    assert found
    assert found.memory > 3 * 4 * count_parameters(MODEL)  # weights, gradients, moments


def test_steps_that_need_too_much_end_the_probe_and_nothing_else() -> None:
    with pytest.raises(OutOfMemory):
        probe(MODEL, OPTIONS, 512, document_tokens=20, memory_limit=50_000_000)


def test_an_error_of_the_process_is_told() -> None:
    impossible = dataclasses.replace(OPTIONS, precision="float16")
    with pytest.raises(ProbeFailed, match="does not compute in float16"):
        probe(MODEL, impossible, 1, engine="torch")


def test_a_probe_that_takes_too_long_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "TIME_LIMIT", 0.01)  # a process does not even start in this time
    assert probe(MODEL, OPTIONS, 1) is None


def test_the_time_of_a_micro_batch_is_told_from_that_of_the_update() -> None:
    def line(count: int, seconds: float) -> dict[str, object]:
        return {"count": count, "seconds": seconds, "memory": 7, "facts": {}}

    found = _probed([line(1, 9.0), line(2, 5.0), line(1, 3.0), line(2, 5.0), line(1, 3.0)])
    assert found
    assert (found.first_seconds, found.micro_seconds, found.update_seconds) == (9.0, 2.0, 1.0)
    assert found.seconds_per_step(1) == 3.0
    assert found.seconds_per_step(4) == 9.0
    assert _probed([line(1, 9.0)]) is None


def test_documents_begin_inside_the_rows_where_the_text_has_any() -> None:
    marked = probing._batch(MODEL, 4, 0, document_tokens=1e6).inputs
    assert (marked == 0).sum() == 1
    assert (probing._batch(MODEL, 4, 0, document_tokens=10.0).inputs == 0).any(axis=1).all()
    assert not (probing._batch(MODEL, 4, 0, document_tokens=0.0).inputs == 0).any()
