"""`homespun prepare --cluster`: datatrove starts the stages on local workers, and on Slurm through programs that stand
in for it; the tokens are those of one process. Needs datatrove: make test-machines."""

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from homespun import child_process
from homespun.cli.main import main
from homespun.errors import UserError
from homespun.preparing.cluster import read_cluster
from homespun.preparing.stage import Stage
from tests.data.files import written
from tests.preparing.files import contents, expected, tokens_in

COMMAND = ["prepare", "--data-file", "web", "--vocab-size", "400", "--cluster", "cluster.toml"]


@pytest.fixture
def datatrove() -> None:
    pytest.importorskip("datatrove", reason="datatrove is missing: make test-machines")


def run(*, prefix: str = "") -> "subprocess.CompletedProcess[str]":
    """The command as a process, because datatrove starts others from it."""
    environment = child_process.environment() | {"PATH": prefix + os.environ["PATH"]}
    command = [*child_process.command("homespun"), *COMMAND]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.usefixtures("datatrove")
def test_two_local_workers(place: Path) -> None:
    written(place / "cluster.toml", "[local]\ntasks = 3\nworkers = 2\n")
    done = run()
    assert done.returncode == 0, done.stderr
    assert "next    homespun train --data-file web" in done.stdout
    home = tokens_in(place / "data/tokens")
    assert contents(home) == expected()
    victim = next(home.glob("training-*"))
    victim.unlink()
    assert run().returncode == 0  # completes what is missing
    assert contents(home) == expected()


@pytest.mark.slow
@pytest.mark.usefixtures("datatrove")
def test_a_cluster_that_is_killed_goes_on(place: Path) -> None:
    """The command is killed as soon as the first file is read, and its tasks end with it."""
    written(place / "cluster.toml", "[local]\ntasks = 2\nworkers = 2\n")
    process = subprocess.Popen(
        [*child_process.command("homespun"), *COMMAND],
        env=child_process.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not list(place.glob("data/tokens/web.parts/*.facts")):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = run()
    assert done.returncode == 0, done.stderr
    assert contents(tokens_in(place / "data/tokens")) == expected()


def local_tasks(command: int) -> list[int]:
    """The processes that do the tasks of a command."""
    found = []
    for children in Path(f"/proc/{command}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if b"local_tasks" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("datatrove")
def test_a_task_that_is_killed_ends_the_command(place: Path) -> None:
    """As where memory is short."""
    written(place / "cluster.toml", "[local]\ntasks = 3\nworkers = 2\n")
    process = subprocess.Popen(
        [*child_process.command("homespun"), *COMMAND],
        env=child_process.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tasks := local_tasks(process.pid)):
        assert process.poll() is None
    os.kill(tasks[0], signal.SIGKILL)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 2, said
    last = said.rstrip().rpartition("\n")[2]
    assert re.match(r"error: task \d of the stage read: a process .* has ended \(SIGKILL\)", last)
    done = run()
    assert done.returncode == 0, done.stderr
    assert contents(tokens_in(place / "data/tokens")) == expected()


@pytest.mark.slow
@pytest.mark.usefixtures("datatrove")
def test_a_task_that_fails_ends_the_command(place: Path) -> None:
    written(place / "cluster.toml", "[local]\ntasks = 2\nworkers = 2\n")
    written(place / "web/c.jsonl", '{"text": 7}\n')
    done = run()
    assert done.returncode == 2
    last = done.stderr.rstrip().rpartition("\n")[2]
    assert last.startswith("error: web/c.jsonl:1: the document must be a string")
    assert not list(place.glob("data/tokens/*/index.json"))


class Executor:
    """Stands in for one of datatrove, on a cluster where some tasks fail, as Ray reports it: only in its logs."""

    stages: ClassVar[list[str]] = []
    failing: ClassVar[tuple[str, int] | None] = None
    error: ClassVar[Exception | None] = None

    def __init__(self, pipeline: list[Stage], tasks: int, **options: object) -> None:
        [self.stage] = pipeline
        self.tasks = tasks
        assert "depends" not in options
        if "local_tasks" in options:
            raise ValueError("Local tasks go beyond the total tasks")

    def run(self) -> None:
        self.stages.append(self.stage.name)
        if self.error:
            raise self.error
        for rank in range(self.tasks):
            if (self.stage.name, rank) != self.failing:
                self.stage(None, rank, self.tasks)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[Executor]:
    monkeypatch.setattr(Executor, "stages", [])
    executors = SimpleNamespace(RayPipelineExecutor=Executor, LocalPipelineExecutor=Executor)
    monkeypatch.setitem(sys.modules, "datatrove", SimpleNamespace(executor=executors))
    return Executor


@pytest.mark.parametrize("failing", [("read", 1), ("plan", 0), ("tokenize", 1)])
def test_a_stage_that_fails_is_named(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stand_in: type[Executor],
    failing: tuple[str, int],
) -> None:
    """And the same command goes on from there."""
    monkeypatch.setattr("homespun.data.prepare.SHARD_BYTES", 4_000)
    monkeypatch.setattr(stand_in, "failing", failing)
    written(place / "cluster.toml", "[ray]\ntasks = 2\n")
    assert main(COMMAND) == 2
    said = capsys.readouterr()
    assert said.err.endswith("then run the same command again\n")
    stage = failing[0]
    logs = place / "data/tokens/web.parts/logs" / stage
    assert f"error: 1 task of the stage {stage} did not finish: {logs} tells why" in said.err
    assert stand_in.stages[-1] == stage
    monkeypatch.setattr(stand_in, "failing", None)
    assert main(COMMAND) == 0
    assert capsys.readouterr().out.count("next    homespun train --data-file web") == 1
    assert contents(tokens_in(place / "data/tokens")) == expected()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ("[ray]", ImportError("Please install `ray`"), "cluster.toml: Please install `ray`"),
        (
            "[ray]",
            subprocess.CalledProcessError(1, ["sbatch", "script"]),
            "cluster.toml: sbatch has refused a job (exit status 1",
        ),
        ("[local]\nlocal_tasks = 3", None, "of datatrove does not take these settings (Local"),
    ],
)
def test_what_datatrove_refuses_is_one_line(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stand_in: type[Executor],
    settings: str,
    error: Exception | None,
    message: str,
) -> None:
    monkeypatch.setattr(stand_in, "error", error)
    written(place / "cluster.toml", f"{settings}\ntasks = 2\n")
    assert main(COMMAND) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.usefixtures("stand_in")
