"""The wheel holds all that the command needs in any folder, without the checkout."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

import homespun

PROJECT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE")

JOB = """
homespun --version
homespun download --dataset stories --num-samples 200
homespun tokenizer --vocab-size 400
homespun train --model-size pico --n-layers 1 --d-model 32 --n-heads 2 --seq-len 32 --max-steps 2
homespun generate --prompt "Once upon a time" --max-tokens 5
homespun export checkpoints --to huggingface --output exported
homespun report
homespun verify
"""


def run(words: list[str], folder: Path) -> str:
    """The output of a command that knows nothing of the checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copy(PROJECT / name, folder)
    shutil.copytree(
        PROJECT / "homespun", folder / "homespun", ignore=shutil.ignore_patterns("__pycache__")
    )
    build = "-m pip --no-input wheel --no-deps --no-index --no-build-isolation --quiet ."
    run([sys.executable, *shlex.split(build)], folder)
    [wheel] = folder.glob("*.whl")
    return wheel


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = (p for p in (PROJECT / "homespun").rglob("*") if p.is_file())
    expected = {str(p.relative_to(PROJECT)) for p in package if p.parent.name != "__pycache__"}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert "homespun/py.typed" in expected


def test_the_wheel_states_readme_licence_and_command(wheel: Path) -> None:
    [info] = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()} - {"homespun"}
    distribution = PathDistribution(zipfile.Path(wheel, f"{info}/"))  # type: ignore[arg-type]
    assert distribution.version == homespun.__version__
    assert distribution.metadata["License-Expression"] == "MIT"
    assert distribution.metadata.get_payload() == (PROJECT / "README.md").read_text("utf-8")
    licence = zipfile.Path(wheel, f"{info}/licenses/LICENSE").read_text("utf-8")
    assert licence == (PROJECT / "LICENSE").read_text("utf-8")
    [command] = distribution.entry_points.select(group="console_scripts")
    assert (command.name, command.value) == ("homespun", "homespun.cli.main:main")


def test_the_installed_command_does_the_whole_job_in_an_empty_folder(
    wheel: Path, tmp_path: Path
) -> None:
    environment, work = tmp_path / "environment", tmp_path / "work"
    work.mkdir()
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)], tmp_path)
    python = environment / "bin" / "python"
    install = f"-m pip --python {python} install --no-deps --no-index --quiet {wheel}"
    run([sys.executable, *shlex.split(install)], tmp_path)
    # The libraries are those of this environment. Links to checkouts in it have no effect from there.
    [packages] = (environment / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    code = "import homespun; print(homespun.__file__)"
    assert run([str(python), "-c", code], work).startswith(str(packages))
    for line in JOB.strip().splitlines():
        name, *words = shlex.split(line)
        run([str(environment / "bin" / name), *words], work)
    assert {entry.name for entry in work.iterdir()} == {
        *("data", "tokenizer_model", "checkpoints", "exported", ".homespun.json")
    }
