"""Commands whose output, input, encoding or working folder is missing, full, closed or forbidden."""

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.lines import GENERATE, TOKENIZER, TRAIN, TUNE, run_with
from tests.test_terminal import without_progress


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/full")
@pytest.mark.parametrize("command", ["models", f"{GENERATE} --seed 1"])
def test_a_failed_write_to_the_output_is_one_line(place: Path, command: str) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "homespun", *shlex.split(command)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert result.returncode == 2
    assert result.stderr == "error: the output cannot be written (No space left on device)\n"


@pytest.mark.parametrize("command", ["--version", "--help", "train --help", "models", GENERATE])
def test_a_result_without_an_output_is_an_error(place: Path, command: str) -> None:
    done = run_with(">&-", *shlex.split(command))
    assert done.returncode == 2
    assert done.stderr == b"error: the output cannot be written (Bad file descriptor)\n"
    assert run_with(">&- 2>&-", *shlex.split(command)).returncode == 2


@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", ">/dev/full 2>&-", "2>/dev/full"])
@pytest.mark.parametrize(
    "command", ["verify checkpoints", f"{TOKENIZER} --data-file stories.txt --vocab-size 300"]
)
def test_a_command_that_makes_files_needs_no_output(
    place: Path, streams: str, command: str
) -> None:
    done = run_with(streams, *shlex.split(command))
    assert (done.returncode, done.stderr) == (0, b"")
    shutil.rmtree("new_tokenizer", ignore_errors=True)


def test_without_standard_input_there_is_no_conversation(place: Path) -> None:
    done = run_with("<&-", "generate", "--interactive")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: standard input is closed")
    done = run_with("2>&-", *shlex.split(GENERATE), "--interactive", input=b"The cat\n")
    assert done.returncode == 0
    assert done.stdout.startswith(b"The cat")


def test_a_text_is_written_in_any_encoding(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, written in (("ascii", rb"The c\xe4t \u732b"), ("latin-1", b"The c\xe4t \\u732b")):
        monkeypatch.setenv("PYTHONIOENCODING", f"{encoding}:strict")
        for more in ((), ("--num-samples", "2")):
            done = run_with("", *shlex.split(GENERATE), "--prompt", "The c\u00e4t \u732b", *more)
            assert done.returncode == 0, done.stderr
            assert written in done.stdout


def test_a_name_may_have_bytes_that_are_no_text(place: Path, tmp_path: Path) -> None:
    name = "caf\udce9\n[b].txt"
    shutil.copy("stories.txt", tmp_path / name)
    for command in (
        f"{TOKENIZER} --vocab-size 300",
        f"{TRAIN} --tokenizer-path new_tokenizer --checkpoint-dir 'r\udce9[/x]'",
        f"{GENERATE} --checkpoint 'r\udce9[/x]'",
        "download --dataset",
        "report 'r\udce9[/x]'",
        "export 'r\udce9[/x]' --to huggingface --output 'hf\udce9'",
        "export 'r\udce9[/x]' --to gguf --output 'm\udce9.gguf'",
        f"{TUNE} --search learning_rate=x1,x2 --checkpoint-dir 't\udce9'",
    ):
        words = shlex.split(command)
        own = {"download": [name], "generate": [], "report": [], "export": []}
        words += own.get(words[0], ["--data-file", name])
        done = run_with("", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert without_progress(done.stderr) == b""
    best = tomllib.loads((tmp_path / "t\udce9/best.toml").read_text())
    assert "data_file" not in best
    assert "caf\\udce9" in (tmp_path / "t\udce9/best.toml").read_text()
    assert (tmp_path / "t\udce9/results.json").exists()
    assert (tmp_path / "r\udce9[/x]/training.png").exists()


@pytest.mark.parametrize(
    "command", ["train", "tokenizer", "download --dataset stories", "verify x"]
)
def test_a_working_directory_that_was_deleted_is_named(tmp_path: Path, command: str) -> None:
    code = "import os, sys; os.rmdir(os.getcwd()); from homespun.cli.main import main; sys.exit(main())"
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *shlex.split(command)],
        cwd=tmp_path / "gone",
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


AS_USER = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override"]
    if os.geteuid() == 0
    else []
)


@pytest.mark.skipif(
    bool(AS_USER) and not shutil.which("setpriv"), reason="root may read every folder"
)
@pytest.mark.parametrize("command", ["generate --checkpoint shut", "verify shut", "verify shut/x"])
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, command: str) -> None:
    (tmp_path / "shut").mkdir(mode=0)
    done = subprocess.run(
        [*AS_USER, sys.executable, "-m", "homespun", *shlex.split(command)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Permission denied" in done.stderr
    assert done.stderr.count("\n") == 1
