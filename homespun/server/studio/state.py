"""What the pages of one studio share: the folder that it was started in, and the models that are loaded."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class State:
    """One studio."""

    folder: Path
    """Absolute, without links. Everything that the page reads and starts lies below it."""
