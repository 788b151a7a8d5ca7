"""The words and the environment with which one part of homespun starts another one as a process of its own."""

import os
import sys
from pathlib import Path


def command(module: str) -> list[str]:
    """The words that run a module. The working folder, whose files may be called like modules, is not searched."""
    return [sys.executable, "-P", "-m", module]


def environment() -> dict[str, str]:
    """The environment of this process, in which the package that runs here is found, and output is written at once.
    Beside the processes that a launcher has started to train together, the new one is alone."""
    places = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {
        **{name: value for name, value in os.environ.items() if name != "WORLD_SIZE"},
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
    }
