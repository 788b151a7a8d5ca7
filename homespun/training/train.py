"""Settings and text flow in; a folder with a trained model, its checkpoints and its metrics comes out."""

from pathlib import Path

from homespun.checkpoint.folder import BEST, METRICS, Checkpoint, CheckpointFolder
from homespun.checkpoint.writer import CheckpointWriter
from homespun.config import TrainConfig
from homespun.config.checked import seconds
from homespun.engine.base import OutOfMemory
from homespun.planning.memory import out_of_memory
from homespun.planning.recipe import Plan
from homespun.records.console import Console
from homespun.records.events import Ended, Listener, Started, TrainResult
from homespun.records.metrics import MetricsLog
from homespun.records.plot import plot_run
from homespun.terminal import Say
from homespun.training.clock import Clock
from homespun.training.emitter import Emitter
from homespun.training.ending import PLOT, headline, what_now
from homespun.training.interrupts import Interrupts
from homespun.training.loop import Loop
from homespun.training.position import Position
from homespun.training.run import Run, bytes_on_disk
from homespun.training.running_time import RunningTime
from homespun.training.saver import Saver
from homespun.training.schedule import unreached_peak
from homespun.training.stages import set_up, smallest_model
from homespun.training.yardstick import renew


def train(
    config: TrainConfig,
    checkpoint: Checkpoint | None,
    say: Say,
    interrupts: Interrupts,
    on_event: Listener | None = None,
) -> TrainResult:
    """Set a run up and run it.

    Args:
        checkpoint: where a resumed run continues, see `resume.requested`.
        interrupts: handles the signals already, since the preparations may take long.
        on_event: gets each event after the records and the console. When it raises `StopRun`, the run saves and ends.

    Raises:
        UserError: something that the user can fix; earlier checkpoints are still there.
        Exception: an error of `on_event`, after the run has been saved.
    """
    folder = CheckpointFolder(Path(config.checkpoint_dir), config.keep)
    folder.check_free()  # fails now, not after an hour of tokenizing
    if checkpoint is None:
        folder.check_space(bytes_on_disk(smallest_model(config), config.keep))
    run = set_up(config, checkpoint, say)
    folder.check_space(bytes_on_disk(run.model, run.config.keep))
    if checkpoint is None and (earlier := folder.set_aside()):
        say(f"The earlier run in {folder.path} is now in {earlier}.")
    stored = checkpoint.state.header if checkpoint else None
    position = Position.restored(stored["position"]) if stored else Position()
    with (
        folder.lock(),
        MetricsLog(folder.path / METRICS) as metrics,
        Console(when_lost=interrupts.output_lost) as console,
        RunningTime() as now,
    ):
        budget = run.config.time_budget
        clock = Clock(position, run.total_steps, seconds(budget) if budget else None, now)
        # The record comes first: the console and the user see nothing that is not in the file.
        emit = Emitter(position, clock, [metrics, console], on_event)
        metrics.report = emit.message
        if stored:
            metrics.truncate(stored["metrics_length"], stored.get("metrics_sha256"))
        with CheckpointWriter(
            folder,
            run.weights_bytes,
            in_background=run.has_room_for_copies(),
            report=emit.message,
            now=now,
        ) as writer:
            saver = Saver(run, position, writer, metrics)
            loop = Loop(run, position, clock, saver, emit, interrupts)
            result = _run_loop(loop, checkpoint, folder)
    if emit.error:
        raise emit.error
    return result


def _run_loop(loop: Loop, checkpoint: Checkpoint | None, folder: CheckpointFolder) -> TrainResult:
    """Run the loop between the first and the last event."""
    run, position, emit = loop.run, loop.position, loop.emit
    config = run.config
    emit.activity("compiling, up to a minute" if config.compile == "on" else "first step")
    complete = loop.due.is_complete()
    if not complete:
        emit(
            Started,
            title=f"Resuming at step {position.step:,}" if checkpoint else "Training",
            facts=run.description(),
            total_steps=run.total_steps,
            best_val_loss=position.guard.best_val_loss,
        )
        if line := unreached_peak(config, run.total_steps):
            emit.message(line)
        if checkpoint:
            renew(run, position, checkpoint, folder, emit, loop.stopped)
    loop.interrupts.steps_begun = True
    try:
        ended_by = loop.train()
    except OutOfMemory as error:
        saved = bool(loop.saver.saved_at)
        raise out_of_memory(Plan(run.model, config), saved=saved) from error
    if ended_by == "time_budget" and (line := unreached_peak(config, position.step)):
        emit.message(line)
    result = TrainResult(
        checkpoint_dir=folder.path,
        best=folder.path / BEST[0],
        steps=position.step,
        ended_by=ended_by,
        val_loss=loop.val_loss,
        best_val_loss=position.guard.best_val_loss,
        stopped_by=loop.interrupts.stopped_by,
    )
    if result.steps:
        _draw_curves(run, folder.path, emit)
    emit(
        Ended,
        result=result,
        title=headline(result, config, complete),
        facts=what_now(result, config),
    )
    return result


def _draw_curves(run: Run, folder: Path, emit: Emitter) -> None:
    """Make a picture of the records."""
    emit.activity("drawing the curves")
    picture = folder / PLOT
    try:
        if (folder / METRICS).stat().st_size:  # otherwise an earlier picture shows more
            plot_run(folder / METRICS, picture, run.config.max_grad_norm, emit.message)
    except Exception as error:  # the run is saved, and no picture is worth an error
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        emit.message(f"{picture} cannot be written ({reason}). Nothing else of the run is missing.")
