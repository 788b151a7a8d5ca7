"""Settings and text flow in; a folder with a trained model, its checkpoints and its metrics comes out."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from homespun import workspace
from homespun.checkpoint.folder import CheckpointFolder, FolderLock
from homespun.checkpoint.names import BEST, METRICS, PLOT
from homespun.checkpoint.writer import CheckpointWriter
from homespun.config import TrainConfig
from homespun.config.checked import seconds
from homespun.engine.base import OutOfMemory
from homespun.model_formats.stored_model import StoredModel
from homespun.planning.memory import out_of_memory
from homespun.planning.resolved import given_settings, lora_of
from homespun.records import tracking
from homespun.records.console import Console
from homespun.records.events import Ended, Listener, Started, TrainResult
from homespun.records.metrics import MetricsLog
from homespun.records.plot import plot_run
from homespun.terminal import Say, bar
from homespun.training.checkpointing.position import NEVER, Position
from homespun.training.checkpointing.resume import (
    ResumePoint,
    find_point,
    given_config,
    with_file,
    with_stored,
)
from homespun.training.checkpointing.saver import Saver
from homespun.training.checkpointing.yardstick import renew
from homespun.training.fine_tuning.initial_model import initial_model
from homespun.training.fine_tuning.lora_base import check_settings, keep_base
from homespun.training.fine_tuning.replay import check_replay
from homespun.training.interrupts import Interrupts
from homespun.training.loop import Loop
from homespun.training.output.emitter import Emitter
from homespun.training.output.ending import headline, what_now
from homespun.training.preferences.preparation import check_preferences
from homespun.training.preferences.preparation import with_reference as with_preference_reference
from homespun.training.reinforcement.policy import check_reward, with_reference
from homespun.training.reinforcement.rewards import Reward
from homespun.training.run import Run, bytes_on_disk, keeps_base
from homespun.training.schedule import unreached_peak
from homespun.training.stages import set_up
from homespun.training.text_stage import smallest_model
from homespun.training.timing.clock import Clock
from homespun.training.timing.running_time import RunningTime

TRACKING = "tracking"
"""The entry of a header with the ids of the run in its trackers."""
LEAST_KEPT = 2
"""Checkpoints that stay, even with --keep 1. Only a later step shows that the weights of the newest are usable."""


def train(
    given: Mapping[str, Any],
    say: Say,
    interrupts: Interrupts,
    on_event: Listener | None = None,
    config: TrainConfig | None = None,
    reward: Reward | None = None,
) -> TrainResult:
    """Set a run up and run it.

    The folder of the run is locked from here to the end, before anything is read from it.

    Args:
        given: settings by name, such as the flags of the command line. A setting is taken from here, else from the TOML
            file that is named here, else from the resumed run, else from the defaults.
        interrupts: handles the signals already, since the preparations may take long.
        on_event: gets each event after the records and the console. When it raises `StopRun`, the run saves and ends.
        config: all settings, from Python. Then only `given` overrides them, and the settings of a resumed run do not.
        reward: the function that the setting `reward` names, from Python.

    Raises:
        UserError: something that the user can fix; earlier checkpoints are still there.
        BaseException: an error of `on_event`, after the run has been saved.
    """
    workspace.check()
    wanted = given_config(given, config)
    with CheckpointFolder(Path(wanted.checkpoint_dir)).lock() as lock:
        with bar("Looking for a checkpoint", None):
            point = find_point(wanted, say)
        if point and config is None:
            wanted = with_stored(wanted, given, point)
        asked = frozenset(with_file(given))
        return _train(wanted, asked, point, lock, say, interrupts, on_event, reward)


def _train(
    config: TrainConfig,
    asked: Collection[str],
    point: ResumePoint | None,
    lock: FolderLock,
    say: Say,
    interrupts: Interrupts,
    on_event: Listener | None,
    reward: Reward | None,
) -> TrainResult:
    """`train`, from the resumed point on, or from the start. `asked` has the names of the settings that were given."""
    folder = dataclasses.replace(lock.folder, keep=max(config.keep, LEAST_KEPT))
    trackers = tracking.named(config.track)
    initial = _checked(config, point, folder, say)
    run = set_up(config, point, say, initial, reward, asked)
    own = point if point and point.is_in(folder.path) else None
    room = bytes_on_disk(
        run.model,
        folder.keep,
        run.lora,
        with_base=keeps_base(run.config) and not own,
        low_memory=run.config.memory == "low",
        averaging=run.config.averaging > 0,
    )
    if own:
        room -= folder.bytes_to_replace(own.weights.step, with_step=own.state is not None)
    folder.check_space(room)
    folder = dataclasses.replace(folder, narrow=run.engine.narrow)
    position, moved_to = _begin(point, lock, say)
    run = _with_initial(run, point, folder, moved_to)
    if initial:
        position.evaluated_at = NEVER
    continues = own is not None and own.state is not None
    with (
        MetricsLog(folder.path / METRICS) as metrics,
        _tracking(trackers, run, point, folder.path) as tracked,
        Console(when_lost=interrupts.output_lost) as console,
        RunningTime() as now,
    ):
        interrupts.show = console.announce
        if tracked.ids:
            run = dataclasses.replace(run, header=run.header | {TRACKING: tracked.ids})
        budget = run.config.time_budget
        clock = Clock(position, run.total_steps, seconds(budget) if budget else None, now)
        # The record comes first: the console and the user see nothing that is not in the file.
        emit = Emitter(position, clock, [metrics, console, tracked], on_event)
        metrics.report = tracked.report = emit.message
        for line in tracked.lines:
            emit.message(line)
        if own:
            metrics.truncate(own.metrics_length(metrics.path), own.metrics_sha256)
        with CheckpointWriter(
            folder,
            run.weights_bytes,
            parts=3 + (run.config.averaging > 0),
            in_background=run.has_room_for_copies(),
            report=emit.message,
            now=now,
        ) as writer:
            saver = Saver(run, position, writer, metrics)
            loop = Loop(run, position, clock, saver, emit, interrupts)
            if point and not continues:
                saver.save(clock.elapsed())  # from here on, the folder has a checkpoint of its own
            result = _run_loop(loop, point, folder)
    if emit.error:
        raise emit.error
    return result


def _checked(
    config: TrainConfig, point: ResumePoint | None, folder: CheckpointFolder, say: Say
) -> StoredModel | None:
    """Check all that can be checked before any work, and open the model that a new run goes on from, if there is one.

    Raises:
        UserError: settings contradict each other, that model cannot be read, or the disk has no room.
    """
    check_preferences(config)
    check_reward(config, point)
    check_replay(config)
    if point:
        return None
    check_settings(config)
    initial = initial_model(config, say)
    folder.check_space(
        bytes_on_disk(
            initial.config if initial else smallest_model(config),
            folder.keep,
            lora_of(config),
            with_base=keeps_base(config),
            low_memory=config.memory == "low",
        )
    )
    return initial


def _with_initial(
    run: Run, point: ResumePoint | None, folder: CheckpointFolder, moved_to: Path | None
) -> Run:
    """Keep the initial model, or its figures, where adapters, a reward or preferences need them until the end."""
    if keeps_base(run.config):
        with bar("Keeping the initial model", None):
            run = keep_base(run, point, folder, moved_to)
            if run.policy:
                policy, header = with_reference(
                    run.policy, run.plan, run.header, run.tokenizer.eot_id, point, folder, moved_to
                )
                run = dataclasses.replace(run, policy=policy, header=header)
    if run.preferences:
        preferences, entry = with_preference_reference(
            run.preferences, run.engine, run.config.batch_size, point, folder, moved_to
        )
        run = dataclasses.replace(run, preferences=preferences, header=run.header | entry)
    return run


def _tracking(
    trackers: Mapping[str, type[tracking.Tracker]],
    run: Run,
    point: ResumePoint | None,
    folder: Path,
) -> tracking.Tracking:
    """Open the trackers of a run, before its records are cut to the point."""
    settings = given_settings(run.config) | {
        "shape": dataclasses.asdict(run.model),
        "text": {name: run.header[name] for name in ("data_file", "data_sha256")}
        | {"tokens": len(run.tokens.training), "validation_tokens": len(run.tokens.validation)},
        "machine": run.engine.facts,
    }
    if point is None or not point.is_in(folder):
        return tracking.Tracking(trackers, folder, settings)
    known, record = point.header.get(TRACKING), folder / METRICS
    return tracking.Tracking(
        trackers,
        folder,
        settings,
        known=known if isinstance(known, dict) else None,
        record=record,
        kept=point.metrics_length(record),
        goes_back=point.is_named,
    )


def _begin(point: ResumePoint | None, lock: FolderLock, say: Say) -> tuple[Position, Path | None]:
    """Make the folder that of the run at its first position.

    The folder may hold another run, or later steps of this one. Both are moved aside.

    Returns:
        The position, and the new place of another run.
    """
    folder, earlier = lock.folder.path, None
    if point is None or not point.is_in(folder):
        if earlier := lock.set_aside():
            say(f"The earlier run in {folder} is now in {earlier}.")
    elif point.is_named:
        length = point.metrics_length(folder / METRICS)
        if later := lock.go_back(point.weights.step, length, with_step=point.state is None):
            say(
                f"Going back to step {point.weights.step:,}: the later checkpoints, and a copy of all records, "
                f"are now in {later}."
            )
    position = point.position() if point else Position()
    guard = position.guard
    if guard.best_val_loss is not None and not any((folder / name).exists() for name in BEST):
        say(f"{folder} has no {BEST[0]}: the next evaluation begins a new one.")
        guard.best_val_loss, guard.evaluations_without_better = None, 0
    return position, earlier


def _run_loop(loop: Loop, point: ResumePoint | None, folder: CheckpointFolder) -> TrainResult:
    """Run the loop between the first and the last event."""
    run, position, emit = loop.run, loop.position, loop.emit
    config = run.config
    emit.activity("compiling, up to a minute" if config.compile == "on" else "first step")
    complete = loop.due.is_complete()
    if not complete:
        emit(
            Started,
            title=f"Resuming at step {position.step:,}" if point else "Training",
            facts=run.description(),
            total_steps=run.total_steps,
            best_val_loss=position.guard.best_val_loss,
            run=run.data(),
        )
        if line := unreached_peak(config, run.total_steps):
            emit.message(line)
        if point:
            renew(run, position, point, folder, emit, loop.stopped)
    loop.interrupts.steps_begun = True
    try:
        ended_by = loop.train()
    except OutOfMemory as error:
        saved = bool(loop.saver.saved_at)
        raise out_of_memory(run.plan, saved=saved) from error
    if ended_by == "time_budget" and (line := unreached_peak(config, position.step)):
        emit.message(line)
    result = TrainResult(
        checkpoint_dir=folder.path,
        best=folder.path / BEST[0],
        steps=position.step,
        ended_by=ended_by,
        val_loss=loop.val_loss,
        best_val_loss=None if run.policy else position.guard.best_val_loss,
        best_reward=loop.best_reward,
        stopped_by=loop.interrupts.stopped_by,
        saved_step=loop.saver.newest,
    )
    if result.steps:
        _draw_curves(run, folder.path, emit)
    emit(
        Ended,
        result=result,
        title=headline(result, config, complete),
        facts=what_now(result, config, loop.due.is_complete(), answers=run.chat is not None),
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
