"""Settings of export and import."""

from dataclasses import dataclass
from typing import Literal

from homespun.config.checked import REQUIRED, Checked, setting
from homespun.errors import UserError

FormatName = Literal["huggingface", "gguf", "mlx"]
ExportPrecision = Literal["float32", "float16", "bfloat16", "int8"]


@dataclass(frozen=True)
class ExportConfig(Checked):
    """Write a model for other programs, and prove that the copy computes the same."""

    checkpoint: str = setting(
        REQUIRED, "The model: an .npz file, the folder of a run, or any model that import reads."
    )
    to: FormatName | None = setting(
        None, "huggingface: for transformers; gguf: for llama.cpp and Ollama; mlx: for mlx-lm."
    )
    output: str | None = setting(
        None,
        "Folder to write, with gguf a file; if omitted, exported/huggingface, exported/mlx or "
        "exported/model.gguf. An earlier one is kept under another name.",
    )
    precision: ExportPrecision = setting(
        "float32", "Number format of the weights; int8 is possible with gguf and mlx."
    )
    data_file: str | None = setting(
        None, "Text on which the copy is compared; if omitted, text that the model writes."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to is None:
            raise UserError("name a format: --to huggingface, --to gguf or --to mlx")


@dataclass(frozen=True)
class ImportConfig(Checked):
    """Make a checkpoint from a model of other programs."""

    source: str = setting(
        REQUIRED, "A Hugging Face or MLX folder, a GGUF file, or the name of a model on the hub."
    )
    output: str | None = setting(
        None,
        "Folder to write; if omitted, the name of the source. An earlier one is kept under another name.",
    )
