"""`homespun generate`: the prompt, the speed, and the weights that are taken."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from homespun.checkpoint.folder import CheckpointFolder
from homespun.cli.main import main
from tests.cli.lines import GENERATE, run_with
from tests.test_terminal import without_progress


def test_generate_continues_the_prompt_by_seed_and_accepts_the_right_tokenizer(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for command in (
        "generate --prompt 'Once upon' --seed 3 --max-tokens 20",
        "generate --prompt 'Once upon' --seed 3 --max-tokens 20 --tokenizer-path tokenizer_model",
        "generate --prompt 'Once upon' --seed 3 --max-tokens 20 --checkpoint checkpoints",
        "generate --prompt 'Once upon' --seed 4 --max-tokens 20",
    ):
        assert main(shlex.split(command)) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2] != texts[3]
    assert all(text.startswith("Once upon") for text in texts)


def test_a_prompt_from_a_file_or_standard_input_is_that_of_the_flag(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = shlex.split("--seed 3 --max-tokens 20")
    assert main(["generate", "--prompt", "Once\nupon", *settings]) == 0
    expected = capsys.readouterr().out
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbfOnce\r\nupon\r\n")
    assert main(["generate", "--prompt-file", str(tmp_path / "prompt.txt"), *settings]) == 0
    assert capsys.readouterr().out == expected
    done = run_with("", "generate", "--prompt", "-", *settings, input=b"Once\nupon\n")
    assert (done.stdout.decode(), done.stderr) == (expected, b"")
    done = run_with("<&-", "generate", "--prompt", "-", *settings)
    assert done.stderr == b"error: standard input is closed: --prompt - reads the prompt from it\n"
    done = run_with("", "generate", "--prompt", "-", *settings, input=b"\n")
    assert done.stderr.startswith(b"error: standard input: there is no text in it: leave --prompt ")


@pytest.mark.parametrize("more", ["", "--num-samples 3", "--interactive"])
def test_verbose_adds_the_speed_on_standard_error_and_changes_no_text(
    place: Path, more: str
) -> None:
    words = shlex.split(f"generate --prompt 'Once upon' --seed 3 --max-tokens 20 {more}")
    quiet, verbose = (run_with("", *words, *flags, input=b"a\n") for flags in ([], ["--verbose"]))
    assert verbose.stdout == quiet.stdout
    assert without_progress(quiet.stderr) == b""
    number = r"[\d,]+ tokens?( of 3 texts)? in \d+\.\d{3} s( \([\d,]+ tokens/s\))?"
    line = rf"prefill {number}, first token after \d+\.\d{{3}} s, decode {number}\n"
    n_texts = 2 if more == "--interactive" else 1
    assert re.fullmatch(line * n_texts, without_progress(verbose.stderr).decode())


@pytest.fixture
def run_without_best(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run before its first evaluation, alone in the working directory."""
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    Path("checkpoints/best.npz").unlink()
    return tmp_path


def test_without_best_weights_the_newest_checkpoint_is_used_and_named(
    run_without_best: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = Path("checkpoints/checkpoint_step_2.npz")
    assert main([*shlex.split(GENERATE), "--prompt", "Once"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Once")
    assert captured.err == f"the run has not been evaluated yet; taking {newest}\n"
    whole = newest.read_bytes()
    Path("checkpoints/best.npz").write_bytes(whole[: len(whole) // 2])
    assert main([*shlex.split(GENERATE), "--prompt", "Once"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Once")
    assert captured.err.startswith("checkpoints/best.npz is not a checkpoint of homespun, or ")
    assert captured.err.endswith(f"; taking {newest}\n")
    assert captured.err.count("\n") == 1


def test_named_best_weights_are_used_or_refused(
    run_without_best: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(f"{GENERATE} --checkpoint checkpoints/best.npz")) == 2
    assert "checkpoints/best.npz does not exist" in capsys.readouterr().err
    Path("checkpoints/best.npz").write_bytes(b"torn")
    assert main(shlex.split(f"{GENERATE} --checkpoint checkpoints/best.npz")) == 2
    assert "is not a checkpoint of homespun" in capsys.readouterr().err


def test_without_weights_the_error_says_whether_a_run_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(GENERATE)) == 2
    assert "checkpoints: no model is there: train one" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with CheckpointFolder(Path("checkpoints")).lock():
        assert main(shlex.split(GENERATE)) == 2
    assert "checkpoints is in use by process " in capsys.readouterr().err
