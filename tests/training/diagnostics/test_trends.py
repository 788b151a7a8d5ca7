"""Each cause is found in a run that is made to show it, and none in an ordinary run."""

import dataclasses
import functools
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import homespun
from homespun.engine.base import StepResult
from homespun.planning.resolved import ResolvedConfig
from homespun.training.checkpointing.position import Position
from homespun.training.diagnostics.trends import MAX_BLOCKS, TrendWatch
from tests.conftest import records

CONFIG = ResolvedConfig()
UNIGRAM_LOSS = 5.0


def seen(
    loss: Callable[[int], float],
    steps: int,
    *,
    rate: Callable[[int], float] = lambda step: 1.0,
    norm: float = 0.5,
    killed_after: int = 0,
    config: ResolvedConfig = CONFIG,
) -> Iterator[tuple[int, str]]:
    """Step and cause of each advice for a run with these losses and typical noise between batches."""
    watch, noise = TrendWatch().begin(config, UNIGRAM_LOSS), random.Random(0)
    for step in range(1, steps + 1):
        result = StepResult(loss(step) + noise.gauss(0, 0.15), norm, clipped=norm > 1, applied=True)
        for advice in watch.observe_step(step, result, rate(step), config):
            yield step, advice.cause
        if step % 100 == 0:
            for advice in watch.observe_evaluation(step, loss(step) + 0.1, config):
                yield step, advice.cause
        if step == killed_after:
            position = Position(watch=watch).stored()
            restored = Position.restored(json.loads(json.dumps(position))).watch
            assert restored == watch
            watch = restored.begin(config, UNIGRAM_LOSS)
        assert len(watch.blocks) < MAX_BLOCKS


def falling(step: int) -> float:
    """A loss that falls as a power of the step, as in real runs."""
    return 2.0 + 5.0 * step**-0.3


def test_an_ordinary_run_is_left_alone() -> None:
    for at_the_end in (0.0, 0.1, 1.0):
        shares = [1 - (1 - at_the_end) * step / 5000 for step in range(5001)]
        assert not list(seen(falling, 5000, rate=shares.__getitem__))


def test_a_rise_a_loss_that_does_not_move_and_one_that_no_longer_does() -> None:
    rises = list(seen(lambda step: falling(step) + (step > 1000), 3000))
    assert rises[0][1] == "divergence"
    assert 1000 < rises[0][0] < 1200
    high = list(seen(lambda step: 5.1 + 2 * math.exp(-step / 20), 3000))
    assert [cause for _, cause in high] == ["no fall"] * 3
    assert high[0][0] < 200
    low = list(seen(lambda step: 6.9 - step / 1e5, 600))
    assert [cause for _, cause in low] == ["no fall"] * 2
    stays = list(seen(lambda step: max(4.0, falling(step)), 3000))
    assert [cause for _, cause in stays] == ["plateau"] * 2


def test_a_loss_that_rises_at_once() -> None:
    assert next(seen(lambda step: 7.0 if step == 1 else 20.0, 100)) == (30, "divergence")


@pytest.mark.parametrize("going_on", [{"init_from": "base"}, {"lora_rank": 8}])
def test_the_rise_of_a_trained_model_whose_rate_rises_again_is_usual(
    going_on: dict[str, Any],
) -> None:
    config = dataclasses.replace(CONFIG, **going_on)
    warmed = functools.partial(seen, steps=500, config=config)
    assert not list(warmed(lambda step: 2.0 + 0.2 * min(1, step / 100)))
    assert next(warmed(lambda step: 2.0 + 1.0 * min(1, step / 100)))[1] == "divergence"


def test_very_small_steps_take_longer_to_learn() -> None:
    small = dataclasses.replace(CONFIG, batch_size=1, seq_len=64)
    said = list(seen(lambda step: 5.1, 1000, config=small))
    assert said[0][1] == "no fall"
    assert said[0][0] * 64 > 25_000


