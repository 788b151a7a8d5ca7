"""Settings for loading a trained model and for sampling from it."""

from dataclasses import dataclass
from typing import Literal

from homespun.config.checked import Checked, PathName, setting
from homespun.errors import UserError

ReaderName = Literal["auto", "torch", "mlx", "numpy"]
ReaderPrecision = Literal["auto", "float32", "bfloat16", "float16", "int8"]

STANDARD_INPUT = "-"
"""The `prompt` that stands for the text on standard input."""


@dataclass(frozen=True)
class SamplingConfig(Checked):
    """Sampling. How the next token is chosen."""

    max_tokens: int = setting(
        200, "Maximum number of tokens; an end-of-text token ends the text earlier.", at_least=1
    )
    temperature: float = setting(
        0.9, "0: always the most likely token; 1: the model's own distribution.", at_least=0
    )
    top_k: int | None = setting(
        None, "Sample from the k most likely tokens.", if_omitted="off", off=None, at_least=1
    )
    top_p: float = setting(
        1.0,
        "Sample from the smallest set of tokens that together have this probability.",
        off=1.0,
        above=0,
        at_most=1,
    )
    min_p: float = setting(
        0.1,
        "Leave out tokens less likely than this fraction of the most likely token.",
        off=0.0,
        at_least=0,
        at_most=1,
    )
    repetition_penalty: float = setting(
        1.0, "Above 1: tokens that already occurred become less likely.", off=1.0, above=0
    )
    seed: int | None = setting(
        None,
        "Random seed; the same seed gives the same text.",
        if_omitted="random",
        off=None,
        at_least=0,
    )
    stop: tuple[str, ...] = setting(
        (),
        r"Strings that end the text; they are not printed. \n stands for a line break, \t for a tab, \\ for a "
        "backslash.",
        escapes=True,
    )


@dataclass(frozen=True)
class ReaderConfig(Checked):
    """Machine. The engine that runs a trained model."""

    engine: ReaderName = setting(
        "auto",
        "Engine; auto: NumPy where it is the fastest, otherwise the engine that trains.",
    )
    precision: ReaderPrecision = setting(
        "auto",
        "Precision of the weights, and of the computation unless NumPy computes. Fewer bits are faster, and take less "
        "memory; int8: matrices with 8 bits a weight. auto: float32 for small models, otherwise 16 bits.",
    )
    threads: int | None = setting(
        None,
        "CPU threads; if omitted, one per usable processor with PyTorch, and with NumPy as many as make it faster.",
        at_least=1,
        at_most=1024,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine == "numpy" and self.precision == "float16":
            raise UserError(
                "--engine numpy has no float16: choose --precision bfloat16, or another engine"
            )


@dataclass(frozen=True)
class LoadConfig(ReaderConfig):
    """Model. The trained model."""

    checkpoint: PathName | None = setting(
        None,
        "Model: an .npz file, the folder of a run, a Hugging Face or MLX folder, or a GGUF file; if omitted, the best "
        "model of the run in `checkpoints`.",
    )


@dataclass(frozen=True)
class GenerateConfig(LoadConfig, SamplingConfig):
    """Continue a prompt with a trained model."""

    prompt: str | None = setting(
        None,
        "Text to continue, or - to read it from standard input; if omitted, the model starts a text of its own.",
    )
    prompt_file: PathName | None = setting(
        None, "File with the text to continue.", if_omitted="that of --prompt"
    )
    num_samples: int = setting(1, "Number of texts.", at_least=1, at_most=1024)
    interactive: bool = setting(False, "Ask for prompts until you leave.")
    verbose: bool = setting(
        False, "Print on standard error how fast the prompt was read and the text written."
    )
    tokenizer_path: PathName | None = setting(
        None, "Not needed, as the checkpoint includes its tokenizer; if given, it must be the same."
    )
    model_size: str | None = setting(
        None, "Not needed, as the checkpoint includes the model's shape; if given, it must match."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt is not None and self.prompt_file is not None:
            raise UserError("--prompt and --prompt-file both name a prompt: leave one of them out")
        if self.interactive and self.prompt == STANDARD_INPUT:
            raise UserError(
                "--interactive reads a prompt from each line of standard input: leave --prompt - out"
            )
        if self.interactive and self.num_samples > 1:
            raise UserError("--interactive writes one text for each line: leave --num-samples out")


@dataclass(frozen=True)
class ChatConfig(LoadConfig, SamplingConfig):
    """Talk with a model that was trained on conversations."""

    checkpoint: PathName | None = setting(
        None,
        "Model, as for `homespun generate`; if omitted, the best model of the run in `checkpoints`.",
        positional=True,
    )
    system: str | None = setting(
        None, "Message of the system: how the model should answer.", if_omitted="none"
    )


@dataclass(frozen=True)
class JudgeConfig(LoadConfig, SamplingConfig):
    """Let a model trained on the built-in stories write stories, and check each for contradictions."""

    num_samples: int = setting(50, "Number of stories.", at_least=1, at_most=100_000)
    beginnings: bool = setting(
        False,
        "Give the model the beginnings of unseen stories, up to the first mishap, equally many of each kind, and judge "
        "how it goes on: by its own distribution, and at the settings below.",
    )
    max_tokens: int = setting(
        400, "Length at which a story that has not ended is cut off.", at_least=1
    )
    seed: int | None = setting(
        0, "Random seed; the same seed gives the same stories.", off=None, at_least=0
    )
