"""Mistakes in the way in which a run writes its files and chooses which to keep."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def _replacing(
    path: Path, *, in_place: bool = False, early: bool = False, tidy: bool = True
) -> Iterator[BinaryIO]:
    """`durable.replacing` with a mistake."""
    from homespun import durable

    temporary = path if in_place else durable.temporary_name(path)
    try:
        with temporary.open("wb") as file:
            if early:
                temporary.replace(path)
            yield file
            durable.sync(file)
        if not early:
            temporary.replace(path)
    except BaseException:
        if tidy:
            temporary.unlink(missing_ok=True)
        raise
    durable.sync_folder(path.parent)


def replacing_with(**mistake: bool) -> Callable[[str], None]:
    def change(_: str) -> None:
        from homespun import durable

        durable.replacing = functools.partial(_replacing, **mistake)

    return change


def no_fsync_of_files(_: str) -> None:
    from homespun import durable

    durable.sync = lambda file: file.flush()


def no_fsync_of_folders(_: str) -> None:
    from homespun import durable

    durable.sync_folder = lambda folder: None


def old_checkpoint_dropped_first(_: str) -> None:
    from homespun.checkpoint.folder import CheckpointFolder

    save = CheckpointFolder.save

    def dropping(folder: CheckpointFolder, *arguments: Any) -> Any:
        for path in folder.path.glob("checkpoint_step_*"):
            path.unlink()
        return save(folder, *arguments)

    CheckpointFolder.save = dropping  # type: ignore[method-assign]


def committed_before_the_weights(_: str) -> None:
    """The state is renamed before the weights, although its name commits the checkpoint."""
    from homespun.checkpoint import folder

    write, late = folder.write_archive, []

    def write_archive(path: Path, *arguments: Any, **named: Any) -> str:
        if named.get("kind") != "state" and path.name.startswith("checkpoint"):
            late.append(path)
            return write(path.with_name("late"), *arguments, **named)
        sha256 = write(path, *arguments, **named)
        for path in late:
            path.with_name("late").replace(path)
        return sha256

    folder.write_archive = write_archive


def failed_saves_are_silent(_: str) -> None:
    from homespun.checkpoint.folder import CheckpointFolder
    from homespun.checkpoint.writer import CheckpointWriter
    from homespun.errors import UserError

    save = CheckpointFolder.save

    def silent(*arguments: Any) -> Any:
        with contextlib.suppress(UserError):
            return save(*arguments)

    CheckpointFolder.save = silent  # type: ignore[method-assign]
    CheckpointWriter.no_room = lambda writer, error: None  # type: ignore[method-assign]


def refused_steps_saved(_: str) -> None:
    from homespun.training.loop import Loop

    Loop.refusal = lambda loop: None  # type: ignore[method-assign]


def newest_checkpoint_alone_kept(_: str) -> None:
    from homespun.training import train

    train.LEAST_KEPT = 1


def new_folders_not_flushed(_: str) -> None:
    from homespun import durable

    def make_folder(path: Path, mode: int = 0o777) -> list[Path]:
        path.mkdir(mode, parents=True, exist_ok=True)
        return []

    durable.make_folder = make_folder
