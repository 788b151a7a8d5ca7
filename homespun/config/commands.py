"""Settings of the commands that report and check."""

from dataclasses import dataclass

from homespun.config.checked import Checked, PathName, preset_defaults, setting
from homespun.config.model import LONGEST_CONTEXT, ModelConfig
from homespun.config.training import StepConfig, TrainConfig


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
    """Check whether this machine computes correctly, and how fast."""

    engine: bool = setting(
        False,
        "Compare each engine with NumPy and with the others, and time a training step; about two minutes. This is the "
        "only check, so it also runs without the flag.",
    )


@dataclass(frozen=True)
class VerifyConfig(Checked):
    """Check every byte of a checkpoint, a run, tokens, a tokenizer or a download."""

    path: PathName = setting(
        TrainConfig.checkpoint_dir,
        "A file, or the folder of a run, of tokens or of a tokenizer.",
        positional=True,
    )
