"""The folder of a run and a header of its files flow in; the place from which that names other files comes out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def started_in(folder: Path, header: Mapping[str, Any]) -> Path:
    """The folder in which the command of a run was given. Relative paths in the header begin there.

    A run may have moved together with its text, and may be read from anywhere, so the place is found from that of the
    run. Where the header does not tell how far the two are apart, it is the folder around the run.
    """
    requested = header.get("requested")
    named = requested.get("checkpoint_dir") if isinstance(requested, dict) else None
    depth = 1
    if isinstance(named, str):
        path = Path(named)
        if not path.is_absolute() and ".." not in path.parts:
            depth = len(path.parts)
    place = folder
    for _ in range(depth):
        place = (place.resolve() if place.name in ("", "..") else place).parent
    return place
