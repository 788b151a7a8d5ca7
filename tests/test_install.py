"""`make` chooses the build of PyTorch; tried with wheels of a few bytes in local indexes."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
VERSION = next(
    line.partition("==")[2]
    for line in (PROJECT / "constraints.txt").read_text().splitlines()
    if line.startswith("torch==")
)


def index_with(folder: Path, version: str) -> str:
    """The address of a package index that has this version of an empty package called torch."""
    page = folder / "torch"
    page.mkdir(parents=True)
    wheel = page / f"torch-{version}-py3-none-any.whl"
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    (page / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    return folder.as_uri()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile, the pinned versions, and an empty environment."""
    for name in ("Makefile", "constraints.txt"):
        shutil.copy(PROJECT / name, tmp_path)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / ".venv"], check=True)
    return tmp_path


def make_torch(checkout: Path, *variables: str, dry: bool = False) -> str:
    """The output of `make torch`, without the machine's own settings of pip."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        ["make", *(["-n"] if dry else []), "torch", *variables],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def installed(checkout: Path) -> str:
    """The version of torch in the environment, empty if there is none."""
    code = "from importlib.metadata import distributions as d; print(*[p.version for p in d(name='torch')])"
    python = checkout / ".venv/bin/python"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def test_the_index_that_is_named_gives_torch(checkout: Path) -> None:
    index = index_with(checkout / "index", f"{VERSION}+cpu")
    make_torch(checkout, f"TORCH_INDEX={index}")
    assert installed(checkout) == f"{VERSION}+cpu"


def test_an_index_that_cannot_be_reached_is_passed_over(checkout: Path) -> None:
    output = make_torch(checkout, f"TORCH_INDEX={(checkout / 'missing').as_uri()}")
    assert "installing the usual build" in output
    assert not installed(checkout)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one build of PyTorch")
@pytest.mark.parametrize(
    ("variables", "takes_cpu_build"),
    [
        (["GPU="], True),
        (["GPU=/dev/nvidia0"], False),
        (["GPU=", "TORCH_INDEX="], False),
        (["GPU=", "PIP_INDEX_URL=https://packages.example"], False),
    ],
)
def test_the_cpu_build_is_taken_without_a_gpu(
    variables: list[str], takes_cpu_build: bool, tmp_path: Path
) -> None:
    shutil.copy(PROJECT / "Makefile", tmp_path)
    assert ("whl/cpu" in make_torch(tmp_path, *variables, dry=True)) == takes_cpu_build
