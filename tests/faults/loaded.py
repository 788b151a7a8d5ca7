"""Imports for a run, in the order of the command line. The fork server loads them once for all runs."""

import matplotlib.backends.backend_agg
import matplotlib.figure
import pytest
import rich.live
import tokenizers

import homespun.training.train
import tests.faults.wrong
from homespun.engine import select

__all__ = ["homespun", "matplotlib", "pytest", "rich", "tests", "tokenizers"]

select.machine()  # loads PyTorch with threads that do not spin
