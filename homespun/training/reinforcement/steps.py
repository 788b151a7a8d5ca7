"""Sampled answers flow in, finished steps come out: the steps of a run with a reward.

A step samples answers to the next prompts, scores them, and updates the weights one or several times, each time with a
part of the groups, and with samples of an earlier text, if there is one. All of a step is done before a checkpoint can
be written, so nothing of it has to be stored.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from homespun.data.batch import Batch
from homespun.data.replay import documents_of
from homespun.engine.base import StepHandle, StepResult
from homespun.planning.answers import replayed_samples
from homespun.records.events import Answers, LoggedSteps
from homespun.training.checkpointing.position import AnswerSums, Position
from homespun.training.diagnostics.step_guard import Limits
from homespun.training.reinforcement.loss import Values, divergence, token_losses
from homespun.training.reinforcement.policy import Policy
from homespun.training.reinforcement.rollouts import Group, Rows, merged, rows_of
from homespun.training.run import Run
from homespun.training.steps import Steps
from homespun.training.timing.clock import Clock

T = TypeVar("T")


@dataclass(frozen=True)
class _Scored:
    """A micro-batch of answers without repetitions, with their log-probabilities of the past, [rows, T]."""

    rows: Rows
    old: Values
    """When they were sampled."""
    reference: Values | None
    """In the initial model."""


@dataclass(frozen=True)
class _Done:
    """A step that is finished."""

    outcome: StepResult

    def ready(self) -> bool:
        return True

    def result(self) -> StepResult:
        return self.outcome


class PolicySteps(Steps):
    """Steps that sample, score and update."""

    def __init__(self, run: Run, policy: Policy, position: Position, clock: Clock) -> None:
        self._policy = policy
        self._groups: list[Group] = []
        self._earlier = run.replay.dataset.batches(run.config.seed) if run.replay else None
        super().__init__(run, position, clock)

    def _count_passes(self) -> None:
        asked = self._position.next_sample / self._run.config.group_size
        self._position.epoch = asked / len(self._policy.prompts.training)

    def _microbatches(self) -> list[Batch]:
        """Sample the answers of the next step; all of them are in the batch."""
        c, position = self._run.config, self._position
        first, count = position.next_sample // c.group_size, c.sequences_per_step // c.group_size
        self._groups = list(self._policy.sampler.groups(self._policy.session, first, count))
        return [rows_of(self._groups).batch]

    def _dispatch(
        self, microbatches: Sequence[Batch], rates: dict[str, float], enforced: Limits
    ) -> StepHandle:
        c, sums = self._run.config, self._position.window.answers
        for group in self._groups:
            _count(sums, group)
        useful = [group for group in self._groups if group.has_signal]
        groups_per_update = -(-len(useful) // c.updates)
        size = max(1, min(c.batch_size // c.group_size, groups_per_update))
        scored = [self._scored(part) for part in _slices(useful, size)]
        results: list[StepResult] = []
        for part in _slices(scored, max(1, -(-len(scored) // c.updates))):
            batches, loss = self._weighted(part, as_sampled=not results)
            batches = self._with_earlier(batches)
            done = self._run.engine.train_step(
                batches, rates, self._position.step, norm_limit=enforced.norm
            ).result()
            results.append(dataclasses.replace(done, loss=loss))
        return _Done(_together(results))

    def _scored(self, groups: Sequence[Group]) -> _Scored:
        sums, rows = self._position.window.answers, merged(rows_of(groups))
        is_answer, counts = rows.batch.is_target, rows.counts
        old = self._run.engine.log_probabilities(rows.batch).astype(np.float64)
        sums.scored_tokens += rows.n_tokens
        sums.log_probability += float((counts * old)[is_answer].sum())
        if self._policy.reference is None:
            return _Scored(rows, old, None)
        reference = self._policy.reference.log_probabilities(rows.batch).astype(np.float64)
        sums.divergence += float((counts * divergence(reference - old))[is_answer].sum())
        return _Scored(rows, old, reference)

    def _weighted(self, part: Sequence[_Scored], *, as_sampled: bool) -> tuple[list[Batch], float]:
        """The micro-batches of an update with the weights of their tokens, and the loss. With `as_sampled`, the model
        is still the one that wrote the answers."""
        c, sums = self._run.config, self._position.window.answers
        n_tokens = sum(one.rows.n_tokens for one in part)
        # The engine divides by the number of targets, in which repeated answers count once.
        share = sum(one.rows.batch.n_targets for one in part) / n_tokens
        batches, total = [], 0.0
        for one in part:
            batch, counts = one.rows.batch, one.rows.counts
            found = token_losses(
                one.old if as_sampled else self._run.engine.log_probabilities(batch),
                one.old,
                one.reference,
                one.rows.advantages,
                batch.is_target,
                clip=c.clip_ratio,
                kl=c.kl_factor,
            )
            weights = (share * counts * found.weights).astype(np.float32)
            batches.append(dataclasses.replace(batch, weights=weights))
            total += float((counts * found.loss).sum())
            sums.clipped += int(counts[found.clipped].sum())
        sums.updated_tokens += n_tokens
        return batches, total / n_tokens

    def _with_earlier(self, batches: list[Batch]) -> list[Batch]:
        """The micro-batches of an update with the next samples of the earlier text, if there is one. The loss is then
        (1 - share) times that of the answers plus share times the mean over the earlier text."""
        c, position = self._run.config, self._position
        if self._earlier is None:
            return batches
        count, first = replayed_samples(c), position.next_replayed
        if first is None:  # a checkpoint of an earlier version has none
            first = position.step * c.updates * count
        end = position.next_replayed = first + count
        # As many tokens together as in a micro-batch of answers, for which the memory was planned.
        of_answers = c.largest_microbatch * (self._run.longest_row or c.seq_len)
        size = max(1, of_answers // c.seq_len)
        mark = self._run.tokenizer.eot_id
        earlier = [
            # Ranks stack the rows of an update, and those of answers have documents.
            dataclasses.replace(batch, documents=documents_of(batch, mark))
            for start in range(first, end, size)
            for batch in self._earlier.microbatches(start, min(size, end - start), 1)
        ]
        n_new, n_earlier = (sum(one.n_targets for one in part) for part in (batches, earlier))
        n = n_new + n_earlier  # the engine divides the sum by this number
        return [
            *_times((1 - c.replay_share) * n / n_new, batches),
            *_times(c.replay_share * n / n_earlier, earlier),
        ]

    def logged(self, last: StepResult) -> LoggedSteps:
        window = self._position.window
        answers, rate = of_sums(window.answers), window.answers.tokens / window.seconds
        return dataclasses.replace(super().logged(last), answers=answers, tokens_per_second=rate)


def _count(sums: AnswerSums, group: Group) -> None:
    sums.groups += 1
    sums.skipped += not group.has_signal
    sums.distinct += group.n_distinct
    for answer, score in zip(group.answers, group.scores, strict=True):
        sums.answers += 1
        sums.tokens += len(answer.token_ids)
        sums.unfinished += answer.finish == "length"
        sums.reward += score
        sums.square += score * score


def of_sums(sums: AnswerSums) -> Answers:
    """Means over the answers."""
    n, scored = max(1, sums.answers), sums.scored_tokens
    mean = sums.reward / n
    return Answers(
        reward=mean,
        reward_deviation=max(0.0, sums.square / n - mean * mean) ** 0.5,
        tokens=sums.tokens / n,
        unfinished=sums.unfinished / n,
        distinct=sums.distinct / n,
        entropy=max(0.0, -sums.log_probability / scored) if scored else None,
        divergence=sums.divergence / scored if scored else None,
        skipped=sums.skipped / max(1, sums.groups),
        clipped=sums.clipped / max(1, sums.updated_tokens),
    )


def _together(results: Sequence[StepResult]) -> StepResult:
    """The updates of a step as one result; without any, nothing has changed."""
    if not results:
        return StepResult(loss=0.0, grad_norm=0.0, clipped=False, applied=True)
    return StepResult(
        loss=sum(one.loss for one in results) / len(results),
        grad_norm=max(one.grad_norm for one in results),
        clipped=any(one.clipped for one in results),
        applied=all(one.applied for one in results),
        routers=results[-1].routers,
    )


def _times(factor: float, batches: Sequence[Batch]) -> list[Batch]:
    """The batches with this factor of the losses of their targets, besides their weights."""
    return [
        dataclasses.replace(
            batch,
            weights=np.float32(factor)
            * (
                np.ones(batch.targets.shape, np.float32) if batch.weights is None else batch.weights
            ),
        )
        for batch in batches
    ]


def _slices(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
