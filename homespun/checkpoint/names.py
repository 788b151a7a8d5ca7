"""The names of the files in the folder of a run: a name flows in, and its place among the files of a run flows out.

Every part that looks into such a folder finds the names here, so that each one is written once.
"""

import re
from pathlib import Path

from homespun.errors import UserError

BEST = ("best.npz", "best_model.npz")
"""The files of weights to generate from, in order of preference. A run writes the first one."""
BASE = "base.npz"
"""The weights that the adapters of a run with LoRA belong to. All other files of the run hold adapters alone."""
REFERENCE = "reference.npz"
"""The log-probabilities of the initial model, of a run with preferences."""
OF_THE_START = (BASE, REFERENCE)
"""The files that a run writes before its first step."""
LORA = "lora"
"""The entry of a header that describes adapters, with the SHA-256 of their base."""
METRICS = "metrics.jsonl"
PLOT = "training.png"
LOCK = ".lock"
STEP_FILE = re.compile(r"checkpoint_step_(0|[1-9]\d{0,17})(\.state|\.replaced)?\.npz", re.ASCII)
SUFFIXES = (".state", "", ".replaced")
"""The files of a step. A step loses its `.state` first, without which the others do not count."""
EARLIER, LATER = "earlier", "later"
"""Folders inside the folder of a run, numbered from 1: an earlier run, and the part of this run after a step."""
NOT_OF_A_RUN = re.compile(rf"{re.escape(LOCK)}|lost\+found|{EARLIER}\.\d+")


def is_of_run(name: str) -> bool:
    """Whether a file of this name belongs to a run."""
    return bool(STEP_FILE.fullmatch(name)) or name in (*BEST, *OF_THE_START, METRICS)


def by_age(name: str) -> tuple[bool, int, str]:
    """Sorts the files of a run: the record last, and the newest checkpoint just before it."""
    match = STEP_FILE.fullmatch(name)
    return name == METRICS, int(match[1]) if match else -1, name


def names_in(folder: Path) -> list[str]:
    """The sorted names in a folder; none if there is no folder.

    Raises:
        UserError: it cannot be read as a folder.
    """
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder} cannot be read as a folder ({error.strerror})") from error
