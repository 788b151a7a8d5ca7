"""What a run needs, loaded as the command line loads it, once for all the runs that are forked off."""

import matplotlib.backends.backend_agg
import matplotlib.figure
import pytest
import rich.live
import tokenizers

import homespun.training.train
import tests.faults.wrong
from homespun.engine import select

__all__ = ["homespun", "matplotlib", "pytest", "rich", "tests", "tokenizers"]

select.machine()  # PyTorch, with threads that do not spin