def test_in_a_long_warm_up_a_loss_need_not_fall() -> None:
    assert not list(seen(lambda step: 6.9, 500, rate=lambda step: step / 2000))


def test_a_loss_that_stays_while_the_rate_decays_is_left_alone() -> None:
    def stays(step: int) -> float:
        return 4.8 - min(step, 1200) / 1000

    assert not list(seen(stays, 3000, rate=lambda step: 1 - step / 3000))
    assert list(seen(stays, 3000))


def test_all_gradients_far_above_the_limit() -> None:
    assert [cause for _, cause in seen(falling, 500, norm=3.1)] == ["constant clipping"]
    assert not list(seen(falling, 500, norm=2.0))  # common in healthy runs


def test_a_loss_that_is_high_but_falls_is_left_alone() -> None:
    assert not list(seen(lambda step: 9 - 0.006 * step, 800))


def test_what_is_said_does_not_depend_on_a_kill() -> None:
    def run(**kill: int) -> list[tuple[int, str]]:
        return list(seen(lambda step: falling(step) + (step > 700), 1500, norm=4.0, **kill))

    whole = run()
    assert len({cause for _, cause in whole}) > 1
    for killed_after in (1, 155, 700, 800, 1499):
        assert run(killed_after=killed_after) == whole


def test_changed_settings_are_judged_afresh() -> None:
    watch = TrendWatch().begin(CONFIG, UNIGRAM_LOSS)
    watch.observe_step(1, StepResult(5.0, 1.0, clipped=False, applied=True), 1.0, CONFIG)
    assert watch.begin(CONFIG, UNIGRAM_LOSS) is watch
    again = watch.begin(dataclasses.replace(CONFIG, learning_rate=1e-4), UNIGRAM_LOSS)
    assert again.current_block.steps == 0


SMALL = {
    "model_size": "pico",
    "n_layers": 1,
    "d_model": 64,
    "n_heads": 1,
    "vocab_size": 400,
    "seq_len": 32,
    "batch_size": 8,
    "max_steps": 200,
    "threads": 2,
    "compile": "off",
    "eval_tokens": 500,
    "sample_prompts": (),
}
GPT2 = {"architecture": "gpt2", "warmup_steps": 5}
LITTLE_TEXT = {"learning_rate": 1e-2, "data_file": "little.txt", "max_steps": 300}


@pytest.mark.parametrize(
    ("settings", "cause", "advised"),
    [
        ({"learning_rate": 3e-3}, None, ""),
        ({"model_size": None, "batch_size": None}, None, ""),  # the recipe
        (
            {"learning_rate": 1e-7},
            "no fall",
            "too low: continue with --resume --learning-rate 0.0003",
        ),
        (
            {"learning_rate": 0.1, **GPT2},
            "no fall",
            "high: start again with --learning-rate 0.0003",
        ),
        ({"learning_rate": 1.0, **GPT2}, "divergence", "--resume --learning-rate 0.0003"),
        (
            {"learning_rate": 3e-3, "max_grad_norm": 0.01, "max_steps": 400},
            "constant clipping",
            "--max-grad-norm",
        ),
        ({**LITTLE_TEXT, "eval_interval": 30}, "overfitting", "best.npz is from before"),
    ],
    ids=str,
)
def test_a_real_run(
    workplace: Path, settings: dict[str, Any], cause: str | None, advised: str
) -> None:
    text = Path("stories.txt").read_text(encoding="utf-8")
    Path("little.txt").write_text(text[:8000], encoding="utf-8")
    homespun.train_tokenizer(data_file="stories.txt", vocab_size=400)
    homespun.train(**{**SMALL, "tokenizer_path": "tokenizer_model", **settings})
    said = [
        r for r in records(workplace / "checkpoints") if "advice" in r and r["cause"] != "spike"
    ]
    # A lasting cause is named again when the run is four times as long.
    assert {record["cause"] for record in said} == ({cause} if cause else set())
    assert all(advised in record["advice"] for record in said)
