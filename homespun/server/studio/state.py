"""The state that the pages of a studio share: the folder in which it was started, its limits, the loaded models, and
the processes that it has started."""

from pathlib import Path

from homespun.server.limits import Limits
from homespun.server.studio.models import Models
from homespun.server.studio.processes import Processes


class State:
    """One studio."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder = folder.resolve()
        """Everything that the page reads and starts lies below it."""
        self.limits = limits or Limits()
        self.models = Models(self.folder, self.limits)
        self.processes = Processes(self.folder, self.limits)
