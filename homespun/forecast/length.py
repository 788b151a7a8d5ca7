"""A planned run and its text flow in; the number of its steps, and the work of each, come out."""

import dataclasses
import math

import numpy as np

from homespun.config import TrainConfig
from homespun.config.checked import seconds
from homespun.data.chat_samples import ChatDataset
from homespun.data.corpus import Corpus
from homespun.data.pair_samples import PairDataset
from homespun.data.sizing import TokenCount
from homespun.forecast.result import StepSpeed
from homespun.planning.answers import (
    TOGETHER,
    Lengths,
    Work,
    longest_row,
    work_of_pairs,
    work_of_reward,
)
from homespun.planning.estimate import (
    CHECKS_PER_RUN,
    EVALUATION_COST,
    MAX_EVALUATION_SHARE,
)
from homespun.planning.recipe import step_limits
from homespun.planning.resolved import Plan, ResolvedConfig
from homespun.training.output.sampling import SAMPLE_TOKENS
from homespun.training.reinforcement.rollouts import (
    HELD_OUT,
    HELD_OUT_QUESTIONS,
    MOST_BEGINNINGS,
)
from homespun.training.timing.due import MAX_SAMPLING_SHARE, SAMPLING_COST

NO_TEXT_TOKENS = 10**12
"""Where there is no text, the plan is made for one that no run reads to its end."""
BYTES_PER_WORD = 5.5
"""Of English prose, with the blank."""


class Length:
    """The number of steps of a run, and the time that they take with evaluations and samples."""

    def __init__(
        self, planned: Plan, count: TokenCount | None, speed: StepSpeed, n_samples: int
    ) -> None:
        c = self._config = planned.config
        self._per_step = speed.seconds_per_step
        tokens = min(c.eval_tokens, count.validation) if count else c.eval_tokens
        reading, writing = EVALUATION_COST * tokens, 0.0
        if c.reward is not None:  # held-out answers are written, too
            is_chat = count is not None and count.conversations is not None
            held_out = HELD_OUT_QUESTIONS if is_chat else HELD_OUT
            writing = SAMPLING_COST * c.answer_tokens * math.ceil(held_out / TOGETHER)
        sampling = SAMPLING_COST * SAMPLE_TOKENS * len(c.sample_prompts)
        self._costs = (
            (c.eval_interval, reading, writing, MAX_EVALUATION_SHARE),
            (c.sample_interval, sampling, 0.0, MAX_SAMPLING_SHARE),
        )
        self._last_evaluation = reading + writing
        limits = {
            name: steps
            for name, steps in step_limits(c, n_samples).items()
            if count or name != "max_epochs"
        }
        budget = seconds(c.time_budget) if c.time_budget else None
        if budget is not None:
            limits["time_budget"] = self._within(budget)
        self.ended_by = min(limits, key=lambda name: limits[name]) if limits else "max_epochs"
        self.steps = limits.get(self.ended_by)

    def seconds(self, steps: int) -> float:
        """Of so many steps with their evaluations and samples, and the last evaluation."""
        return self._in_run(steps) + self._seconds(self._last_evaluation)

    def before(self, work: Work | None, steps_done: int) -> float:
        """Of the work before the first step, if that is still to come."""
        return 0.0 if work is None or steps_done else self._seconds(EVALUATION_COST * work.before)

    def _in_run(self, steps: int) -> float:
        checks = sum(self._checks(steps, *check) for check in self._costs)
        return steps * self._per_step + self._seconds(checks)

    def _checks(
        self, steps: int, interval: int | None, cost: float, more: float, share: float
    ) -> float:
        """The work of one kind of checks in a run, in training tokens; see `training.timing.due`, which does not count
        `more`."""
        if interval is not None:
            return steps // interval * (cost + more)
        affordable = share * steps * self._config.tokens_per_step
        number = min(CHECKS_PER_RUN, affordable / cost) if cost else 0.0
        return number * (cost + more)

    def _seconds(self, tokens: float) -> float:
        return tokens / self._config.tokens_per_step * self._per_step

    def _within(self, budget: float) -> int:
        """The steps of a time budget."""
        low, high = 1, max(1, math.ceil(budget / self._per_step))
        while low < high:
            middle = (low + high + 1) // 2
            if self._in_run(middle) <= budget:
                low = middle
            else:
                high = middle - 1
        return low


def samples_per_pass(wanted: TrainConfig, count: TokenCount | None) -> int:
    """Samples in a pass over the text, by its tokens; with prompts or pairs, one for each answer. An earlier text that
    is replayed adds its share.

    Raises:
        UserError: no conversation, or no pair, fits into a sample.
    """
    if count is None:
        return NO_TEXT_TOKENS // wanted.seq_len
    counted = count.conversations
    if wanted.reward is not None and counted is not None:
        return wanted.group_size * count.n_documents
    if wanted.reward is not None and wanted.prompt_words:
        return wanted.group_size * min(count.n_documents, MOST_BEGINNINGS)
    if counted is None:
        samples: float = count.training // wanted.seq_len
    else:
        pairs = wanted.preferences is not None
        dataset = (PairDataset if pairs else ChatDataset)(counted, wanted.seq_len)
        samples = dataset.samples_per_pass * count.training / len(counted)
    # With a reward, each update has its own part of the earlier text, and a pass has none of it.
    mixes = wanted.replay is not None and wanted.reward is None
    share = wanted.replay_share if mixes else 0.0
    return math.ceil(samples / (1 - share))


def work_of(
    planned: Plan, corpus: Corpus | None, count: TokenCount | None, n_samples: int
) -> Work | None:
    """The work of a step with preferences or a reward; None for other runs. `n_samples`: those of a pass."""
    c = planned.config
    if pairs := _pairs(c, count):
        return work_of_pairs(c, pairs.longest - 1, n_samples // 2)
    if c.reward is None:
        return None
    return work_of_reward(c, np.minimum(_prompts(c, corpus, count), _room(planned)))


def with_rows(planned: Plan, corpus: Corpus | None, count: TokenCount | None) -> Plan:
    """The plan with the length of its rows, in a run with preferences or a reward."""
    c = planned.config
    if pairs := _pairs(c, count):
        return dataclasses.replace(planned, longest_row=pairs.longest_row)
    if c.reward is None:
        return planned
    longest = int(_prompts(c, corpus, count).max())
    row = longest_row(min(longest, _room(planned)), c.answer_tokens)
    return dataclasses.replace(planned, longest_row=row)


def _room(planned: Plan) -> int:
    """Tokens of the longest prompt that leaves room for an answer; longer ones are left out of training."""
    return max(1, planned.model.seq_len - planned.config.answer_tokens)


def _pairs(c: ResolvedConfig, count: TokenCount | None) -> PairDataset | None:
    """The pairs that were counted, in a run with preferences."""
    if c.preferences is None or count is None or count.conversations is None:
        return None
    return PairDataset(count.conversations, c.seq_len)


def _prompts(c: ResolvedConfig, corpus: Corpus | None, count: TokenCount | None) -> Lengths:
    """Tokens of the prompts of a run with a reward. Those of conversations are counted with their answers."""
    if corpus is None or corpus.is_chat:
        lengths = count.lengths if count else None
        return np.array([c.seq_len]) if lengths is None else lengths
    per_word = count.training / max(1, corpus.n_bytes) * BYTES_PER_WORD if count else 2.0
    return np.array([1 + round(c.prompt_words * per_word)])
