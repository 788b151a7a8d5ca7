"""The studio's folder flows in, the runs and tunes below it come out; names of the page become paths below it."""

import os
from dataclasses import dataclass
from pathlib import Path

from homespun.checkpoint.names import LATER, METRICS
from homespun.errors import UserError
from homespun.server.limits import Limits
from homespun.tuning.reading import is_tune

OWN = ".homespun-studio"
"""The folder in the studio's folder that keeps what it has started."""
LEFT_OUT = {"node_modules", "__pycache__", "site-packages"}


@dataclass(frozen=True)
class Found:
    """The result of a search. Names are relative to the folder of the studio."""

    runs: tuple[str, ...]
    """Those that changed last come first."""
    tunes: tuple[str, ...]
    more: int
    """Runs beyond the limit."""
    is_whole: bool
    """Every folder was searched."""


def search(root: Path, limits: Limits) -> Found:
    """Find the folders of runs and tunes. Links are not followed."""
    runs: list[tuple[float, str]] = []
    tunes: list[str] = []
    waiting, searched, is_whole = [(root, 0)], 0, True
    while waiting:
        folder, depth = waiting.pop()
        searched += 1
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            try:
                if entry.name == METRICS and entry.is_file(follow_symlinks=False):
                    runs.append((entry.stat(follow_symlinks=False).st_mtime, _name(root, folder)))
                elif _is_searched(entry):
                    if depth < limits.depth and searched + len(waiting) < limits.searched:
                        waiting.append((Path(entry.path), depth + 1))
                    else:
                        is_whole = False
            except OSError:
                continue
        if folder != root and is_tune(folder):
            tunes.append(_name(root, folder))
    runs.sort(reverse=True)
    shown = tuple(name for _, name in runs[: limits.shown_runs])
    return Found(shown, tuple(sorted(tunes)), max(0, len(runs) - limits.shown_runs), is_whole)


def _is_searched(entry: "os.DirEntry[str]") -> bool:
    name = entry.name
    if name.startswith((".", f"{LATER}.")) or name in LEFT_OUT or not name.isprintable():
        return False
    return entry.is_dir(follow_symlinks=False)


def _name(root: Path, folder: Path) -> str:
    return folder.relative_to(root).as_posix()


def place(root: Path, name: str) -> Path:
    """The path that a name stands for, which need not exist.

    Raises:
        UserError: it does not lie below the folder of the studio, or a link on the way leads out of it.
    """
    path = Path(name)
    if ".." in path.parts:
        raise UserError(f"{name} leads out of the folder of the studio: name a place below it")
    if "\0" in name:
        raise UserError("a name cannot hold a NUL character")
    whole = root / path
    try:
        real = whole.resolve()
    except (OSError, RuntimeError) as error:
        raise UserError(f"{name} cannot be used ({error})") from None
    if not real.is_relative_to(root):
        raise UserError(
            f"{name} is not below {root}, the folder of the studio: move it there, or use the command line"
        )
    if OWN in real.relative_to(root).parts:
        raise UserError(f"{name} is the studio's own: choose another folder")
    return whole


def run_place(root: Path, name: object) -> Path:
    """The folder of a run that the page names.

    Raises:
        UserError: it is no run.
    """
    if not isinstance(name, str) or not name:
        raise UserError("no run is named")
    folder = place(root, name)
    record = folder / METRICS
    if record.is_symlink() or not record.is_file():
        raise UserError(f"{name} is no run: it has no {METRICS}")
    return folder
