"""The settings of a run with preferences or a reward flow in; the work of one of its steps comes out.

Such a step does more than train: it reads the answers with the model, and with the initial one, and with a reward it
first writes them. Reading is counted in training tokens, see `EVALUATION_COST`.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from homespun.planning.resolved import ResolvedConfig

ROW_STEP = 64
"""Rows of answers are a multiple of so many tokens long."""
TOGETHER = 16
"""So many answers are written together, at most."""

Lengths = npt.NDArray[np.int64]
"""Tokens of texts."""


@dataclass(frozen=True)
class Work:
    """Of a step."""

    trained: float
    """Tokens of all rows, which are learned from, with those that fill up the shorter ones."""
    read: float
    """Tokens that are read, not trained."""
    decoded: int = 0
    """Tokens that each text of a group writes, one after the other, over all groups."""
    before: float = 0.0
    """Tokens that are read once, before the first step."""


def work_of_pairs(config: ResolvedConfig, rows: Lengths, n_pairs: int) -> Work:
    """The work of a step with preferences.

    Args:
        config: the settings.
        rows: tokens that the model reads of the longer answer of each pair, with the conversation before it.
        n_pairs: the initial model reads all of them before the first step, those of about equal length together.
    """
    trained = config.sequences_per_step * mean_row(rows, config.batch_size // 2)
    return Work(trained, read=trained, before=2 * n_pairs * mean_row(rows, 1))


def work_of_reward(config: ResolvedConfig, prompts: Lengths) -> Work:
    """The work of a step with a reward, if all answers are as long as they may be and no group is skipped.

    Args:
        config: the settings.
        prompts: tokens of each prompt.
    """
    groups = config.sequences_per_step // config.group_size
    together = config.largest_microbatch // config.group_size
    answers = config.sequences_per_step * mean_row(prompts + config.answer_tokens - 1, together)
    replayed = 0
    if config.replay is not None:
        replayed = config.updates * replayed_samples(config) * config.seq_len
    # As they were sampled, in the initial model, and again before each update but the first.
    readings = 1 + (config.kl_factor > 0) + (config.updates - 1) / config.updates
    return Work(
        answers + replayed,
        read=readings * answers + groups * float(prompts.mean()),
        decoded=groups * config.answer_tokens,
    )


def mean_row(texts: Lengths, together: int) -> float:
    """The mean length of the rows of a batch, which is that of the longest text in it.

    Args:
        texts: tokens of each text, as they are read.
        together: random texts in a batch.
    """
    rows = np.sort(-(-np.maximum(texts, 1) // ROW_STEP) * ROW_STEP)
    longest_so_far = np.linspace(0.0, 1.0, len(rows) + 1) ** max(1, together)
    return float(rows @ np.diff(longest_so_far))


def replayed_samples(config: ResolvedConfig) -> int:
    """Samples of an earlier text in each update of a run with a reward and replay: this share of the prompts of a step,
    since repeated answers count once, and most groups not at all."""
    return max(1, round(config.replay_share * config.sequences_per_step / config.group_size))


def longest_row(prompt_tokens: int, answer_tokens: int) -> int:
    """Tokens of a row with the longest prompt and the longest answer. The last token is never read."""
    return math.ceil(max(1, prompt_tokens + answer_tokens - 1) / ROW_STEP) * ROW_STEP
