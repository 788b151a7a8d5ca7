"""The state of a run in, its files out while it goes on: weights and moments are copied between two steps, and a thread
writes the copy, one file after the other, in the order in which they were asked for.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from homespun.checkpoint.archive import Named
from homespun.checkpoint.folder import CheckpointFolder, Report
from homespun.errors import DiskFullError, UserError

Work = Callable[[], object]

COPY_SIZE = 4
"""What copies take at most, in times the weights: weights, two moments, and best weights that found no room."""


class CheckpointWriter:
    """Writes into the folder of a run: in the background, or at once where memory has no room for a copy.

    Never more than one save is under way; the next one waits for it. A full disk may pass, and does not end a run that
    saves in the background: it is reported, the checkpoints that are there stay, and the next save tries again. What
    else fails is raised by the next call, whichever that is. After the `with` block nothing is under way.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        weights_bytes: int,
        *,
        in_background: bool,
        report: Report,
    ) -> None:
        self.folder = folder
        self.seconds_to_save = 0.0
        """What the last checkpoint took, from the first byte to the last look at it."""
        self.saved: tuple[int, Path] | None = None
        """Step and file of the newest checkpoint that is complete on the disk."""
        self._weights_bytes = weights_bytes
        self._report = report
        self._pool = ThreadPoolExecutor(1, "checkpoints") if in_background else None
        self._under_way: Future[object] | None = None
        self._best: Work | None = None
        """What is still to be done to have the best weights on the disk."""
        self._not_saved: DiskFullError | None = None

    def save(
        self,
        step: int,
        weights: Iterable[Named],
        state: Iterable[Named],
        header: dict[str, Any],
        state_header: dict[str, Any],
    ) -> None:
        """Begin to save a step, which is done when `wait` returns. Raises as `CheckpointFolder.save`."""
        self.wait()
        parts = step, self._kept(weights), self._kept(state), header, state_header
        self._begin(partial(self._save, step, partial(self.folder.save, *parts)))

    def save_best(self, step: int, weights: Iterable[Named], header: dict[str, Any]) -> None:
        """The same with the best weights so far. Raises as `CheckpointFolder.save_best`."""
        self.wait()
        self._best = partial(self.folder.save_best, step, self._kept(weights), header)
        self._begin(self._save_best)

    def check(self) -> None:
        """Raise what has failed in the background, without waiting for what has not."""
        if self._under_way and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Return when nothing is under way; raise what has failed."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return
        try:
            under_way.result()
            self._not_saved = None
        except DiskFullError as error:
            self.no_room(error)

    def no_room(self, error: DiskFullError) -> None:
        """Go on without this save.

        Raises:
            DiskFullError: nothing is copied, so the best weights would be gone at the next save.
        """
        if self._pool is None:
            raise error
        self._not_saved = error
        self._report(f"Not saved: {error}. The run goes on, and the next save tries again.")

    def finish(self) -> None:
        """Wait for the last save of a run.

        Raises:
            DiskFullError: there was no room for it.
        """
        self.wait()
        if self._not_saved:
            raise self._not_saved

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.wait()
        except UserError as failure:
            if error is None:
                raise
            self._report(str(failure))  # what ends the run is the other one
        finally:
            if self._pool:
                self._pool.shutdown()

    def _kept(self, tensors: Iterable[Named]) -> Iterable[Named]:
        return list(tensors) if self._pool else tensors

    def _begin(self, work: Work) -> None:
        if self._pool:
            self._under_way = self._pool.submit(work)
        else:
            work()

    def _save(self, step: int, save: Callable[[], Path]) -> None:
        began = time.perf_counter()
        if self._best:
            self._save_best()
        self.folder.check_space(3 * self._weights_bytes, f"step {step:,} needs")
        path = save()
        self.seconds_to_save = time.perf_counter() - began
        self.saved = step, path

    def _save_best(self) -> None:
        self.folder.check_space(self._weights_bytes, "the best weights need")
        assert self._best is not None
        self._best()
        self._best = None
