"""One save by the real `CheckpointFolder`, without PyTorch, fast enough to be killed a hundred times in a minute.

    python -m tests.faults.saving SCENARIO FOLDER [SABOTAGE]

If the save fails, it prints one line with the reason and exits with status 2.
"""

import sys
from pathlib import Path

from homespun.checkpoint.folder import CheckpointFolder
from homespun.errors import UserError
from tests.checkpoint.kill_points import save, save_best
from tests.faults.wrong import apply


def prepare(path: Path) -> None:
    """Write the initial content of the folder: a checkpoint of step 1 and the best weights."""
    folder = CheckpointFolder(path, keep=1)
    save(folder, 1, version=1)
    save_best(folder, version=1)


def act(scenario: str, path: Path) -> None:
    """Save the next step, the same step again, or better weights."""
    folder = CheckpointFolder(path, keep=1)
    if scenario == "best":
        save_best(folder, version=2)
    else:
        save(folder, {"next": 2, "same": 1}[scenario], version=2)


if __name__ == "__main__":
    apply(sys.argv[3:])
    try:
        act(sys.argv[1], Path(sys.argv[2]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
