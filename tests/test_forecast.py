"""A plan estimates a run, chooses its settings as the run does, and writes nothing."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import homespun
from homespun.config import TrainConfig
from homespun.data.corpus import survey
from homespun.data.samples import Tokens
from homespun.data.sizing import TokenCount, count_tokens
from homespun.engine.base import OutOfMemory
from homespun.engine.probe import Probed
from homespun.errors import UserError
from homespun.forecast import forecast as forecasting
from homespun.forecast import speed as measuring
from homespun.forecast.forecast import forecast
from homespun.forecast.length import Length, samples_per_pass
from homespun.forecast.result import StepSpeed
from homespun.planning import auto_batch
from homespun.planning.curves import ExpectedLoss
from homespun.planning.memory import step_memory
from homespun.planning.recipe import plan as recipe
from homespun.planning.resolved import Plan
from homespun.tokenizer import train
from homespun.training.stages import choose_batch
from tests.conftest import Command, finished

SMALL: dict[str, Any] = {
    "model_size": "pico",
    "n_layers": 1,
    "d_model": 32,
    "n_heads": 2,
    "seq_len": 32,
    "batch_size": 4,
    "max_steps": 30,
    "vocab_size": 300,
    "threads": 1,
    "compile": "off",
}
MEASURED = Probed(0.5, 0.01, 0.002, 5, 10_000_000, {"engine": "e", "device": "d", "precision": "p"})


def files(folder: Path) -> set[str]:
    return {str(Path(place) / name) for place, _, names in os.walk(folder) for name in names}


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Probes measure nothing; the list gets their arguments."""
    calls: list[tuple[Any, ...]] = []

    def probe(*arguments: Any, **options: Any) -> Probed:
        calls.append((*arguments, options))
        return MEASURED

    monkeypatch.setattr(measuring, "probe", probe)
    return calls


def test_a_plan_measures_real_steps_and_writes_nothing(workplace: Path) -> None:
    before = files(workplace)
    plan = homespun.plan(**SMALL)
    assert files(workplace) == before
    assert plan.steps == 30
    assert plan.tokens == 30 * 4 * 32
    assert plan.speed.how.startswith("measured")
    assert plan.memory_measured
    assert plan.seconds
    assert plan.seconds > 30 * plan.speed.seconds_per_step
    assert plan.fits
    assert repr(plan).splitlines()[1].startswith("model ")


def test_the_command_and_a_dry_run_say_the_same(workplace: Path, homespun: Command) -> None:
    flags = ["--model-size", "tiny", "--max-steps", 1000, "--machine", "M1 Max 32GB"]
    planned = finished(homespun("plan", *flags))
    assert "M1 Max, 32 GB, by its data sheet" in planned
    assert "not measured" in planned
    assert "kWh" in planned
    refused = finished(homespun("train", *flags, "--dry-run"), 2)
    assert "unknown flag --machine" in refused
    dry = finished(homespun("train", *flags[:-2], "--vocab-size", 300, "--threads", 1, "--dry-run"))
    assert "measured" in dry
    assert not (workplace / "checkpoints").exists()
    assert not (workplace / "data").exists()


def test_without_a_text_it_plans_for_a_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    as_long_as_the_text = forecast({"model_size": "tiny"}, print, machine="RTX 4090")
    assert as_long_as_the_text.text is None
    assert as_long_as_the_text.steps is None
    assert "each million tokens" in as_long_as_the_text.facts()["time"]
    timed = forecast({"time_budget": "1h"}, print, machine="RTX 4090")
    assert timed.steps
    assert timed.seconds == pytest.approx(3600, rel=0.01)
    assert files(tmp_path) == set()
    with pytest.raises(UserError, match="absent"):
        forecast({"data_file": "absent.txt"}, print, machine="RTX 4090")


def test_it_plans_for_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"model_size": "gpt2-medium", "max_steps": 10, "grad_accumulation_steps": 8}
    one = forecast(settings, print, machine="RTX 4090")
    assert "ranks" not in one.facts()
    fast, slow, unknown = (
        forecast(settings, print, machine="RTX 4090", n_ranks=8, interconnect=gigabytes)
        for gigabytes in (1e5, 1.0, None)
    )
    for eight in (fast, slow, unknown):
        assert eight.tokens_per_step == one.tokens_per_step
        assert eight.memory.moments == one.memory.moments // 8
        assert eight.traffic.total == 2 * 4 * one.parameters * 7 // 8
        assert "8, each holds all weights" in eight.facts()["ranks"]
    assert fast.efficiency == pytest.approx(1.0, rel=0.01)
    assert slow.efficiency
    assert slow.efficiency < 0.9
    assert unknown.efficiency is None
    assert fast.seconds == pytest.approx(one.seconds / 8, rel=0.01)
    assert slow.seconds > fast.seconds
    divided = forecast({**settings, "shard": "full"}, print, machine="RTX 4090", n_ranks=8)
    assert "each holds a part of the weights" in divided.facts()["ranks"]
    assert divided.memory.total < unknown.memory.total
    assert divided.traffic.total > unknown.traffic.total


