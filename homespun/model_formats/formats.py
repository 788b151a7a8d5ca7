"""A path flows in, the stored model there flows out, whatever its format. Exports are made by format.

A new format is one file in this folder and an entry here.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from homespun.checkpoint.opening import open_weights
from homespun.model_formats import gguf, huggingface, mlx, peft
from homespun.model_formats.checkpoint import from_checkpoint
from homespun.model_formats.config_file import CONFIG
from homespun.model_formats.gguf_file import MAGIC
from homespun.model_formats.stored_model import StoredModel
from homespun.model_formats.weights_folder import open_folder

Say = Callable[[str], None]


@dataclass(frozen=True)
class Export:
    """How models are written in a format of other programs."""

    precisions: tuple[str, ...]
    write: Callable[[StoredModel, Path, str], None]
    """Writes a model to a path in a precision."""
    read: Callable[[Path, StoredModel], StoredModel]
    """Reads it back; the original has the parts that a copy refers to."""
    runs_in: str
    """Programs that read the format, and how."""
    description: str = CONFIG
    """The file by which a folder of this format is known."""
    suffix: str = ""
    """Ending of the file; empty for a format that is a folder."""
    beside: Callable[[StoredModel, str], dict[str, str]] = lambda model, name: {}
    """Text files that belong beside a copy of this name, by their names."""

    @property
    def is_file(self) -> bool:
        return bool(self.suffix)


def read_folder(path: Path) -> StoredModel:
    """The model in a folder of Hugging Face or MLX.

    Raises:
        UserError: it is damaged, or not supported.
    """
    folder = open_folder(path)
    return mlx.read(folder) if mlx.is_mlx(folder) else huggingface.read(folder)


FILES = (".npz", gguf.SUFFIX)
"""Endings of files that hold a model."""

EXPORTS = {
    "huggingface": Export(
        huggingface.PRECISIONS,
        huggingface.write_folder,
        lambda path, original: read_folder(path),
        'transformers: pipeline("text-generation", model="{path}")',
    ),
    "gguf": Export(
        gguf.PRECISIONS,
        gguf.write_file,
        lambda path, original: gguf.read(path),
        "llama.cpp: llama-completion -m {quoted}; Ollama: ollama create NAME -f {folder}/Modelfile",
        suffix=gguf.SUFFIX,
        beside=lambda model, name: {gguf.MODELFILE: gguf.modelfile(model, name)},
    ),
    "mlx": Export(
        mlx.PRECISIONS,
        mlx.write_folder,
        lambda path, original: read_folder(path),
        "mlx-lm: mlx_lm.generate --model {quoted} --prompt TEXT",
    ),
    "peft": Export(
        peft.PRECISIONS,
        peft.write_folder,
        peft.read,
        'PEFT: PeftModel.from_pretrained(base, "{path}"); base is the model before training: '
        "homespun export RUN/base.npz --to huggingface, with the folder of the run for RUN",
        description=peft.CONFIG,
    ),
}


def model_name(path: Path) -> str:
    """The name of the model at a path: that of its file without the ending, or of its folder, which may have a dot."""
    whole = path.resolve()
    return whole.stem if path.suffix.lower() in FILES else whole.name


def open_model(path: Path, report: Say = warnings.warn) -> StoredModel:
    """The model at a path: a checkpoint, the folder of a run, a folder of Hugging Face or MLX, or a GGUF file.

    Args:
        path: a file or a folder.
        report: receives a message about each damaged checkpoint that is passed over.

    Raises:
        UserError: there is no model, it is damaged, or it is not supported.
    """
    if (path / CONFIG).is_file():
        return read_folder(path)
    if path.is_file() and _begins_with(path, MAGIC):
        return gguf.read(path)
    return from_checkpoint(open_weights(path, report))


def _begins_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False  # reading it as a checkpoint gives the reason
