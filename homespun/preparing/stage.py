"""The settings of a text flow in; one task of one stage of the work is done, wherever datatrove starts it."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from homespun.config import PrepareConfig
from homespun.data.prepare import cannot_write_tokens
from homespun.engine import hardware
from homespun.preparing.several_machines import SharedWork
from homespun.terminal import say


@dataclass(frozen=True)
class Stage:
    """One stage of the work, as a step of datatrove's pipelines."""

    name: str
    config: PrepareConfig
    n_parts: int
    folder: str
    """The working folder, in which the settings name their files."""

    def __call__(self, documents: object, rank: int, world_size: int) -> None:
        """Do the work of one task."""
        hardware.limit_workers(None)  # to the processors of this machine
        with contextlib.chdir(self.folder):
            work = SharedWork(self.config, self.n_parts, say)
            stages: dict[str, Callable[[], None]] = {
                "read": lambda: work.read_files(rank),
                "plan": work.make_plan,
                "tokenize": lambda: work.tokenize(rank),
                "complete": work.complete,
            }
            try:
                stages[self.name]()
            except OSError as error:
                raise cannot_write_tokens(error, Path(self.config.tokens_dir)) from None
