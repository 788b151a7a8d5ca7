"""`homespun bench`: its figures, its table and its report, also of a measurement that was interrupted."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from homespun.architectures.families import count_parameters
from homespun.architectures.presets import PRESETS, preset, shaped
from homespun.bench import bench as course
from homespun.bench.bench import bench
from homespun.bench.measure import (
    BYTES,
    Generation,
    LeftOut,
    MachineFacts,
    Training,
    generation,
    training,
    weights_read,
)
from homespun.bench.subjects import PUBLISHED, Subject, chosen
from homespun.config import BenchConfig, ReaderConfig
from homespun.engine import select
from homespun.engine.decoding_probe import probe_decoding
from homespun.planning.machines import named

SMALL = shaped(preset("pico"), {"vocab_size": 300, "seq_len": 32})
FACTS = MachineFacts(
    "cpu", 2, 10**10, "Linux", {}, 1, 0.1, {"float32": 1e11, "bfloat16": 2e11}, 1e10
)


def test_a_small_machine_is_measured_from_start_to_end(tmp_path: Path) -> None:
    file, lines = tmp_path / "bench.json", list[str]()
    config = BenchConfig(
        model_size=("pico",),
        quick=True,
        vocab_size=300,
        seq_len=32,
        batch_size=2,
        threads=1,
        report=str(file),
    )
    bench(config, lines.append)
    report = json.loads(file.read_text())
    assert report["complete"]
    assert not report["left_out"]
    assert report["machine"]["peak_flops"]["float32"] > 0
    assert report["machine"]["bandwidth"] > 0
    [trained] = report["training"]
    assert trained["model"] == "pico"
    assert trained["weights"] == count_parameters(SMALL)
    assert trained["tokens_per_second"] > 0
    assert trained["seconds"] * trained["tokens_per_second"] == pytest.approx(
        20 * trained["weights"]
    )
    assert [one["precision"] for one in report["generation"]] == ["float32", "bfloat16", "int8"]
    text = "\n".join(lines)
    assert f"{trained['tokens_per_second']:,.0f}" in text
    for one in report["generation"]:
        assert f"{one['tokens_per_second']:,.0f} (" in text
    assert str(Path.home()) not in file.read_text()
    assert str(tmp_path) not in file.read_text()


def test_an_interrupted_measurement_leaves_a_report_of_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(subject: Subject, *_: Any) -> Training:
        if subject.name == "tiny":
            raise KeyboardInterrupt
        return Training(subject.name, 1, 2.0, 0.5, 3, 4.0, 1, 8, "adamw", {})

    monkeypatch.setattr(course, "machine_facts", lambda *_: FACTS)
    monkeypatch.setattr(course, "training", measured)
    file = tmp_path / "bench.json"
    with pytest.raises(KeyboardInterrupt):
        bench(BenchConfig(quick=True, report=str(file)), lambda line: None)
    report = json.loads(file.read_text())
    assert not report["complete"]
    assert [one["model"] for one in report["training"]] == ["pico"]
    assert report["machine"] == dataclasses.asdict(FACTS)


def test_a_busy_machine_is_said_to_be_busy() -> None:
    busy = dataclasses.replace(FACTS, load=1.5)
    assert not any(line.startswith("busy") for line in course._described(FACTS))
    [line] = [line for line in course._described(busy) if line.startswith("busy")]
    assert "load 1.5" in line


def test_what_does_not_fit_or_takes_too_long_is_left_out() -> None:
    config, small = BenchConfig(), named("T4")
    large = Subject("3b", PRESETS["3b"], 1, "adamw")
    assert training(large, config, small, FACTS) == LeftOut(
        "3b", "training", "does not fit into memory"
    )
    slow = dataclasses.replace(small, float32=1e-9, memory=10_000)
    assert training(large, config, slow, FACTS) == LeftOut("3b", "training", "too slow to measure")
    tiny = dataclasses.replace(small, memory=1)
    found = generation(large, "int8", config, tiny, FACTS)
    assert found == LeftOut("3b", "int8", "does not fit into memory")


def test_a_token_reads_an_untied_embedding_hardly_and_some_experts_only() -> None:
    tied, untied = (dataclasses.replace(SMALL, tie_embeddings=tied) for tied in (True, False))
    assert weights_read(tied) == weights_read(untied) == count_parameters(tied)
    mixture = shaped(preset("tiny-moe"), {"vocab_size": 300})
    assert weights_read(mixture) < 0.5 * count_parameters(mixture)
    assert BYTES["int8"] * 4 == BYTES["float32"]


@pytest.mark.parametrize("name", ["auto", *select.available()])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_decoding_is_measured_past_the_end_of_the_context(name: Any, batch_size: int) -> None:
    short = dataclasses.replace(SMALL, seq_len=12)
    found = probe_decoding(
        short, ReaderConfig(engine=name, threads=1), batch_size=batch_size, seconds=0.0
    )
    assert found
    assert found.n_steps == 1
    assert found.tokens_per_second > 0
    assert found.engine == ("numpy" if name == "auto" else name)


def test_subjects_are_presets_and_published_shapes_smallest_first() -> None:
    everything = chosen(BenchConfig(vocab_size=500, seq_len=64, batch_size=4))
    assert {subject.name for subject in everything} == set(PRESETS)
    sizes = [count_parameters(subject.model) for subject in everything]
    assert sizes == sorted(sizes)
    assert all(s.model.vocab_size == 500 and s.batch_size == 4 for s in everything)
    for subject in chosen(BenchConfig(model_size=tuple(PUBLISHED))):
        one = PUBLISHED[subject.name]
        assert subject.published is one
        assert (subject.model.vocab_size, subject.model.seq_len) == (one.vocab_size, one.seq_len)
        blocks = count_parameters(subject.model) - 2 * one.vocab_size * one.d_model
        assert blocks == pytest.approx(12 * one.n_layers * one.d_model**2, rel=0.02)


def test_figures_of_generation_are_shares_of_the_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    from homespun.bench import measure
    from homespun.engine.decoding_probe import Decoded

    monkeypatch.setattr(measure, "probe_decoding", lambda *_, **__: Decoded(100.0, 9, "numpy", 0.1))
    subject = Subject("small", SMALL, 1, "adamw")
    found = generation(subject, "bfloat16", BenchConfig(), named("M1 Max"), FACTS)
    assert isinstance(found, Generation)
    assert found.share_of_bandwidth == pytest.approx(100 * 2 * weights_read(SMALL) / 1e10)
