"""The settings of `homespun train`, in groups. They also are the keys of a TOML file and part of each checkpoint.

`None` means that planning chooses the value: the usual one with --model-size (`with_preset`), else one for the data and
the time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homespun.config.checked import Checked, PathName, seconds, setting, shown
from homespun.config.data import TOKENS_DIR
from homespun.config.model import LONGEST_CONTEXT, ModelConfig
from homespun.config.preferences import PreferenceConfig
from homespun.config.reinforcement import ReinforcementConfig
from homespun.config.replay import ReplayConfig
from homespun.errors import UserError

Optimizer = Literal["adamw", "muon"]
Schedule = Literal["cosine", "linear"]
OnSpike = Literal["warn", "skip", "stop"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Memory = Literal["full", "low"]
EngineName = Literal["auto", "torch", "mlx"]

FROM_PRESET = "from the preset"

MOST_USED = (
    *("data_file", "time_budget", "model_size", "max_epochs", "max_steps"),
    *("batch_size", "seq_len", "learning_rate", "vocab_size"),
    *("checkpoint_dir", "resume", "config"),
)
"""The settings of a run that its help and its form list first."""


@dataclass(frozen=True)
class ShapeConfig(Checked):
    """Model shape. The preset is that of --model-size or, without it, one that suits the machine and the time."""

    vocab_size: int | None = setting(
        None,
        "Vocabulary size of the tokenizer. There are fewer tokens if the text does not support as many.",
        if_omitted="that of the tokenizer; at most 4,096 if one is trained automatically",
        at_least=257,
        on_resume="fixed",
    )
    architecture: str | None = setting(
        None, "Model family.", if_omitted=FROM_PRESET, on_resume="fixed"
    )
    n_layers: int | None = setting(
        None,
        "Number of blocks.",
        if_omitted=FROM_PRESET,
        at_least=1,
        at_most=10_000,
        on_resume="fixed",
    )
    n_heads: int | None = setting(
        None,
        "Attention heads.",
        if_omitted=f"{FROM_PRESET}; they follow --d-model",
        at_least=1,
        on_resume="fixed",
    )
    n_kv_heads: int | None = setting(
        None,
        "Key/value heads, for grouped-query attention; divides --n-heads.",
        if_omitted=f"{FROM_PRESET}, or --n-heads if that or --d-model is given",
        at_least=1,
        on_resume="fixed",
    )
    d_model: int | None = setting(
        None,
        "Width of the residual stream.",
        if_omitted=FROM_PRESET,
        at_least=2,
        on_resume="fixed",
    )
    d_ff: int | None = setting(
        None,
        "Width of the feed-forward layers.",
        if_omitted=f"{FROM_PRESET}; it follows --d-model",
        at_least=1,
        on_resume="fixed",
    )
    experts: int | None = setting(
        None,
        "Number of experts in each feed-forward layer of a mixture; a token uses a few of them.",
        if_omitted=f"{FROM_PRESET}, or eight in a family with experts",
        at_least=2,
        at_most=4096,
        on_resume="fixed",
    )
    experts_per_token: int | None = setting(
        None,
        "Number of experts that a token uses.",
        if_omitted=f"{FROM_PRESET}, or two",
        at_least=1,
        on_resume="fixed",
    )
    d_expert: int | None = setting(
        None,
        "Width of the feed-forward layer of one expert.",
        if_omitted=f"{FROM_PRESET}, or --d-ff divided by --experts-per-token",
        at_least=1,
        on_resume="fixed",
    )
    dense_layers: int | None = setting(
        None,
        "Number of first blocks with one feed-forward layer of width --d-ff instead of experts.",
        if_omitted=FROM_PRESET,
        at_least=0,
        on_resume="fixed",
    )


@dataclass(frozen=True)
class StepConfig(Checked):
    """Length. The size of a training step, and when training ends."""

    seq_len: int = setting(
        ModelConfig.seq_len,
        "Context length in tokens.",
        at_least=2,
        at_most=LONGEST_CONTEXT,
        on_resume="fixed",
    )
    batch_size: int | None = setting(
        None,
        "Sequences per micro-batch.",
        with_preset=16,
        recipe="1,024 to 4,096 tokens per step, by size",
        at_least=1,
    )
    grad_accumulation_steps: int | None = setting(
        None,
        "Micro-batches per optimizer step; the update is that of one large batch, in a mixture of experts nearly so.",
        with_preset=1,
        recipe="1",
        at_least=1,
    )
    max_epochs: float | None = setting(
        None,
        "Maximum passes over the training data.",
        with_preset_words="10 if no limit is given",
        recipe="10 where the time allows more",
        above=0,
        at_most=1e6,
        on_resume="announced",
    )
    max_steps: int | None = setting(
        None,
        "Maximum number of optimizer steps.",
        if_omitted="no limit",
        at_least=1,
        on_resume="announced",
    )
    patience: int | None = setting(
        None,
        "Stop after this many evaluations without a lower validation loss.",
        if_omitted="no limit",
        at_least=1,
    )


@dataclass(frozen=True)
class OptimizerConfig(Checked):
    """Optimizer. How the weights are updated."""

    optimizer: Optimizer | None = setting(
        None,
        "AdamW, or Muon for matrices and AdamW for the other weights.",
        with_preset="adamw",
        recipe="muon",
        on_resume="fixed",
    )
    learning_rate: float | None = setting(
        None,
        "Peak learning rate of AdamW.",
        with_preset=3e-4,
        recipe="0.04",
        above=0,
        at_most=1,
        on_resume="announced",
    )
    muon_learning_rate: float | None = setting(
        None,
        "Peak learning rate of Muon.",
        with_preset=0.02,
        recipe="0.017 for 2,048 tokens per step, more for more",
        above=0,
        at_most=1,
        on_resume="announced",
    )
    schedule: Schedule | None = setting(
        None,
        "Learning rate after the warm-up: cosine decay to the minimum, or constant and then linear decay.",
        with_preset="cosine",
        recipe="linear",
        on_resume="announced",
    )
    warmup_steps: int | None = setting(
        None,
        "Steps of linear warm-up.",
        with_preset_words="2% of the run, at most 2,000",
        recipe="10",
        at_least=0,
        on_resume="announced",
    )
    min_learning_rate_ratio: float | None = setting(
        None,
        "Final learning rate as a fraction of the peak.",
        with_preset=0.1,
        recipe="0",
        at_least=0,
        at_most=1,
        on_resume="announced",
    )
    weight_decay: float | None = setting(
        None,
        "Decoupled weight decay of matrices and embeddings; biases and norms have none.",
        with_preset=0.1,
        recipe="0.03 (0.3 from 1.2 passes over the text on, 0.5 from 5 on)",
        at_least=0,
        on_resume="announced",
    )
    beta1: float = setting(
        0.9,
        "AdamW: decay rate of the mean gradient.",
        at_least=0,
        below=1,
        on_resume="announced",
    )
    beta2: float | None = setting(
        None,
        "AdamW: decay rate of the mean squared gradient.",
        with_preset=0.95,
        recipe="0.99",
        at_least=0,
        below=1,
        on_resume="announced",
    )
    max_grad_norm: float = setting(
        1.0, "Gradients are clipped to this global norm.", above=0, on_resume="announced"
    )
    dropout: float = setting(
        0.0,
        "Probability that training zeroes an activation of the residual stream, against overfitting.",
        at_least=0,
        below=1,
        on_resume="announced",
    )
    aux_loss: float = setting(
        0.01,
        "Factor of the loss that spreads the tokens over the experts of a mixture; without effect with --lora-rank.",
        at_least=0,
        at_most=100,
        on_resume="announced",
    )
    z_loss: float = setting(
        0.001,
        "Factor of the loss that keeps the logits of a mixture's router small; without effect with --lora-rank.",
        at_least=0,
        at_most=100,
        on_resume="announced",
    )
    on_spike: OnSpike = setting(
        "warn",
        "If the loss or gradient norm of a step is far above the recent ones: warn and apply the step, skip it, or "
        "skip it and stop.",
        on_resume="announced",
    )


@dataclass(frozen=True)
class LoraConfig(Checked):
    """LoRA. Train small adapters of a trained model, and leave its own weights as they are."""

    lora_rank: int | None = setting(
        None,
        "Rank of the adapters, such as 8. The model itself is frozen then, which takes about half the memory.",
        if_omitted="the whole model is trained",
        at_least=1,
        at_most=65_536,
        on_resume="fixed",
    )
    lora_alpha: float | None = setting(
        None,
        "Strength of the adapters: their product is multiplied by it and divided by the rank.",
        if_omitted="twice the rank",
        above=0,
        at_most=1e6,
        on_resume="fixed",
    )
    lora_targets: str | None = setting(
        None,
        "Matrices with adapters: all, attention, or names such as q_proj,v_proj.",
        if_omitted="all matrices of the blocks",
        on_resume="fixed",
    )


@dataclass(frozen=True)
class MachineConfig(Checked):
    """Machine. Engine, precision, memory and threads."""

    engine: EngineName = setting(
        "auto",
        "Framework to train with, on the GPU if it finds one; auto: MLX on Apple silicon, PyTorch elsewhere.",
    )
    precision: Precision = setting(
        "auto",
        "Precision of the computation; weights and optimizer moments are float32 unless --memory is low.",
        on_resume="announced",
    )
    compile: Literal["auto", "on", "off"] = setting(
        "auto",
        "Compiled kernels; auto: if a compiler is available and the run is long enough to benefit.",
        on_resume="announced",
    )
    memory: Memory = setting(
        "full",
        "low: weights, gradients and means of the optimizer in bfloat16, and --gradient-checkpointing, for models that "
        "do not fit otherwise; PyTorch only.",
        on_resume="fixed",
    )
    gradient_checkpointing: bool = setting(
        False, "Use less memory for activations, at about a third more computation."
    )
    auto_batch: bool = setting(
        False,
        "Choose the largest micro-batch that fits into memory, and the number of micro-batches that keeps the "
        "size of a step. A resumed run keeps the choice if it fits.",
    )
    shard: Literal["auto", "none", "full"] = setting(
        "auto",
        "If several ranks train together: `full` divides weights and gradients among them, `none` leaves a whole model "
        "on each; auto: full if a step does not fit otherwise. Optimizer moments are always divided.",
    )
    threads: int | None = setting(
        None, "CPU threads; if omitted, one per usable processor.", at_least=1, at_most=1024
    )


@dataclass(frozen=True)
class RecordConfig(Checked):
    """Records. What is printed and saved during training."""

    log_interval: int | None = setting(
        None,
        "Steps between metrics.",
        with_preset=10,
        with_preset_words="10, or a tenth of a run of less than 100 steps",
        recipe="every 51,200 tokens, or a tenth of a shorter run",
        at_least=1,
    )
    eval_interval: int | None = setting(
        None,
        "Steps between evaluations.",
        with_preset=500,
        with_preset_words="500, or up to ten times in a run of less than 5,000 steps",
        recipe="up to ten times in a run",
        at_least=1,
    )
    eval_tokens: int | None = setting(
        None,
        "Maximum tokens of the validation text per evaluation, always the same ones. If it changes on resume, the best "
        "weights are measured again.",
        with_preset=200_000,
        with_preset_words="200,000, and 4,096 to 65,536 in a short run",
        recipe="200,000, and 4,096 to 65,536 in a short run; with --init-from as many as take 1% of the time",
        at_least=1,
        on_resume="announced",
    )
    sample_interval: int | None = setting(
        None,
        "Steps between sample texts.",
        with_preset=500,
        recipe="up to ten times in a run",
        at_least=1,
    )
    sample_prompts: tuple[str, ...] = setting(
        ("Once upon a time", "The cat", "In space"), "Prompts of the sample texts."
    )
    save_interval: int = setting(
        1000,
        "Steps between checkpoints; a run also saves every five minutes and at its end.",
        at_least=1,
    )
    keep: int = setting(
        3,
        "Number of checkpoints to keep, besides the best: the newest ones; older ones are deleted.",
        at_least=1,
    )
    track: tuple[str, ...] = setting(
        (),
        "Trackers that also get the records; each needs its package. `off`: a resumed run is not tracked any more.",
        if_omitted="none",
    )
    tokens_dir: PathName = setting(
        TOKENS_DIR, "Folder for the tokens of texts, which later runs use again."
    )


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
    omitted (size, optimizer, learning rate, batch, schedule) is chosen for your data and your --time-budget."""

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
    --reward: the folder, the records, --resume and all other settings are the same."""

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
        "Plan for so many GPUs or machines of this kind that train together.",
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