def test_a_run_has_the_settings_of_its_plan(
    workplace: Path, probed: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SMALL | {
        "max_steps": 2,
        "log_interval": 1,
        "eval_tokens": 200,
        "sample_prompts": ["A"],
    }
    plan = forecast(settings, print)
    assert plan.text
    assert plan.text.estimated_from
    run = homespun.train(**settings, quiet=True)
    counted = forecast(settings, print)
    assert counted.text
    assert counted.text.estimated_from is None
    assert counted.text.training == pytest.approx(plan.text.training, rel=0.1)
    stored = homespun.load(run.best).stored.header["resolved"]  # type: ignore[attr-defined]
    resolved = dataclasses.asdict(counted.settings) | {"precision": stored["precision"]}
    assert {n: list(v) if isinstance(v, tuple) else v for n, v in resolved.items()} == stored
    resumed = forecast({"resume": "latest", "max_steps": 5, "threads": 1}, print)
    assert (resumed.steps, resumed.steps_done) == (5, 2)
    assert resumed.model == counted.model


def test_no_loss_is_given_for_a_mixture(
    workplace: Path, probed: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measured runs were of dense models."""
    known = ExpectedLoss(1.6, 1.5, 1.7, "some runs")
    monkeypatch.setattr(forecasting, "expected_loss", lambda *size_and_text: known)
    like_measured = SMALL | {"optimizer": "muon", "schedule": "linear"}
    dense, mixture = (forecast(like_measured | new, print) for new in ({}, {"experts": 4}))
    assert dense.loss is known
    assert mixture.loss is None
    assert mixture.facts()["loss"].startswith("not known: no run like this was measured (new dense")
    assert ", of which a token uses 0.0 M (2 of 4 experts of width " in mixture.facts()["model"]
    assert "token uses" not in dense.facts()["model"]


def test_a_text_whose_tokenizer_is_there_is_estimated_with_it(workplace: Path) -> None:
    corpus = survey(Path("stories.txt"))
    tokenizer = train(corpus.training(), 400)
    count = count_tokens(corpus, tokenizer, 4096, Path("data/tokens"))
    assert count.vocab_size == 400
    assert count.training == pytest.approx(len(tokenizer.join(corpus.training())), rel=0.02)
    assert count.validation == pytest.approx(len(tokenizer.join(corpus.validation())), rel=0.1)
    assert 300 < count.n_documents < 400


def planned(**settings: Any) -> Plan:
    config = dataclasses.replace(TrainConfig(**SMALL), **settings)
    return recipe(config, vocab_size=300, n_samples=5000, flops_per_second=1e12)


COUNT = TokenCount(160_000, 16_000, 300, 400, 3.0, None)


def test_a_time_budget_holds_the_steps_with_their_evaluations_and_samples() -> None:
    speed = StepSpeed(0.1, None, "")
    plain = Length(
        planned(max_steps=100, eval_interval=1000, sample_interval=1000), COUNT, speed, 5000
    )
    checked = Length(
        planned(max_steps=100, eval_interval=10, sample_interval=10), COUNT, speed, 5000
    )
    assert plain.seconds(100) < checked.seconds(100)
    budget = planned(max_steps=None, time_budget="60s", eval_interval=10)
    length = Length(budget, COUNT, speed, 5000)
    assert length.ended_by == "time_budget"
    assert length.steps
    assert length._in_run(length.steps) <= 60 < length._in_run(length.steps + 1)
    nearest = Length(planned(max_steps=100, time_budget="1h"), COUNT, speed, 5000)
    assert (nearest.ended_by, nearest.steps) == ("max_steps", 100)


def conversations(*lengths: int) -> Tokens:
    """Conversations of so many tokens, of which the last three are an answer."""
    flags = [[2] + [0] * (length - 4) + [1] * 3 for length in lengths]
    return np.concatenate(flags).astype(np.int32)


PROMPTS = TokenCount(20_000, 2000, 300, 400, 3.0, None, conversations(*[20, 30] * 200))
CHATS = TokenCount(2000, 200, 300, 100, 3.0, None, conversations(*[25, 15, 20, 20] * 10))
PARTLY_LONG = TokenCount(
    1500, 150, 300, 45, 3.0, None, conversations(*[20, 30] * 10, *[20, 80] * 5)
)


@pytest.mark.parametrize(
    ("settings", "count", "samples"),
    [
        ({}, COUNT, 160_000 // 32),
        ({"replay": "earlier.txt", "replay_share": 0.2}, COUNT, 6250),
        # 40 conversations in 35 rows, 2.5 times: two fit into a row if both have 15 tokens.
        ({}, CHATS, 88),
        ({"replay": "earlier.txt", "replay_share": 0.25}, CHATS, 117),
        ({"preferences": "pairs.jsonl"}, PROMPTS, 800),
        # 10 of 15 pairs fit, and half as many were not counted.
        ({"preferences": "pairs.jsonl"}, PARTLY_LONG, 30),
        ({"reward": "questions", "group_size": 4}, PROMPTS, 1600),
        ({"reward": "stories", "group_size": 4}, COUNT, 160_000 // 32),
        ({"reward": "stories", "group_size": 4, "prompt_words": 5}, COUNT, 1600),
    ],
)
def test_a_pass_has_one_sample_for_each_answer(
    settings: dict[str, Any], count: TokenCount, samples: int
) -> None:
    assert samples_per_pass(TrainConfig(seq_len=32, **settings), count) == samples


def machine(free: int) -> Any:
    from homespun.engine import traits

    return SimpleNamespace(
        step_traits=lambda precision, seq_len: traits.torch_on_cpu(False, seq_len),
        memory_available=lambda: free,
    )


def test_the_largest_micro_batch_that_fits_makes_steps_of_the_same_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, options, said = planned(batch_size=64, auto_batch=True), Any, list[str]()
    tried: list[int] = []

    def probe(model: Any, options: Any, batch_size: int, **more: Any) -> Probed:
        tried.append(batch_size)
        if batch_size > 16:
            raise OutOfMemory
        return MEASURED

    monkeypatch.setattr(auto_batch, "probe", probe)
    roomy = machine(step_memory(plan, machine(0), 64).total * 10)
    chosen = auto_batch.fitting_batch(plan, roomy, options, said.append).config  # type: ignore[arg-type]
    assert tried == [64, 32, 16]
    assert (chosen.batch_size, chosen.grad_accumulation_steps) == (16, 4)
    assert "16 sequences, 4 times a step" in said[-1]

    tried.clear()
    tight = machine(step_memory(plan, machine(0), 8).total)
    chosen = auto_batch.fitting_batch(plan, tight, options, said.append).config  # type: ignore[arg-type]
    assert tried == [4]
    assert chosen.sequences_per_step == 64

    by_estimate = auto_batch.fitting_batch(plan, roomy, options, said.append, probes=False)  # type: ignore[arg-type]
    assert by_estimate.config.batch_size == 64


@pytest.mark.parametrize(
    ("settings", "together"),
    [
        ({"reward": "questions", "group_size": 6, "updates": 1}, 6),
        ({"preferences": "pairs.jsonl"}, 2),
    ],
)
def test_a_chosen_micro_batch_has_whole_groups_however_little_memory_there_is(
    settings: dict[str, Any], together: int
) -> None:
    plan = planned(batch_size=12, grad_accumulation_steps=4, auto_batch=True)
    plan = dataclasses.replace(plan, config=dataclasses.replace(plan.config, **settings))
    options, found = Any, set()
    for free in (0, *(step_memory(plan, machine(0), n).total * 1.12 for n in range(1, 49))):
        here = machine(int(free))
        chosen = auto_batch.fitting_batch(plan, here, options, lambda line: None, probes=False)  # type: ignore[arg-type]
        assert chosen.config.batch_size % together == 0
        assert chosen.config.sequences_per_step == 48
        found.add(chosen.config.batch_size)
    assert {together, 12, 48} <= found


def test_a_resumed_run_keeps_its_micro_batch_where_it_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = planned(batch_size=4, grad_accumulation_steps=16, auto_batch=True)
    monkeypatch.setattr(auto_batch, "probe", lambda *arguments, **options: MEASURED)
    from homespun.training import stages

    monkeypatch.setattr(stages.select, "machine", lambda name: machine(10**12))
    assert choose_batch(plan, 0, print, resumes=True) == plan
    assert choose_batch(plan, 0, print, resumes=False).config.batch_size == 64
    small = step_memory(plan, machine(0), 2).total * 2
    monkeypatch.setattr(stages.select, "machine", lambda name: machine(small // 2 + 1000))
    less = choose_batch(plan, 0, print, resumes=True).config
    assert less.batch_size < 4
    assert less.sequences_per_step == 64
