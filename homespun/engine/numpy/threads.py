"""The number of threads that multiply matrices in NumPy: one, or several while these are faster.

The processor count and the time of each decoding step flow in; the limit of the BLAS library follows from them.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from threadpoolctl import ThreadpoolController

from homespun.engine.hardware import usable_cpus

MAX_THREADS = 4
"""Largest number of threads that is chosen automatically. A few threads already read memory at full speed, which limits
generation."""
SINGLE_THREAD_STEPS = 3
"""Steps that are timed with one thread before several are tried."""
MAX_TIME_RATIO = 0.9
"""Several threads stay only while a step takes less than this share of its time with one thread."""
BACKOFF_FACTOR = 10
"""After a slow trial of several threads, one thread is used for the time lost in consecutive trials, times this."""
MIN_BACKOFF = 0.2
"""Seconds for which one thread is used at least after a slow trial."""


class Library(Protocol):
    """A library of products, such as BLAS."""

    def get_num_threads(self) -> int: ...

    def set_num_threads(self, n: int) -> None: ...


class ProductThreads:
    """Sets the threads of NumPy's BLAS library and of `products.py` while an engine computes; other work of the process
    keeps its number.

    Two threads generate a text in about 0.6 of the time of one. But threads of OpenBLAS wait for each other without
    sleeping. When another program needs a processor, each product waits until the system gives it back, and two threads
    have generated at a twelfth of the speed of one (benchmarks/generation.py). So the steps are timed, and several
    threads compute only while they are faster.

    Each thread computes some rows of a product, so the number of threads does not change the result, except for the
    last digit of rows at the end of a matrix with an odd number of rows.
    """

    _single_seconds: float
    """The shortest step with the default number of threads."""
    _n_single_steps: int
    _lost: float
    """Seconds lost in the present trial of several threads."""

    def __init__(
        self,
        wanted: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
        own: Library | None = None,
    ) -> None:
        """
        Args:
            wanted: the number of threads; None: the fastest number, up to `MAX_THREADS`.
            clock: the time in seconds.
            own: a library that this package has compiled.
        """
        blas = ThreadpoolController().select(user_api="blas").lib_controllers
        self._libraries: list[Library] = [*blas, *([own] if own is not None else [])]
        # The library of a Mac cannot be controlled: it chooses its number of threads itself.
        possible = min(usable_cpus(), MAX_THREADS) if self._libraries else 1
        self._default, self._several = wanted or 1, wanted or possible
        self._clock = clock
        self._trial_start = -math.inf  # start of the present or the next trial
        self._lost_in_a_row = 0.0  # seconds lost by trials in close succession
        self._batch_size = 0
        self._forget_times()

    def default(self) -> AbstractContextManager[None]:
        """Set the threads for work that does not generate text."""
        return self._limited(self._default)

    def prefill(self) -> AbstractContextManager[None]:
        """Set the threads while a prompt is read. Its time is not measured, since prompts differ in length."""
        return self._limited(self._several if self._try_several(self._clock()) else self._default)

    def begin(self, batch_size: int) -> None:
        """Prepare for the steps of a text, and forget the times of steps with another batch size."""
        if batch_size != self._batch_size:
            self._batch_size = batch_size
            self._forget_times()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Set the threads for one decoding step, and measure its time. All steps of a text take about the same time."""
        start = self._clock()
        if not self._try_several(start):
            with self._limited(self._default):
                yield
            self._single_seconds = min(self._single_seconds, self._clock() - start)
            self._n_single_steps += 1
            self._trial_start = max(self._trial_start, self._clock())
            return
        with self._limited(self._several):
            yield
        end = self._clock()
        self._lost = max(0.0, self._lost + end - start - MAX_TIME_RATIO * self._single_seconds)
        if self._lost > 2 * self._single_seconds:
            if end - self._trial_start > BACKOFF_FACTOR * self._lost:  # the trial was long
                self._lost_in_a_row = 0.0
            self._lost_in_a_row += self._lost
            self._trial_start = end + max(MIN_BACKOFF, BACKOFF_FACTOR * self._lost_in_a_row)
            self._forget_times()

    def _try_several(self, now: float) -> bool:
        measured = self._n_single_steps >= SINGLE_THREAD_STEPS
        return self._several > self._default and measured and now >= self._trial_start

    def _forget_times(self) -> None:
        self._single_seconds = math.inf
        self._n_single_steps = 0
        self._lost = 0.0

    @contextmanager
    def _limited(self, n_threads: int) -> Iterator[None]:
        # threadpoolctl's own `limit` queries more and takes 3% of a step of a small model.
        before = [(library, library.get_num_threads()) for library in self._libraries]
        changed = [(library, own) for library, own in before if own != n_threads]
        for library, _ in changed:
            library.set_num_threads(n_threads)
        try:
            yield
        finally:
            for library, own in changed:
                library.set_num_threads(own)
