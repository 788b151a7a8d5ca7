"""How many threads compute: the processors there are, and for NumPy's products one of them, or several where that is
faster."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from threadpoolctl import ThreadpoolController

from homespun.engine.hardware import n_cores

MOST = 4
"""Threads at most, unless asked for: the weights come from memory, and a few threads read it at its full speed."""
ALONE = 3
"""Steps with one thread before several are tried."""
WORTH = 0.9
"""Several have to need less than this share of the time of one."""
PATIENCE = 10
"""After a trial that was slower they rest this many times as long as such trials in a row have lost, ..."""
PAUSE = 0.2
"""... and for this many seconds at least."""


class ProductThreads:
    """The threads of the library that multiplies NumPy's matrices (BLAS), while an engine computes: what else the
    process does with NumPy keeps its own.

    Two write a text in about 0.6 of the time of one. But those of OpenBLAS wait for each other without
    sleeping: when something else needs a processor, each product waits until the system gives it back, and two threads
    have written a text at a twelfth of the speed of one (benchmarks/generation.py). So the steps are timed, and several
    threads compute for as long as they are faster.

    Each thread computes some of the rows of a product, so their number does not change the result, save for the last
    digit of rows at the end of a matrix whose height is odd.
    """

    def __init__(
        self, wanted: int | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`wanted` threads, or as many as are faster; `clock` gives seconds."""
        self._blas = ThreadpoolController().select(user_api="blas").lib_controllers
        # Of the library of a Mac nothing is found: it settles that by itself.
        possible = min(n_cores(), MOST) if self._blas else 1
        self._few, self._several = wanted or 1, wanted or possible
        self._clock = clock
        self._trial = -math.inf  # when the present or the next one begins
        self._lost_in_a_row = 0.0
        self._n_texts = 0
        self._alone, self._n_alone, self._lost = math.inf, 0, 0.0

    def few(self) -> AbstractContextManager[None]:
        """For what is not part of a text."""
        return self._limited(self._few)

    def as_for_a_step(self) -> AbstractContextManager[None]:
        """For what is, but may take any time."""
        return self._limited(self._several if self._tries(self._clock()) else self._few)

    def begin(self, n_texts: int) -> None:
        """The steps to come are those of so many texts at once."""
        if n_texts != self._n_texts:
            self._n_texts = n_texts
            self._forget()

    @contextmanager
    def step(self) -> Iterator[None]:
        """For one of many steps that all take about as long."""
        start = self._clock()
        if not self._tries(start):
            with self._limited(self._few):
                yield
            self._alone = min(self._alone, self._clock() - start)
            self._n_alone += 1
            self._trial = max(self._trial, self._clock())
            return
        with self._limited(self._several):
            yield
        end = self._clock()
        self._lost = max(0.0, self._lost + end - start - WORTH * self._alone)
        if self._lost > 2 * self._alone:
            if end - self._trial > PATIENCE * self._lost:  # what it has gained before is more
                self._lost_in_a_row = 0.0
            self._lost_in_a_row += self._lost
            self._trial = end + max(PAUSE, PATIENCE * self._lost_in_a_row)
            self._forget()

    def _tries(self, now: float) -> bool:
        return self._several > self._few and self._n_alone >= ALONE and now >= self._trial

    def _forget(self) -> None:
        """How long a step takes."""
        self._alone, self._n_alone, self._lost = math.inf, 0, 0.0

    @contextmanager
    def _limited(self, n_threads: int) -> Iterator[None]:
        # As threadpoolctl's own `limit`, which asks for more and takes 3% of a step of a small model.
        before = [(library, library.get_num_threads()) for library in self._blas]
        changed = [(library, own) for library, own in before if own != n_threads]
        for library, _ in changed:
            library.set_num_threads(n_threads)
        try:
            yield
        finally:
            for library, own in changed:
                library.set_num_threads(own)
