"""The model that a run with LoRA adapts flows in; `base.npz` in the folder of the run comes out, before its first step.

All checkpoints of the run hold adapters alone. With this file beside them the folder stays complete, even if the model
that the run began from moves or vanishes.
"""

import dataclasses
from pathlib import Path

from homespun.checkpoint.archive import Archive, read_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.names import BASE, LORA
from homespun.checkpoint.opening import open_base
from homespun.config import TrainConfig
from homespun.engine.base import Engine
from homespun.errors import UserError
from homespun.model_formats.checkpoint import lora_entry
from homespun.model_formats.formats import open_model
from homespun.model_formats.stored_model import header_of
from homespun.training.checkpointing.resume import ResumePoint, place_of
from homespun.training.run import Run


def check_settings(config: TrainConfig) -> None:
    """Refuse settings of LoRA that have no meaning together.

    Raises:
        UserError: there are some.
    """
    if config.lora_rank is None:
        for name in ("lora_alpha", "lora_targets"):
            if getattr(config, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(
                    f"{flag} is for adapters: give their size, too, such as --lora-rank 8"
                )
        return
    if config.init_from is None:
        raise UserError(
            "--lora-rank trains adapters of a model that exists: name it with --init-from, or leave --lora-rank out"
        )
    if config.optimizer == "muon":
        raise UserError(
            "--lora-rank trains adapters, which AdamW updates: leave --optimizer muon out"
        )


def keep_base(
    run: Run, point: ResumePoint | None, folder: CheckpointFolder, moved_to: Path | None
) -> Run:
    """Make sure that the folder holds the base of the run, from which its engine takes the weights.

    Args:
        run: the run. Without LoRA, nothing is done.
        point: the point from which it is resumed, if it is.
        folder: the folder of the run.
        moved_to: the place to which an earlier run in the folder has been moved just now, perhaps with the model that
            this run begins from.

    Returns:
        The run, whose files name the base.

    Raises:
        UserError: the base cannot be read or written.
    """
    if run.lora is None:
        return run
    if point and point.is_in(folder.path):
        entry = point.header[LORA]
    else:
        entry = lora_entry(run.lora, _written(run, point, folder, moved_to))
        load_base(run.engine, read_archive(folder.path / BASE))
    return dataclasses.replace(run, header=run.header | {LORA: entry})


def _written(
    run: Run, point: ResumePoint | None, folder: CheckpointFolder, moved_to: Path | None
) -> str:
    """Write the base into the folder; returns its hash."""
    if point:
        path = place_of(point.path, folder.path, moved_to)
        base = open_base(read_archive(path))
        assert base is not None  # checked with the header of the point
        return folder.save_base(base.step, base.tensors(), base.header)
    assert run.config.init_from is not None
    model = open_model(place_of(Path(run.config.init_from), folder.path, moved_to))
    return folder.save_base(model.step, model.tensors(), header_of(model))


def load_base(engine: Engine, base: Archive) -> None:
    """Load the weights that adapters belong to into an engine.

    Raises:
        UserError: they are damaged or of another model.
    """
    try:
        engine.load_base(base.tensors())
    except ValueError as error:
        raise UserError(f"{base.path} does not fit this model: {error}") from error
