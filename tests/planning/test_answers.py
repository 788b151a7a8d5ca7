"""The work of steps that read and write answers, against a count of every token."""

from typing import Any

import pytest

from homespun.planning.answers import longest_row, work_of_pairs, work_of_reward
from homespun.planning.resolved import ResolvedConfig


def resolved(**settings: Any) -> ResolvedConfig:
    return ResolvedConfig(batch_size=8, grad_accumulation_steps=2, **settings)


def test_pairs_are_read_once_before_the_run_and_once_in_their_step() -> None:
    work = work_of_pairs(resolved(preferences="pairs.jsonl"), pair_tokens=150, n_pairs=100)
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
    work = work_of_reward(config, prompt_tokens=100)
    assert work.trained == 16 * 128
    assert work.read == readings * 16 * 128 + 4 * 100
    assert work.decoded == 4 * 20


def test_each_update_learns_from_a_share_of_the_earlier_text() -> None:
    given = {"reward": "questions", "group_size": 4, "updates": 3, "seq_len": 64}
    plain = work_of_reward(resolved(**given), prompt_tokens=100)
    replaying = resolved(**given, replay="old.txt", replay_share=0.25)
    work = work_of_reward(replaying, prompt_tokens=100)
    assert work.trained - plain.trained == 3 * 1 * 64  # a quarter of the four groups
    assert work.read == plain.read


@pytest.mark.parametrize(("prompt", "answer", "row"), [(1, 64, 64), (2, 64, 128), (100, 29, 128)])
def test_a_row_has_a_prompt_and_an_answer_without_its_last_token(
    prompt: int, answer: int, row: int
) -> None:
    assert longest_row(prompt, answer) == row
