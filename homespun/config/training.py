"""The settings of `homespun train`, in groups. They also are the keys of a TOML file and part of each checkpoint.

`None` means that planning chooses the value: the usual one with --model-size (`with_preset`), else one for the data and
the time. Each group is a module beside this one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homespun.config.checked import PathName, seconds, setting, shown
from homespun.config.lora import LoraConfig
from homespun.config.machine import MachineConfig
from homespun.config.optimizer import OptimizerConfig, StepConfig
from homespun.config.preferences import PreferenceConfig
from homespun.config.recording import RecordConfig
from homespun.config.reinforcement import ReinforcementConfig
from homespun.config.replay import ReplayConfig
from homespun.config.shape import ShapeConfig
from homespun.errors import UserError

MOST_USED = (
    *("data_file", "time_budget", "model_size", "max_epochs", "max_steps"),
    *("batch_size", "seq_len", "learning_rate", "vocab_size"),
    *("checkpoint_dir", "resume", "config"),
)
"""The settings of a run that its help and its form list first."""


@dataclass(frozen=True)
class TrainConfig(
    RecordConfig,
    MachineConfig,
    PreferenceConfig,
    ReinforcementConfig,
    ReplayConfig,
    LoraConfig,
    OptimizerConfig,
    StepConfig,
    ShapeConfig,
):
    """Train a model. With --model-size, a preset and its usual settings are used. Otherwise, every setting that is
    omitted (size, optimizer, learning rate, batch, schedule) is chosen for your data and your --time-budget; with
    --init-from, also for the model."""

    data_file: PathName | None = setting(
        None,
        "Text to train on: a .txt, .jsonl or .parquet file, a folder of them, a pattern in quotes, or a .toml file "
        "that mixes texts; if omitted, the last download.",
    )
    time_budget: str | None = setting(
        None,
        "Training time, such as 90s, 20m or 3h, with evaluations, samples and saves; the preparations and the last "
        "evaluation and save come on top. Training ends earlier if it reaches --max-epochs or --max-steps.",
        with_preset_words="no limit",
        recipe="10m if no limit is given",
        on_resume="announced",
    )
    model_size: str | None = setting(
        None,
        "Preset; `homespun models` lists them.",
        if_omitted="one that suits the machine and the time",
        on_resume="fixed",
    )
    checkpoint_dir: PathName = setting(
        "checkpoints", "Folder of the run: checkpoints, metrics.jsonl and plot."
    )
    resume: Literal["never", "latest", "auto"] | int | PathName = setting(
        "never",
        "--resume continues from the newest checkpoint; --resume auto starts a new run if there is none; a step or a "
        "file of weights goes back to that point.",
        const="latest",
        metavar="{never,latest,auto,STEP,FILE}",
    )
    init_from: PathName | None = setting(
        None,
        "Trained model to go on from: the folder of a run, an .npz file, a Hugging Face or MLX folder, or a GGUF file. "
        "Its shape and its tokenizer are kept.",
        if_omitted="a new model",
        on_resume="fixed",
    )
    tokenizer_path: PathName | None = setting(
        None,
        "Tokenizer: a folder or a tokenizer.json; if omitted, one here that was trained on this text, or else a new "
        "one.",
    )
    seed: int = setting(
        0,
        "Random seed for initial weights, data order, dropout and sample texts.",
        at_least=0,
        on_resume="fixed",
    )
    dry_run: bool = setting(
        False, "Print the plan of the run, as `homespun plan` does, and write nothing."
    )
    config: PathName | None = setting(
        None,
        "TOML file with any of these settings (underscores instead of dashes); flags override it.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.time_budget is not None:
            seconds(self.time_budget)
        if self.averaging and self.memory == "low":
            raise UserError(
                "--averaging keeps a second copy of the weights, which --memory low has no room for: leave one of "
                "them out"
            )
        if (file := self.resume_file()) and file.suffix != ".npz":
            raise UserError(
                f"--resume is {shown(self.resume)}: "
                '"never" or "latest" or "auto", a step, or a file of weights (.npz) is expected'
            )

    @property
    def learns_text(self) -> bool:
        """Whether the loss is the cross-entropy of a text, and not that of a reward or of preferences."""
        return self.reward is None and self.preferences is None

    def resume_file(self) -> Path | None:
        """The file to resume from, if one is named."""
        named = isinstance(self.resume, str) and self.resume not in ("never", "latest", "auto")
        return Path(str(self.resume)) if named else None


@dataclass(frozen=True)
class ReinforceConfig(TrainConfig):
    """Let a model answer prompts, score its answers, and make good ones likelier. It is `homespun train` with
    --reward: the folder, the records, --resume and all other settings are the same. By default, a step takes 16
    prompts, and AdamW has a peak rate of 0.0003, or 0.0001 for a model from elsewhere, or 0.001 with --lora-rank. The
    other defaults with and without --model-size are those of a new model."""

    model: PathName | None = setting(
        None,
        "The model to improve, usually one that has learned to answer: the folder of a run, an .npz file, a Hugging "
        "Face or MLX folder, or a GGUF file. The same as --init-from.",
        if_omitted="--init-from, or the run that is resumed",
        positional=True,
    )


@dataclass(frozen=True)
class PlanConfig(TrainConfig):
    """Estimate the memory, time, disk space, energy and loss of a run before it starts. The command takes all settings
    of `homespun train`, measures some real steps on this machine (at most a minute), and writes nothing."""

    machine: str | None = setting(
        None,
        'Plan for another machine by its data sheet, such as "M1 Max 32GB", "RTX 4090" or "Ryzen 9 7950X".',
        if_omitted="this machine, measured",
    )
    ranks: int | None = setting(
        None,
        "Number of GPUs or machines of this kind that train together.",
        if_omitted="those that were started together, or one",
        at_least=1,
        at_most=100_000,
    )
    interconnect: float | None = setting(
        None,
        "Speed at which each rank sends to the others, in GB/s, such as 450 for NVLink of an H100 or 1.2 for 10 Gbit "
        "Ethernet.",
        if_omitted="the time that ranks wait for each other is left out",
        above=0,
        at_most=1e6,
    )
