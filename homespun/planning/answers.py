"""The settings of a run with preferences or a reward flow in; the work of one of its steps comes out.

Such a step does more than train: it reads the answers with the model, and with the initial one, and with a reward it
first writes them. Reading is counted in training tokens, see `EVALUATION_COST`.
"""

import math
from dataclasses import dataclass

from homespun.planning.resolved import ResolvedConfig

ROW_STEP = 64
"""Rows of answers are a multiple of so many tokens long."""
TOGETHER = 16
"""So many answers are written together, at most."""


@dataclass(frozen=True)
class Work:
    """Of a step."""

    trained: int
    """Tokens of all rows, which are learned from."""
    read: float
    """Tokens that are read, not trained."""
    decoded: int = 0
    """Tokens that each text of a group writes, one after the other, over all groups."""
    before: float = 0.0
    """Tokens that are read once, before the first step."""


def work_of_pairs(config: ResolvedConfig, pair_tokens: float, n_pairs: int) -> Work:
    """The work of a step with preferences.

    Args:
        config: the settings.
        pair_tokens: mean number of tokens of both conversations of a pair.
        n_pairs: the initial model reads all of them before the first step.
    """
    row = _row(pair_tokens / 2)
    trained = config.sequences_per_step * row
    return Work(trained, read=trained, before=2 * n_pairs * row)


def work_of_reward(config: ResolvedConfig, prompt_tokens: float) -> Work:
    """The work of a step with a reward, if all answers are as long as they may be and no group is skipped.

    Args:
        config: the settings.
        prompt_tokens: mean number of tokens of a prompt.
    """
    groups = config.sequences_per_step // config.group_size
    answers = config.sequences_per_step * _row(prompt_tokens + config.answer_tokens)
    replayed = 0
    if config.replay is not None:
        replayed = config.updates * replayed_samples(config) * config.seq_len
    # As they were sampled, in the initial model, and again before each update but the first.
    readings = 1 + (config.kl_factor > 0) + (config.updates - 1) / config.updates
    return Work(
        answers + replayed,
        read=readings * answers + groups * prompt_tokens,
        decoded=groups * config.answer_tokens,
    )


def replayed_samples(config: ResolvedConfig) -> int:
    """Samples of an earlier text in each update of a run with a reward and replay: this share of the prompts of a step,
    since repeated answers count once, and most groups not at all."""
    return max(1, round(config.replay_share * config.sequences_per_step / config.group_size))


def longest_row(prompt_tokens: float, answer_tokens: int) -> int:
    """Tokens of a row with the longest prompt and the longest answer. The last token is never read."""
    return _row(prompt_tokens + answer_tokens - 1)


def _row(n_tokens: float) -> int:
    return math.ceil(max(1.0, n_tokens) / ROW_STEP) * ROW_STEP
