"""A run on its own small disk, which fills up during the run: `python -m tests.faults.small_disk PLACE [SABOTAGE]`.

It needs permission to mount (unshare -rm). The disk vanishes with this process. The result is printed as JSON.
"""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

from tests.faults import runs
from tests.faults.runs import SAVE_INTERVAL

SIZE = "32m"


def fill(path: Path) -> None:
    """Fill the disk with a file."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def main(place: Path, wrong: list[str]) -> None:
    disk = place / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(disk)], check=True)
    run = ["train", "--resume", "auto", *runs.RUN, "--checkpoint-dir", "disk/run"]
    # With a long log interval only saves write to the disk.
    process = runs.start(place, *run, "--log-interval", 1000, wrong=wrong)
    first = disk / "run" / f"checkpoint_step_{SAVE_INTERVAL}.state.npz"
    runs.until(process, first.exists)
    fill(disk / "ballast")
    status = process.wait(timeout=runs.LONGEST)
    said = runs.log_of(place).read_text().splitlines()[-1]
    left, kept = runs.leftovers(disk / "run"), runs.newest_step(disk / "run")
    (disk / "ballast").unlink()
    runs.run(place, *run, "--log-interval", 1000)
    lost = runs.lost(place / "control", disk / "run")
    print(json.dumps({"status": status, "said": said, "left": left, "kept": kept, "lost": lost}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
