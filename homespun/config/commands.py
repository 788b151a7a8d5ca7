"""Settings of the commands that report and check."""

from dataclasses import dataclass

from homespun.config.checked import Checked, PathName, preset_defaults, setting
from homespun.config.generation import ReaderConfig
from homespun.config.machine import EngineName
from homespun.config.model import LONGEST_CONTEXT, ModelConfig
from homespun.config.optimizer import Optimizer, OptimizerConfig, StepConfig
from homespun.config.training import TrainConfig
from homespun.errors import UserError


@dataclass(frozen=True)
class ModelsConfig(Checked):
    """List the presets with their parameters, compute per token and training memory."""

    vocab_size: int = setting(ModelConfig.vocab_size, "Tokens in the vocabulary.", at_least=2)
    batch_size: int = setting(
        preset_defaults(StepConfig)["batch_size"], "Sequences per micro-batch.", at_least=1
    )
    seq_len: int = setting(
        ModelConfig.seq_len, "Context length in tokens.", at_least=2, at_most=LONGEST_CONTEXT
    )


@dataclass(frozen=True)
class DoctorConfig(Checked):
    """Diagnose a run from its record; without a run, check whether this machine computes correctly, and how fast."""

    run: PathName | None = setting(
        None,
        "The folder of a run that is finished, in progress, or was ended by an error.",
        if_omitted="the machine is checked",
        positional=True,
    )
    engine: bool = setting(
        False,
        "Check the machine: compare each engine with NumPy and with the others, and time a training step; about two "
        "minutes. The same as without a run.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine and self.run is not None:
            raise UserError("--engine checks the machine, not a run: leave one of the two out")


@dataclass(frozen=True)
class BenchConfig(Checked):
    """Measure how fast this machine is, and how fast models train and write text on it; a few minutes."""

    model_size: tuple[str, ...] = setting(
        (),
        "Presets to measure (`homespun models` lists them), or nanochat-d6 or autoresearch-d2, for which others have "
        "published a speed.",
        if_omitted="all presets that fit",
    )
    quick: bool = setting(
        False, "Less exact, and with two presets unless --model-size names others: about a minute."
    )
    generation_only: bool = setting(False, "Do not measure training.")
    report: PathName | None = setting(
        None,
        "File to write, a .json file that you can attach to a report of a fault. It describes the machine and the "
        "figures, and nothing personal.",
        if_omitted="none",
    )
    vocab_size: int = setting(ModelConfig.vocab_size, "Tokens in the vocabulary.", at_least=2)
    seq_len: int = setting(
        ModelConfig.seq_len, "Context length in tokens.", at_least=2, at_most=LONGEST_CONTEXT
    )
    batch_size: int = setting(
        preset_defaults(StepConfig)["batch_size"], "Sequences per training step.", at_least=1
    )
    optimizer: Optimizer = setting(
        preset_defaults(OptimizerConfig)["optimizer"], "Optimizer of the training steps."
    )
    engine: EngineName = setting("auto", "Framework to measure; auto: the one that trains here.")
    threads: int | None = setting(
        None, "CPU threads; if omitted, one per usable processor.", at_least=1, at_most=1024
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.report is not None and not self.report.endswith(".json"):
            raise UserError(f"--report {self.report}: give a file name that ends in .json")


@dataclass(frozen=True)
class ReportConfig(Checked):
    """Write a page about one or several runs: settings, curves, samples, diagnosis, and how usual the loss is."""

    runs: tuple[PathName, ...] = setting(
        (TrainConfig.checkpoint_dir,),
        "Folders of runs. Several are compared in the same charts.",
        positional=True,
    )
    output: PathName | None = setting(
        None,
        "The page, a file that ends with .html; it needs no network and no other file.",
        if_omitted="report.html in the folder of the run, or here for several runs",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.runs:
            raise UserError("no run is named: name at least one")


@dataclass(frozen=True)
class StudioConfig(Checked):
    """Open a page in the browser: write and talk with your models, look inside them, start and follow runs."""

    folder: PathName = setting(
        ".",
        "The folder of your work. The page reads and starts nothing outside it.",
        positional=True,
    )
    port: int = setting(
        8321, "Port on this machine; 0: any that is free.", at_least=0, at_most=65_535
    )
    browser: bool = setting(
        True, "Open the browser; with --no-browser, only print the address of the page."
    )


@dataclass(frozen=True)
class VerifyConfig(Checked):
    """Check every byte of a checkpoint, a run, tokens, a tokenizer or a download."""

    path: PathName = setting(
        TrainConfig.checkpoint_dir,
        "A file, or the folder of a run, of tokens, of a tokenizer or of downloads.",
        positional=True,
    )


@dataclass(frozen=True)
class ServeConfig(ReaderConfig):
    """Serve a trained model to other programs, by OpenAI's API: completions, chats, streaming."""

    model: PathName | None = setting(
        None,
        "Model: an .npz file, the folder of a run, a Hugging Face or MLX folder, or a GGUF file.",
        if_omitted="the best model of the run in `checkpoints`",
        positional=True,
    )
    port: int = setting(8000, "Port of the server; 0: one that is free.", at_least=0, at_most=65535)
    host: str = setting(
        "127.0.0.1",
        "Address that the server listens on. Only this machine reaches the default; an address that others reach needs "
        "--key-file.",
    )
    key_file: PathName | None = setting(
        None, "File with a key, which every request has to send.", if_omitted="no key is needed"
    )
