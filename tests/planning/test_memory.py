"""A run that does not fit into memory is refused before it starts, or ended, with flags that would fit."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.architectures.presets import PRESETS, shaped
from homespun.config import TrainConfig
from homespun.engine import traits
from homespun.errors import UserError
from homespun.planning import memory
from homespun.planning.recipe import plan
from homespun.planning.resolved import Plan
from tests.conftest import records

GIGABYTE = 10**9


MACHINE: Any = SimpleNamespace(
    step_traits=lambda precision, seq_len: traits.torch_on_cpu(False, seq_len),
    memory_capacity=lambda: 8 * GIGABYTE,
    memory_available=lambda: 5 * GIGABYTE,
)


def recomputing(of: Plan) -> Plan:
    return dataclasses.replace(
        of, config=dataclasses.replace(of.config, gradient_checkpointing=True)
    )


def planned(**settings: object) -> Plan:
    wanted = TrainConfig(model_size="gpt2-small", max_steps=10, precision="float32")
    wanted = dataclasses.replace(wanted, **settings)  # type: ignore[arg-type]
    return plan(wanted, vocab_size=8000, n_samples=10_000, flops_per_second=1e12)


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 60), st.booleans())
@settings(derandomize=True, deadline=None, max_examples=60)
def test_what_is_named_fits_and_makes_steps_of_the_same_size(
    batch_size: int, accumulation: int, gigabytes: int, checkpointing: bool
) -> None:
    before = planned(
        batch_size=batch_size,
        grad_accumulation_steps=accumulation,
        gradient_checkpointing=checkpointing,
    )
    room = gigabytes * GIGABYTE // 2
    said = memory.what_fits(before, room, MACHINE)
    if "makes steps of the same size" in said:
        numbers = (
            r"--batch-size (\d+) --grad-accumulation-steps (\d+)"
            r"( --gradient-checkpointing)?( --memory low)?"
        )
        [(batch, steps, recompute, low)] = re.findall(numbers, said)
        assert int(batch) * int(steps) == batch_size * accumulation
        assert int(batch) <= batch_size
        model, recompute = before.model, checkpointing or bool(recompute) or bool(low)
        if low:
            assert memory.step_memory(recomputing(before), MACHINE, 1).total > room
            before = planned(
                memory="low", batch_size=batch_size, grad_accumulation_steps=accumulation
            )
    else:
        [(name, batch)] = re.findall(r"--model-size (\S+) --batch-size (1) takes", said)
        model = shaped(PRESETS[name], {"vocab_size": 8000, "seq_len": 256})
        recompute = checkpointing
        smallest = planned(memory="low", batch_size=1)
        assert memory.step_memory(recomputing(smallest), MACHINE, 1).total > room
    named = dataclasses.replace(before, model=model)
    if recompute:
        named = recomputing(named)
    assert memory.step_memory(named, MACHINE, int(batch)).total <= room


def test_low_memory_is_named_where_it_helps_and_can_be_chosen() -> None:
    before, low = planned(batch_size=1), planned(batch_size=1, memory="low")
    assert low.config.gradient_checkpointing
    room = memory.step_memory(low, MACHINE).total
    assert "--memory low" in memory.what_fits(before, room, MACHINE)
    for said in (
        memory.what_fits(before, room, MACHINE, is_new=False),
        memory.what_fits(planned(batch_size=1, lora_rank=8), 10**6, MACHINE),
        memory.what_fits(low, 10**6, MACHINE),
    ):
        assert "--memory" not in said


def test_a_smaller_micro_batch_accumulates() -> None:
    tried = memory.step_memory(planned(batch_size=8), MACHINE, 4).total
    chosen = planned(batch_size=4, grad_accumulation_steps=2)
    assert tried == memory.step_memory(chosen, MACHINE).total


def test_where_nothing_fits_it_says_so() -> None:
    assert memory.what_fits(planned(), 10**6, MACHINE).startswith(
        "not even the smallest model fits"
    )


def test_advice_keeps_groups_of_answers_whole() -> None:
    config = dataclasses.replace(
        planned().config, batch_size=32, grad_accumulation_steps=1, reward="questions", group_size=8
    )
    plan = dataclasses.replace(planned(), config=config)
    for batch_size in range(1, 32):
        room = memory.step_memory(plan, MACHINE, batch_size).total
        for advised in re.findall(r"--batch-size (\d+)", memory.what_fits(plan, room, MACHINE)):
            assert int(advised) in (1, 8, 16, 32)  # 1 comes with a smaller model


def with_reward(**settings: object) -> Plan:
    plan = planned(batch_size=8)
    config = dataclasses.replace(plan.config, reward="questions", group_size=4, **settings)  # type: ignore[arg-type]
    return dataclasses.replace(plan, config=config)


def test_a_reward_adds_the_initial_model_if_the_run_stays_close_to_it() -> None:
    before = memory.step_memory(planned(batch_size=8), MACHINE)
    after = memory.step_memory(with_reward(updates=1), MACHINE)
    assert after.initial_model == before.weights
    assert after.total >= before.total + before.weights
    assert memory.step_memory(with_reward(kl_factor=0.0), MACHINE).initial_model == 0
    # Each of two updates learns from one of the two groups.
    halves = memory.step_memory(with_reward(updates=2), MACHINE)
    assert halves.activations == memory.step_memory(with_reward(), MACHINE, 4).activations
    assert halves.activations < after.activations
    pairs = dataclasses.replace(planned(batch_size=8).config, preferences="pairs.jsonl")
    preferred = dataclasses.replace(planned(), config=pairs)
    # Its reference is some numbers that the run computes once.
    assert memory.step_memory(preferred, MACHINE) == before


def test_the_rows_of_answers_have_their_own_length() -> None:
    plan = with_reward()
    short, long = (dataclasses.replace(plan, longest_row=n) for n in (64, 512))
    assert plan.in_rows.seq_len == plan.config.seq_len == 256
    of_short, of_plan, of_long = (
        memory.step_memory(one, MACHINE).activations for one in (short, plan, long)
    )
    assert of_short < of_plan < of_long
    room = memory.step_memory(short, MACHINE).total
    [advised] = re.findall(r"--batch-size (\d+)", memory.what_fits(short, room, MACHINE))
    assert int(advised) == 8  # the advice is about these rows


def without_estimates(message: str) -> str:
    return re.sub(r"(about|with) \d+\.\d GB", r"\1 ... GB", message)


def test_what_cannot_fit_is_refused_and_what_does_not_fit_now_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory.select, "machine", lambda name: MACHINE)
    said: list[str] = []
    with pytest.raises(UserError) as refused:
        memory.check_memory(planned(batch_size=64), said.append)
    assert without_estimates(str(refused.value)) == (
        "a step needs about ... GB, this machine has 8.0 GB: --batch-size 32 --grad-accumulation-steps 2 makes "
        "steps of the same size with ... GB"
    )
    memory.check_memory(planned(batch_size=8), said.append)
    assert said == []
    memory.check_memory(planned(batch_size=32), said.append)
    assert [without_estimates(line) for line in said] == [
        "A step needs about ... GB, of which 5.0 GB are free now: close other programs, or --batch-size 16 "
        "--grad-accumulation-steps 2 makes steps of the same size with ... GB."
    ]


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, 2_000_000_000))
from homespun.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_step_that_finds_no_memory_ends_the_run_with_what_to_do(workplace: Path) -> None:
    """The address space of a real process is limited; a run with the suggested flags then fits."""
    run = [
        "train",
        "--model-size",
        "pico",
        "--vocab-size",
        "400",
        "--compile",
        "off",
        "--threads",
        "2",
    ]
    run += [
        "--max-steps",
        "2",
        "--log-interval",
        "1",
        "--eval-tokens",
        "500",
        "--sample-prompts",
        "A",
    ]

    def ended(*flags: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", LIMITED, *run, *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    fine = ended("--batch-size", "4", "--grad-accumulation-steps", "36", "--max-steps", "1")
    assert fine.returncode == 0, fine.stderr
    before = {p.name: p.read_bytes() for p in (workplace / "checkpoints").glob("*.npz")}
    more = ["--resume", "--max-steps", "2", "--batch-size", "144", "--grad-accumulation-steps", "1"]
    failed = ended(*more)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: out of memory (a step was estimated at ")
    assert failed.stderr.endswith("; --resume continues from the last checkpoint\n")
    assert failed.stderr.count("\n") == 1
    assert before == {p.name: p.read_bytes() for p in (workplace / "checkpoints").glob("*.npz")}
    [flags] = re.findall(r"--batch-size \d+ --grad-accumulation-steps \d+", failed.stderr)
    fits = ended("--resume", "--max-steps", "2", *flags.split())
    assert fits.returncode == 0, fits.stderr
    steps = [r["step"] for r in records(workplace / "checkpoints") if "loss" in r]
    assert steps == [1, 2]
