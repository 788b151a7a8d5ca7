"""Settings and data of a run with preferences flow in; what its steps need besides the engine comes out.

The reference of DPO is the initial model. Its log-probabilities of all answers are numbers that never change, so the
engine of the run computes them once, before the first step, when it is still the initial model; with LoRA, adapters
begin as zeros. So no second model is ever in memory, and a step saves the forward pass of the reference. They lie
beside the checkpoints as `reference.npz`, from which a resumed run takes them, bit for bit.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from homespun.checkpoint.archive import Archive, CheckpointError, read_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.names import REFERENCE
from homespun.config import TrainConfig
from homespun.data.pair_samples import PairDataset
from homespun.engine.base import Reader
from homespun.errors import UserError
from homespun.planning.resolved import ResolvedConfig
from homespun.records.events import Pairs
from homespun.terminal import bar, counted
from homespun.training.checkpointing.position import PairSums
from homespun.training.checkpointing.resume import ResumePoint, place_of
from homespun.training.preferences.loss import (
    BETTER,
    WORSE,
    PairLosses,
    Values,
    answer_sums,
    pair_losses,
)

HELD_OUT = 128
"""Pairs of an evaluation."""
REFERENCE_SHA256 = "preference_reference_sha256"
"""The entry of a header with the hash of the file of the reference."""


class Reference(NamedTuple):
    """Log-probabilities of the answers in the initial model, in nats."""

    training: Values
    """[pairs, 2]"""
    held_out: Values
    """[pairs, 2]"""


UNKNOWN = Reference(np.empty((0, 2)), np.empty((0, 2)))
"""Until it is computed or read."""


@dataclass(frozen=True)
class Preferences:
    """The needs of a step with preferences besides the engine."""

    training: PairDataset
    held_out: PairDataset
    reference: Reference = UNKNOWN

    @property
    def evaluated(self) -> Sequence[int]:
        """The held-out pairs of an evaluation, always the same."""
        count = min(HELD_OUT, self.held_out.n_pairs)
        numbers: list[int] = self.held_out.batches(0).numbers(0, 2 * count).tolist()
        return numbers


def check_preferences(config: TrainConfig) -> None:
    """Refuse settings of a run with preferences that have no meaning, before the data are read.

    Raises:
        UserError: there are some.
    """
    if config.preferences is None:
        return
    if config.data_file is not None and config.resume == "never":
        raise UserError("--preferences takes the place of --data-file: leave one of them out")
    if config.reward is not None:
        raise UserError("--preferences and --reward are two ways to learn: leave one of them out")
    if config.init_from is None and config.resume == "never":
        raise UserError(
            "--preferences improves a model that exists: name it with --init-from, usually one that has learned to "
            "answer"
        )
    if config.dropout:
        raise UserError(
            "--dropout would change the probabilities of answers: leave it out with --preferences"
        )
    if config.averaging:
        raise UserError(
            "--averaging would change the probabilities of answers: leave it out with --preferences"
        )


def check_pairs(config: ResolvedConfig) -> None:
    """Make sure that a micro-batch has whole pairs.

    Raises:
        UserError: it has not.
    """
    if config.preferences is not None and config.batch_size % 2:
        raise UserError(
            f"a micro-batch has {counted(config.batch_size, 'answer')} (--batch-size), but a pair has two: give an "
            "even number"
        )


def with_reference(
    preferences: Preferences,
    engine: Reader,
    batch_size: int,
    point: ResumePoint | None,
    folder: CheckpointFolder,
    moved_to: Path | None,
) -> tuple[Preferences, dict[str, str]]:
    """Compute the reference and keep it in the folder of the run, or read it from there.

    Args:
        preferences: of the run.
        engine: of the run. Without a point, it is still the initial model.
        batch_size: answers that are computed together.
        point: the point from which the run is resumed, if it is.
        folder: of the run.
        moved_to: the place to which an earlier run in the folder has been moved just now, if one was.

    Returns:
        The preferences with their reference, and an entry for the header of all files of the run.

    Raises:
        UserError: the file of the reference is missing, damaged or another one, or it cannot be written.
    """
    if point:
        path = place_of(point.path, folder.path, moved_to).with_name(REFERENCE)
        found = _read(path, point.header.get(REFERENCE_SHA256), preferences)
        if not point.is_in(folder.path):
            folder.save_reference(found._asdict().items())
        sha256 = str(point.header[REFERENCE_SHA256])
    else:
        n_pairs = preferences.training.n_pairs + len(preferences.evaluated)
        with bar("Measuring the initial model on the pairs", n_pairs) as advance:
            found = Reference(
                _measured(engine, preferences.training, None, batch_size, advance),
                _measured(engine, preferences.held_out, preferences.evaluated, batch_size, advance),
            )
        sha256 = folder.save_reference(found._asdict().items())
    return dataclasses.replace(preferences, reference=found), {REFERENCE_SHA256: sha256}


def _measured(
    engine: Reader,
    dataset: PairDataset,
    numbers: Sequence[int] | None,
    batch_size: int,
    advance: Callable[[int], object],
) -> Values:
    """The log-probabilities of pairs, all by default, in the order of their numbers. Pairs of about the same length are
    computed together."""
    result = np.zeros((dataset.n_pairs if numbers is None else len(numbers), 2))
    order = dataset.by_length if numbers is None else np.arange(len(numbers))
    for first in range(0, len(order), batch_size // 2):
        places = order[first : first + batch_size // 2].tolist()
        taken = places if numbers is None else [numbers[place] for place in places]
        result[places] = answer_sums(engine.log_probabilities(dataset.pairs(taken)))
        advance(len(places))
    if not np.isfinite(result).all():
        raise UserError(
            "the initial model gives an answer of the pairs a probability that is no number: it cannot be improved"
        )
    return result


def _read(path: Path, sha256: object, preferences: Preferences) -> Reference:
    """The reference in a file.

    Raises:
        UserError: it is missing, damaged, or that of another run.
    """
    try:
        archive: Archive = read_archive(path)
        archive.verify()
        found = dict(archive.tensors())
    except CheckpointError as error:
        raise UserError(
            f"the log-probabilities of the initial model, which this run needs, cannot be read: {error}"
        ) from None
    sizes = preferences.training.n_pairs, len(preferences.evaluated)
    if archive.sha256 != sha256 or tuple(len(found[name]) for name in Reference._fields) != sizes:
        raise UserError(f"{path} is not the one with which this run began: put that one there")
    return Reference(*(np.asarray(found[name], np.float64) for name in Reference._fields))


class Preferred(NamedTuple):
    """An evaluation."""

    loss: float
    """Mean over the pairs."""
    pairs: Pairs


class PreferenceEvaluator:
    """The held-out pairs, or some of them, which are the same each time."""

    def __init__(self, preferences: Preferences, *, beta: float, batch_size: int) -> None:
        self._reference, self._beta = preferences.reference.held_out, beta
        dataset, numbers, size = preferences.held_out, preferences.evaluated, batch_size // 2
        self._batches = [
            dataset.pairs(numbers[first : first + size]) for first in range(0, len(numbers), size)
        ]
        self.n_tokens = sum(batch.inputs.size for batch in self._batches)

    def measure(self, engine: Reader, stopped: Callable[[], object]) -> Preferred | None:
        """Measure a model; None if `stopped()` becomes true before that is done."""
        new = []
        for batch in self._batches:
            if stopped():
                return None
            new.append(answer_sums(engine.log_probabilities(batch)))
        found = pair_losses(np.concatenate(new), self._reference, self._beta)
        return Preferred(float(found.loss.mean()), figures_of(sums_of(found, 0)))


def sums_of(found: PairLosses, n_tokens: int) -> PairSums:
    """The sums over some pairs, whose answers have so many tokens. A tie is half right, like a guess."""
    right = (found.margins > 0) + 0.5 * (found.margins == 0)
    return PairSums(
        len(found.loss),
        float(right.sum()),
        float(found.rewards[:, BETTER].sum()),
        float(found.rewards[:, WORSE].sum()),
        n_tokens,
    )


def figures_of(sums: PairSums) -> Pairs:
    """Means over the pairs."""
    n = max(1, sums.pairs)
    chosen, rejected = sums.chosen / n, sums.rejected / n
    return Pairs(sums.right / n, chosen - rejected, chosen, rejected)
