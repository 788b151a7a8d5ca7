"""`homespun export` proves a copy before it gives it a name; `homespun import` makes an ordinary checkpoint of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homespun.architectures.gpt2 import GPT2
from homespun.checkpoint.folder import CheckpointFolder
from homespun.cli.main import main
from homespun.config import ExportConfig, ImportConfig
from homespun.errors import UserError
from homespun.exporting import export_model
from homespun.importing import import_model
from homespun.model_formats import gguf
from homespun.model_formats.formats import EXPORTS
from homespun.model_formats.stored_model import header_of
from tests.model_formats.conftest import WHOLE, small_config, small_model

Lines = list[str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run with a small model, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    model = small_model(small_config("llama"))
    folder = CheckpointFolder(Path("run"))
    with folder.lock():
        folder.save_best(model.step, model.tensors(), header_of(model))
    return folder.path


def exported(run: Path, to: Any, **settings: Any) -> tuple[Path, Lines]:
    lines: Lines = []
    return export_model(ExportConfig(to, str(run), **settings), lines.append), lines


@pytest.mark.parametrize("to", WHOLE)
def test_an_export_is_proven_and_published(to: str, run: Path) -> None:
    path, lines = exported(run, to)
    assert path.exists()
    assert "logits differ by at most 0" in lines[0]
    assert not list(Path("exported").glob("*.tmp"))


def test_a_model_comes_back_byte_for_byte(run: Path) -> None:
    path, _ = exported(run, "huggingface")
    back = import_model(ImportConfig(str(path), "back"), lambda line: None)
    assert (back / "best.npz").read_bytes() == (run / "best.npz").read_bytes()


def test_an_imported_model_generates_and_verifies(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = exported(run, "gguf")
    assert main(["import", str(path)]) == 0
    assert main(["verify", "model"]) == 0
    capsys.readouterr()
    texts = []
    for checkpoint in (run, "model", path):
        main(["generate", "--checkpoint", str(checkpoint), "--seed", "1", "--max-tokens", "9"])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]


def test_the_folder_of_an_imported_model_has_its_whole_name(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = exported(run, "huggingface")
    path.rename("Small-1.7B v2")
    assert main(["import", "./Small-1.7B v2", "--output", "other one"]) == 0
    assert "generate --checkpoint 'other one'" in capsys.readouterr().out
    monkeypatch.chdir("other one")
    assert main(["import", "../Small-1.7B v2"]) == 0
    assert Path("Small-1.7B v2/best.npz").exists()


def test_a_wrong_copy_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of queries and keys that are not reordered when they are written, but when they are read."""
    turns = gguf._turns_of_rotary_pairs

    def unturned(config: Any, *, back: bool) -> Any:
        return turns(config, back=True) if back else lambda name, values: values

    monkeypatch.setattr(gguf, "_turns_of_rotary_pairs", unturned)
    with pytest.raises(UserError, match="computes other numbers"):
        exported(run, "gguf")
    assert not any(Path("exported").iterdir())


def test_an_earlier_export_is_kept(run: Path) -> None:
    for to in WHOLE:
        path, _ = exported(run, to)
        _, lines = exported(run, to, precision="float16")
        assert any(f"now {path}.1" in line for line in lines)
        assert Path(f"{path}.1").exists()


def test_other_files_are_never_replaced(run: Path) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    with pytest.raises(UserError, match="holds other files"):
        exported(run, "huggingface", output="mine")
    with pytest.raises(UserError, match=r"ends in \.gguf"):
        exported(run, "gguf", output="mine/model.bin")


def test_a_text_can_be_named_for_the_comparison(run: Path, story_file: Path) -> None:
    _, lines = exported(run, "mlx", data_file=str(story_file))
    assert "stories.txt" in lines[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "run"], "--to is missing"),
        (["import"], "SOURCE is missing"),
        (["export", "run", "--to", "onnx"], "--to is 'onnx'"),
        (["export", "run", "--to", "huggingface", "--precision", "int8"], "does not exist with"),
        (["export", "missing", "--to", "gguf"], "missing"),
        (["import", "missing"], "no such file"),
        (["import", "run", "--output", "run"], "holds the model itself"),
    ],
)
def test_mistakes_get_one_line(
    words: Lines, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_untransposed_matrix_is_not_what_transformers_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The square c_proj has the same shape in both orders, so only its numbers can tell."""
    import torch
    from transformers import AutoModelForCausalLM

    is_transposed = GPT2.is_transposed
    monkeypatch.setattr(
        GPT2,
        "is_transposed",
        lambda family, name: "attn.c_proj" not in name and is_transposed(family, name),
    )
    model = small_model(small_config("gpt2"))
    EXPORTS["huggingface"].write(model, tmp_path, "float32")
    ids = torch.arange(20)[None]
    wrong = AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits.detach().numpy()
    monkeypatch.undo()
    EXPORTS["huggingface"].write(model, tmp_path, "float32")
    right = AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits.detach().numpy()
    assert np.abs(wrong - right).max() > 0.1