def test_slurm_takes_only_plain_paths(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(place / "cluster.toml", "[slurm]\ntasks = 2\n")
    monkeypatch.setenv("PATH", str(place))
    assert main(COMMAND) == 2
    assert "error: [slurm] needs sbatch" in capsys.readouterr().err
    written(place / "sbatch", "").chmod(0o700)
    assert main([*COMMAND, "--tokens-dir", "my tokens"]) == 2
    assert "my tokens/web.parts/logs: a path for Slurm can have only" in capsys.readouterr().err


SBATCH = """
    import os, re, subprocess, sys
    script = open(sys.argv[-1]).read()
    options = dict(re.findall(r"#SBATCH --([a-z-]+)=(.*)", script))
    with open("queue.txt", "a") as queue:
        dependency = [word for word in sys.argv if word.startswith("--dependency")]
        print(options["job-name"], options["array"], *dependency, file=queue)
    first, last = map(int, options["array"].split("-")) if "-" in options["array"] else (0, 0)
    number = len(open("queue.txt").readlines())
    for task in range(first, last + 1):
        environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_NODELIST": "here"}
        with open("slurm.log", "a") as log:
            subprocess.run(["bash", sys.argv[-1]], env=environment, stdout=log, stderr=log)
    print("Submitted batch job", number)
"""
SRUN = """
    import subprocess, sys
    at = sys.argv.index("launch_pickled_pipeline")
    sys.exit(subprocess.run(sys.argv[at:]).returncode)
"""
SCONTROL = """
    print("here")
"""


@pytest.mark.slow
@pytest.mark.usefixtures("datatrove")
def test_the_jobs_for_slurm(place: Path) -> None:
    """Each job runs at once when it is submitted, after the job that it depends on."""
    programs = place / "programs"
    programs.mkdir()
    for name, code in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        program = written(programs / name, f"#!{sys.executable}\n{textwrap.dedent(code)}")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    written(place / "cluster.toml", '[slurm]\ntasks = 2\ntime = "1:00:00"\npartition = "cpu"\n')
    done = run(prefix=f"{programs}:{Path(sys.executable).parent}:")
    assert done.returncode == 0, done.stderr
    assert "The jobs are in the queue of Slurm" in done.stdout
    log = (place / "slurm.log").read_text()
    assert (place / "data/tokens").is_dir(), log
    assert contents(tokens_in(place / "data/tokens")) == expected(), log
    jobs = [line.split() for line in (place / "queue.txt").read_text().splitlines()]
    ours = [job for job in jobs if job[0].startswith("homespun-") and job[1] != "0-0"]
    assert [job[0] for job in ours] == ["homespun-read", "homespun-tokenize"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "describes no cluster: write"),
        ("[moon]\ntasks = 2\n", "describes no cluster"),
        ("[local]\n", "tasks is None"),
        ("[local]\ntasks = 0\n", "tasks is 0"),
        ("[local]\ntasks = true\n", "tasks is True"),
        ('[local]\ntasks = 2\nlogging_dir = "x"\n', "logging_dir is set by homespun"),
        ("[local\n", "not valid TOML"),
    ],
)
def test_a_wrong_description_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_cluster(written(tmp_path / "cluster.toml", content))


@pytest.mark.usefixtures("datatrove")
def test_a_setting_that_datatrove_does_not_know(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(place / "cluster.toml", "[local]\ntasks = 2\nspeed = 9\n")
    assert main(COMMAND) == 2
    assert "LocalPipelineExecutor of datatrove does not take these settings" in (
        capsys.readouterr().err
    )


def test_the_extra_is_named_where_it_is_missing(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datatrove", None)
    written(place / "cluster.toml", "[local]\ntasks = 2\n")
    assert main(COMMAND) == 2
    assert "pip install 'homespun[cluster]'" in capsys.readouterr().err
