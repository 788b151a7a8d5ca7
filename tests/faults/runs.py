"""Starts real runs of `homespun` with faults, and compares their files with those of an undisturbed control run.

The compared files are the records in `metrics.jsonl`, and the arrays and the position in the checkpoints.
"""

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from homespun.checkpoint.archive import CheckpointError, read_archive
from homespun.checkpoint.folder import CheckpointFolder
from tests.test_resume import kept

ROOT = Path(__file__).parents[2]
SAVE_INTERVAL = 5
STEPS = 60
WARM_UP = 10
LONGEST = 900
"""Timeout of a run in seconds, generous for a busy machine."""

SHAPE = ["--model-size", "pico", "--n-layers", 1, "--d-model", 32, "--n-heads", 1]
PACE = [
    "--seq-len", 16, "--batch-size", 2, "--grad-accumulation-steps", 2, "--max-steps", STEPS,
    "--warmup-steps", WARM_UP, "--learning-rate", 0.003, "--optimizer", "muon", "--threads", 2, "--log-interval", 1,
    "--eval-interval", 20, "--eval-tokens", 300, "--sample-interval", 25,
    "--sample-prompts", "The cat", "--save-interval", SAVE_INTERVAL,
]  # fmt: skip
RUN = [*SHAPE, *PACE]
"""A few thousand weights and 60 short steps, with accumulation, warm-up, two epochs, evaluations and samples."""


def start(
    place: Path, *arguments: object, under: Sequence[str] = (), wrong: Sequence[str] = ()
) -> "Forked | subprocess.Popen[bytes]":
    """Start `homespun ARGUMENTS` in a folder, with its output in `log_of(place)`.

    Args:
        place: the working folder.
        arguments: of the command line.
        under: prefix of the command, such as strace. Without a prefix the run is forked from a process that has already
            loaded PyTorch.
        wrong: names of the faults to put into the run, see `tests.faults.wrong`.
    """
    words = [str(argument) for argument in arguments]
    if not under:
        return Forked(place, words, list(wrong))
    module = ["-m", "tests.faults.wrong", *wrong, "--"] if wrong else ["-m", "homespun"]
    with log_of(place).open("wb") as log:
        return subprocess.Popen(
            [*under, sys.executable, *module, *words],
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        )


_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.faults.loaded"])


class Forked:
    """A forked run, with the interface of `subprocess.Popen`."""

    def __init__(self, place: Path, words: list[str], wrong: list[str]) -> None:
        log_of(place).write_text("")
        self._process = _forks.Process(target=_run_here, args=(place, words, wrong))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("homespun", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)


def _run_here(place: Path, words: list[str], wrong: list[str]) -> None:
    from homespun.cli.main import main
    from tests.faults.wrong import apply

    os.chdir(place)
    log = os.open(log_of(place), os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    sys.stdout, sys.stderr = (open(d, "w", buffering=1, closefd=False) for d in (1, 2))  # noqa: SIM115
    apply(wrong)
    sys.exit(main(words))


def log_of(place: Path) -> Path:
    return place / "output.txt"


def run(place: Path, *arguments: object, status: int | None = 0, **how: Any) -> str:
    """Run `homespun ARGUMENTS` to its end, check its exit status (None: any), and return its output."""
    process = start(place, *arguments, **how)
    process.wait(timeout=LONGEST)
    output = log_of(place).read_text()
    assert status in (None, process.returncode), f"status {process.returncode}\n{output}"
    assert "Traceback" not in output, output
    return output


def train(place: Path, folder: str, *more: object, **how: Any) -> str:
    """Start the run of this module in `folder`, or resume it."""
    return run(place, "train", "--resume", "auto", *RUN, "--checkpoint-dir", folder, *more, **how)


def until(
    process: "Forked | subprocess.Popen[bytes]",
    happened: Callable[[], object],
    seconds: float = LONGEST,
) -> bool:
    """Wait until `happened()` is true. False if the process ends first."""
    end = time.monotonic() + seconds
    while not happened():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.0005)
    return True


def copied(control: Path, to: Path, *, without: str | None = None) -> Path:
    """Copy a working folder: text, tokenizer, tokens, and the control run."""
    ignored = shutil.ignore_patterns(without) if without else None
    return shutil.copytree(control, to, dirs_exist_ok=True, ignore=ignored)


class Lost(NamedTuple):
    """Losses of a run, compared with its control."""

    steps: int
    """Steps whose records are missing, doubled, or not identical to the last bit."""
    files: int
    """Files that are missing or damaged, or hold other arrays or another position, and temporary files left behind."""


NOTHING = Lost(0, 0)


def lost(control: Path, folder: Path) -> Lost:
    """Compare all records, the newest checkpoint and the best weights."""
    ours, theirs = _by_step(folder), _by_step(control)
    steps = sum(ours[step] != theirs[step] for step in ours.keys() | theirs.keys())
    newest = max(CheckpointFolder(control).steps())
    names = ["best.npz", f"checkpoint_step_{newest}.npz", f"checkpoint_step_{newest}.state.npz"]
    files = sum(_content(folder / name) != _content(control / name) for name in names)
    return Lost(steps, files + len(leftovers(folder)))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.tmp")]


def newest_step(folder: Path) -> int | None:
    """The step from which `--resume` would continue."""
    newest = CheckpointFolder(folder).latest(lambda line: None)
    return newest.step if newest else None


def _by_step(folder: Path) -> defaultdict[int, list[dict[str, Any]]]:
    found = defaultdict(list)
    if (folder / "metrics.jsonl").exists():
        for record in kept(folder):
            found[record["step"]].append(record)
    return found


CLOCKS = {"training_seconds", "elapsed_seconds", "seconds"}
"""Parts of a position, and of its window, that may differ between equal runs."""


def _content(path: Path) -> object:
    if not path.exists():
        return None
    try:
        archive = read_archive(path)
        archive.verify()
    except CheckpointError as error:
        return str(error)
    position = archive.header.get("position", {})
    arrays = {name: info.sha256 for name, info in archive.arrays.items()}
    return arrays, _untimed(position | {"window": _untimed(position.get("window", {}))})


def _untimed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in CLOCKS}
