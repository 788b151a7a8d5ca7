"""The state of a run flows in, files flow out while the run continues.

Weights and moments are copied between two steps. A thread then writes the copies, one file after another and in order.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from homespun.checkpoint.folder import CheckpointFolder
from homespun.errors import DiskFullError, UserError
from homespun.named_array import NamedArray
from homespun.terminal import Say

Work = Callable[[], object]

COPY_SIZE = 4
"""Largest size of the copies, as a multiple of the weights: weights, two moments, and best weights still unsaved.
There is one more where a run averages its weights."""


class CheckpointWriter:
    """Writes into the folder of a run: in the background, or at once if memory has no room for copies.

    At most one save runs at a time; the next one waits for it. A full disk may be temporary, so it does not end a run
    that saves in the background: it is reported, earlier checkpoints stay, and the next save tries again. Every other
    failure is raised by the next call. After the `with` block all saves have ended.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        weights_bytes: int,
        *,
        parts: int = 3,
        in_background: bool,
        report: Say,
        now: Callable[[], float] | None = None,
    ) -> None:
        """
        Args:
            folder: of the run.
            weights_bytes: those of the weights.
            parts: the size of a checkpoint at most, as a multiple of the weights.
            in_background: whether memory has room for copies.
            report: takes lines about saves that failed.
            now: gives seconds, counted from any moment; None: those of the system's clock.
        """
        self._now = now or time.perf_counter
        self.folder = folder
        self.seconds_to_save = 0.0
        """Time to write and verify the last checkpoint."""
        self.saved: tuple[int, Path] | None = None
        """Step and file of the newest checkpoint that is complete on the disk."""
        self._weights_bytes = weights_bytes
        self._parts = parts
        self._report = report
        self._pool = ThreadPoolExecutor(1, "checkpoints") if in_background else None
        self.under_way: Future[object] | None = None
        self._best: Work | None = None
        """Saves the best weights; None if they are on the disk."""
        self._not_saved: DiskFullError | None = None

    def save(
        self,
        step: int,
        weights: Iterable[NamedArray],
        state: Iterable[NamedArray],
        header: dict[str, Any],
        state_header: dict[str, Any],
    ) -> None:
        """Start saving a step; `wait` returns when it is saved. Raises the exceptions of `CheckpointFolder.save`."""
        self.wait()
        parts = step, self._copied(weights), self._copied(state), header, state_header
        self._begin(partial(self._save, step, partial(self.folder.save, *parts)))

    def save_best(self, step: int, weights: Iterable[NamedArray], header: dict[str, Any]) -> None:
        """Start saving the best weights so far. Raises the exceptions of `CheckpointFolder.save_best`."""
        self.wait()
        self._best = partial(self.folder.save_best, step, self._copied(weights), header)
        self._begin(self._save_best)

    def check(self) -> None:
        """Raise the exception of a save that has failed, without waiting for one that is running."""
        if self.under_way and self.under_way.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the running save, and raise its exception if it fails."""
        running, self.under_way = self.under_way, None
        if running is None:
            return
        try:
            running.result()
            self._not_saved = None
        except DiskFullError as error:
            self.no_room(error)

    def no_room(self, error: DiskFullError) -> None:
        """Continue without this save, and report it.

        Raises:
            DiskFullError: saves are not in the background, so no copy of the best weights is left for another try.
        """
        if self._pool is None:
            raise error
        self._not_saved = error
        self._report(f"Not saved: {error}. The run continues, and the next save tries again.")

    def finish(self) -> None:
        """Wait for the last save of a run.

        Raises:
            DiskFullError: the disk is full.
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
            self._report(str(failure))  # `error` ends the run
        finally:
            if self._pool:
                self._pool.shutdown()

    def _copied(self, tensors: Iterable[NamedArray]) -> Iterable[NamedArray]:
        return list(tensors) if self._pool else tensors

    def _begin(self, work: Work) -> None:
        if self._pool:
            self.under_way = self._pool.submit(work)
        else:
            work()

    def _save(self, step: int, save: Callable[[], Path]) -> None:
        began = self._now()
        if self._best:
            self._save_best()
        self.folder.check_space(self._parts * self._weights_bytes, f"step {step:,} needs")
        path = save()
        self.seconds_to_save = self._now() - began
        self.saved = step, path

    def _save_best(self) -> None:
        self.folder.check_space(self._weights_bytes, "the best weights need")
        assert self._best is not None
        self._best()
        self._best = None
