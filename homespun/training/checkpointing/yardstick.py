"""The settings before and after a resume flow in; figures that cannot be compared any more are measured again, or begin
anew.

Losses on other validation tokens, or in another precision, do not compare; nor do training losses with another dropout.
"""

import dataclasses
import math
from collections.abc import Callable

from homespun.architectures.families import model_config
from homespun.checkpoint.archive import Archive, CheckpointError, read_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.names import BEST, LORA
from homespun.planning.resolved import ResolvedConfig
from homespun.records.events import Remeasured
from homespun.training.checkpointing.position import Position
from homespun.training.checkpointing.resume import ResumePoint
from homespun.training.output.emitter import Emitter
from homespun.training.output.evaluate import evaluator_of
from homespun.training.run import Run

SAME_RUN = ("tokenizer_sha256", "data_sha256", LORA)
"""Entries of a header that are the same in all files of a run."""


def renew(
    run: Run,
    position: Position,
    point: ResumePoint,
    folder: CheckpointFolder,
    emit: Emitter,
    stopped: Callable[[], object],
) -> None:
    """Adapt the position of a resumed run to its settings, before its first step.

    If validation losses have another meaning now, the best weights are measured again, and patience and the advice on
    overfitting begin anew. Nothing changes if `stopped()` becomes true before that is done.
    """
    if run.policy or run.preferences:  # what is held out stays the same
        return
    before, now = ResolvedConfig(**point.header["resolved"]), run.config
    if before.dropout != now.dropout:
        position.guard.recent = []
    evaluator = evaluator_of(run)
    n_tokens_before = evaluator_of(dataclasses.replace(run, config=before)).n_tokens
    same = n_tokens_before == evaluator.n_tokens and before.precision == now.precision
    if same or position.guard.best_val_loss is None:
        return
    emit.activity("measuring the best weights again")
    best, loss = _best_weights(folder, run), math.nan
    if best:
        run.engine.load(best.tensors())
        try:
            measured = evaluator.measure(run.engine, stopped)
        finally:
            run.engine.load(point.tensors())
        if measured is None:
            return
        loss = measured.loss
    position.guard.best_val_loss = loss if math.isfinite(loss) else None
    position.guard.evaluations_without_better = 0
    position.watch.evaluations = []
    emit(
        Remeasured,
        eval_tokens=evaluator.n_tokens,
        best_val_loss=position.guard.best_val_loss,
        best_step=best.step if best else None,
    )


def _best_weights(folder: CheckpointFolder, run: Run) -> Archive | None:
    """The best weights of the run, if they are there and whole."""
    try:
        best = read_archive(folder.path / BEST[0])
        best.verify()
    except CheckpointError:
        return None
    if best.kind != "weights" or model_config(best.header["model"]) != run.model:
        return None
    return best if all(best.header.get(n) == run.header.get(n) for n in SAME_RUN) else None
