"""What the pages of one studio share: the folder that it was started in, its limits, and the models that are loaded."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from homespun.server.limits import Limits
from homespun.server.studio.models import Models

Item = TypeVar("Item")


class State:
    """One studio."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder = folder.resolve()
        """Everything that the page reads and starts lies below it."""
        self.limits = limits or Limits()
        self.models = Models(self.folder)
        self.computing = threading.Lock()
        """Held for each piece of work with a model: the pieces of several requests take turns."""

    def in_turns(self, source: Iterator[Item]) -> Iterator[Item]:
        """The items of `source`, whose work for each waits its turn. Closing this closes `source`."""
        try:
            while True:
                with self.computing:
                    try:
                        item = next(source)
                    except StopIteration:
                        return
                yield item
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
