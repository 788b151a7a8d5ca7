"""Settings of export and import."""

from dataclasses import dataclass
from typing import Literal

from homespun.config.checked import REQUIRED, Checked, PathName, setting

FormatName = Literal["huggingface", "gguf", "mlx", "peft"]
ExportPrecision = Literal["float32", "float16", "bfloat16", "int8"]


@dataclass(frozen=True)
class ExportConfig(Checked):
    """Write a model for other programs, and prove that the copy computes the same."""

    to: FormatName = setting(
        REQUIRED,
        "huggingface: for transformers; gguf: for llama.cpp and Ollama; mlx: for mlx-lm; peft: the adapters of a run "
        "with --lora-rank alone, for PEFT. The other formats merge the adapters into the model.",
    )
    checkpoint: PathName = setting(
        "checkpoints",
        "The model: an .npz file, the folder of a run, or any model that import reads.",
        positional=True,
    )
    output: PathName | None = setting(
        None,
        "Folder to write, with gguf a file; if omitted, exported/huggingface, exported/mlx, exported/peft "
        "or exported/model.gguf. An earlier one is kept under another name.",
    )
    precision: ExportPrecision = setting(
        "float32", "Number format of the weights; int8 is possible with gguf and mlx."
    )
    data_file: PathName | None = setting(
        None, "Text on which the copy is compared; if omitted, text that the model writes."
    )


@dataclass(frozen=True)
class ImportConfig(Checked):
    """Make a checkpoint from a model of other programs."""

    source: PathName = setting(
        REQUIRED,
        "A Hugging Face or MLX folder, a GGUF file, or the name of a model on the hub.",
        positional=True,
    )
    output: PathName | None = setting(
        None,
        "Folder to write; if omitted, the name of the source. An earlier one is kept under another name.",
    )
