"""The description of a cluster flows in; its machines do the stages of `several_machines`, started by datatrove.

datatrove asks Slurm or Ray for machines, starts the tasks of a stage there when the stage before is done, and keeps a
log of each. The stages themselves know nothing of it: which files are finished is read from the shared folder alone.
"""

import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from homespun import workspace
from homespun.config import PrepareConfig
from homespun.data.prepare import check_folder
from homespun.errors import UserError, cannot_read
from homespun.preparing.local_tasks import do_tasks
from homespun.preparing.several_machines import SharedWork
from homespun.preparing.stage import Stage
from homespun.terminal import Say, counted
from homespun.tokenizer import Tokenizer

INSTALL = "pip install 'homespun[cluster]'"
KINDS = {
    "local": "LocalPipelineExecutor",
    "slurm": "SlurmPipelineExecutor",
    "ray": "RayPipelineExecutor",
}
"""The classes of `datatrove.executor` by the name of their table in the description."""
OURS = ("pipeline", "tasks", "depends", "logging_dir", "skip_completed", "job_name")
"""Arguments of these classes that are not for the description."""


@dataclass(frozen=True)
class Cluster:
    """The description of a cluster."""

    kind: str
    tasks: int
    options: dict[str, Any]
    """Further arguments of the class in `KINDS`."""


def prepare_on_cluster(config: PrepareConfig, say: Say) -> None:
    """Make the tokens of a text on a cluster.

    Args:
        config: the text, the tokenizer, the folders, the description of the cluster, and the processes of each task.
        say: receives messages.

    Raises:
        UserError: the description or the text cannot be used, the extra is missing, or a task has failed.
    """
    workspace.check()
    check_folder(Path(config.tokens_dir))
    if config.tokenizer_path:
        Tokenizer.load(Path(config.tokenizer_path))  # a mistake is found before the work
    cluster = read_cluster(Path(config.cluster or ""))
    try:
        from datatrove import executor as executors
    except ImportError as error:
        raise UserError(f"--cluster needs datatrove ({error}): {INSTALL}") from None
    work = SharedWork(config, cluster.tasks, say)
    folder = str(Path.cwd())
    settled = replace(config, data_file=str(work.path), workers=config.workers or 1)
    logs = work.folder.absolute() / "logs"

    def settings_of(stage: str) -> dict[str, Any]:
        """The arguments of datatrove's executor of one stage, but for its pipeline."""
        return {
            "tasks": 1 if stage in ("plan", "complete") else cluster.tasks,
            "logging_dir": str(logs / stage),
            "skip_completed": False,  # the finished files decide what is left to do
            **cluster.options,
        }

    def executor(stage: str, **options: object) -> Any:
        """Datatrove's, for one stage."""
        pipeline = [Stage(stage, settled, cluster.tasks, folder)]
        kind = getattr(executors, KINDS[cluster.kind])
        try:
            return kind(pipeline=pipeline, **settings_of(stage), **options)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{config.cluster}: {KINDS[cluster.kind]} of datatrove does not take these settings ({error})"
            ) from None

    if cluster.kind == "slurm":
        _check_slurm(logs)
        last = None
        for stage in ("read", "plan", "tokenize", "complete"):
            last = executor(stage, depends=last, job_name=f"homespun-{stage}")
        _start(last, config)
        say(
            "The jobs are in the queue of Slurm; squeue lists them. When homespun-complete is done, the tokens are "
            f"there. Logs: {work.folder / 'logs'}"
        )
        return
    # One stage after the other, and not by `depends`, which waits for a task that has failed forever.
    for stage, undone in (
        ("read", work.parts_that_read),
        ("plan", work.parts_that_plan),
        ("tokenize", work.parts_that_tokenize),
    ):
        if cluster.kind == "local":
            do_tasks(executor(stage), settings_of(stage))
        else:
            _start(executor(stage), config)
        if parts := undone():
            work.check_text()
            raise UserError(
                f"{counted(len(parts), 'task')} of the stage {stage} did not finish: {logs / stage} tells why; then "
                "run the same command again"
            )
    work.complete()


def _start(executor: Any, config: PrepareConfig) -> None:
    """Start the tasks of an executor.

    Raises:
        UserError: a package is missing, or Slurm refuses a job.
    """
    try:
        executor.run()
    except ImportError as error:
        raise UserError(f"{config.cluster}: {error}") from None
    except subprocess.CalledProcessError as error:
        raise UserError(
            f"{config.cluster}: {error.cmd[0]} has refused a job (exit status {error.returncode}, its message is above)"
            ": check partition, qos and time"
        ) from None


def _check_slurm(logs: Path) -> None:
    """Make sure that Slurm can take the jobs.

    Raises:
        UserError: its programs are missing, or the folder for the logs has a name that it cannot take.
    """
    if shutil.which("sbatch") is None:
        raise UserError("[slurm] needs sbatch: run this on a machine from which jobs are started")
    if not re.fullmatch(r"[A-Za-z0-9._/+@,=-]+", str(logs)):  # datatrove writes it into a script
        raise UserError(
            f"{logs}: a path for Slurm can have only letters, digits and ._-/+@,= : choose another --tokens-dir, or "
            "rename the text"
        )


def read_cluster(path: Path) -> Cluster:
    """The description of a cluster.

    Raises:
        UserError: the file cannot be read, is not TOML, or has a bad entry.
    """
    example = "write [slurm] or [ray] or [local], and below it tasks = 64"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise cannot_read(error, f"{path}: cannot be read") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid TOML ({error}): {example}") from None
    kind = next(iter(content), "")
    if len(content) != 1 or kind not in KINDS or not isinstance(content[kind], dict):
        raise UserError(f"{path}: describes no cluster: {example}")
    options = content[kind]
    tasks = options.pop("tasks", None)
    if not isinstance(tasks, int) or isinstance(tasks, bool) or not 1 <= tasks <= 1_000_000:
        raise UserError(f"{path}: tasks is {tasks!r}: {example}")
    if taken := [name for name in OURS if name in options]:
        raise UserError(f"{path}: {taken[0]} is set by homespun: leave it out")
    return Cluster(kind, tasks, options)
