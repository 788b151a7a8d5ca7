"""The work of steps that read and write answers, against a count of every token."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from homespun.planning.answers import longest_row, mean_row, work_of_pairs, work_of_reward
from homespun.planning.resolved import ResolvedConfig


def resolved(**settings: Any) -> ResolvedConfig:
    return ResolvedConfig(batch_size=8, grad_accumulation_steps=2, **settings)


def test_pairs_are_read_once_before_the_run_and_once_in_their_step() -> None:
    rows = np.array([75, 66])
    work = work_of_pairs(resolved(preferences="pairs.jsonl"), rows, n_pairs=100)
    assert work.trained == work.read == 16 * 128  # 75 tokens, in rows of a multiple of 64
    assert work.before == 200 * 128
    assert work.decoded == 0


@pytest.mark.parametrize(
    ("settings", "readings"),
    [({}, 2.5), ({"updates": 1}, 2), ({"updates": 4}, 2.75), ({"kl_factor": 0.0}, 1.5)],
)
def test_answers_are_read_by_both_models_and_before_each_later_update(
    settings: dict[str, Any], readings: float
) -> None:
    config = resolved(reward="questions", group_size=4, answer_tokens=20, **settings)
    work = work_of_reward(config, np.array([100]))
    assert work.trained == 16 * 128
    assert work.read == readings * 16 * 128 + 4 * 100
    assert work.decoded == 4 * 20


def test_the_rows_of_a_batch_are_as_long_as_the_longest_of_its_texts() -> None:
    texts = np.random.default_rng(0).integers(1, 400, 50)
    rows = -(-texts // 64) * 64
    for together in (1, 3, 20):
        drawn = np.random.default_rng(1).choice(rows, (4000, together)).max(axis=1)
        assert mean_row(texts, together) == pytest.approx(drawn.mean(), rel=0.02)


def test_an_update_learns_from_a_part_of_the_groups() -> None:
    config = resolved(reward="questions", group_size=4)  # 4 groups in a step of 16 answers
    found = [
        (one.sequences_per_update, one.largest_microbatch)
        for one in (dataclasses.replace(config, updates=n) for n in (1, 2, 3, 4, 9))
    ]
    assert found == [(16, 8), (8, 8), (8, 8), (4, 4), (4, 4)]
    assert resolved(updates=3).sequences_per_update == 16  # without a reward there is one


def test_each_update_learns_from_a_share_of_the_earlier_text() -> None:
    given = {"reward": "questions", "group_size": 4, "updates": 3, "seq_len": 64}
    plain = work_of_reward(resolved(**given), prompts=np.full(4, 100))
    replaying = resolved(**given, replay="old.txt", replay_share=0.25)
    work = work_of_reward(replaying, prompts=np.full(4, 100))
    assert work.trained - plain.trained == 3 * 1 * 64  # a quarter of the four groups
    assert work.read == plain.read


@pytest.mark.parametrize(("prompt", "answer", "row"), [(1, 64, 64), (2, 64, 128), (100, 29, 128)])
def test_a_row_has_a_prompt_and_an_answer_without_its_last_token(
    prompt: int, answer: int, row: int
) -> None:
    assert longest_row(prompt, answer) == row
