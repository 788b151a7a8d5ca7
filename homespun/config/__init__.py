"""Every setting of every command, once: flag, help, type, default, bounds, and whether a resumed run may change it.

A frozen dataclass per command. Flags, TOML files and Python fill these, and all are held to the same; what a run
resolved them to is stored in its checkpoints. Preset < TOML file < flag.
"""

from dataclasses import dataclass
from typing import Literal

from homespun.config.checked import Checked, seconds, setting
from homespun.errors import UserError

Optimizer = Literal["adamw", "muon"]
Schedule = Literal["cosine", "linear"]
OnSpike = Literal["warn", "skip", "stop"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
EngineName = Literal["auto", "torch", "mlx"]
ReaderName = Literal["auto", "torch", "mlx", "numpy"]

LONGEST_CONTEXT = 1 << 17
"""Tokens. A file may claim any length, and the tables of rotary positions are made for it before anything is read."""


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The shape of a model: all that is needed, with the weights, to run it."""

    architecture: str
    """The name of its family; `architectures.families.model_config` checks the shape against it."""
    vocab_size: int = setting(50257, at_least=2)
    seq_len: int = setting(256, at_least=2, at_most=LONGEST_CONTEXT)
    """The context: the number of positions the model was trained for."""
    n_layers: int = setting(8, at_least=1, at_most=10_000)
    d_model: int = setting(512, at_least=2)
    n_heads: int = setting(8, at_least=1)
    n_kv_heads: int = setting(8, at_least=1)
    head_dim: int = setting(64, at_least=1)
    d_ff: int = setting(2048, at_least=1)
    tie_embeddings: bool = True
    norm_eps: float = setting(1e-5, above=0, at_most=1)
    rope_theta: float = setting(10000.0, at_least=1, at_most=1e9)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_heads % self.n_kv_heads:
            raise UserError(
                f"{self.n_heads} attention heads cannot share {self.n_kv_heads} key/value heads: "
                "--n-heads has to be a multiple of --n-kv-heads"
            )


@dataclass(frozen=True)
class DownloadConfig(Checked):
    """Fetch a dataset and write it as one local text file."""

    dataset: str = "roneneldan/TinyStories"
    """A dataset of the Hugging Face hub with a text column (owner/name or owner/name:subset), `stories` for the
    built-in ones (no network needed), or a local file or folder of .txt, .jsonl or .parquet."""
    num_samples: int | None = setting(None, at_least=1)
    """How many documents to take; without it 10,000, or all of a local file."""
    output: str | None = None
    """Where to write; without it data/NAME_N.txt (or NAME_all.txt)."""
    seed: int = setting(0, at_least=0)
    """For the built-in stories: which ones."""


@dataclass(frozen=True)
class TokenizerConfig(Checked):
    """Train a byte-level BPE tokenizer on the training side of the data."""

    data_file: str | None = None
    """Text to learn from; without it the last download."""
    vocab_size: int = setting(8000, at_least=257, at_most=1_000_000)
    """Number of tokens: 256 bytes, the end-of-text mark, and what is learned."""
    output_dir: str = "tokenizer_model"
    """Folder for the tokenizer."""


@dataclass(frozen=True)
class ShapeConfig(Checked):
    """The shape of the model; with --model-size, what differs from it."""

    vocab_size: int | None = setting(None, at_least=257, on_resume="fixed")
    """Has to agree with the tokenizer; for a tokenizer trained by the way, its size."""
    architecture: str | None = setting(None, on_resume="fixed")
    """The kind of block."""
    n_layers: int | None = setting(None, at_least=1, at_most=10_000, on_resume="fixed")
    """Number of blocks."""
    n_heads: int | None = setting(None, at_least=1, on_resume="fixed")
    """Attention heads."""
    n_kv_heads: int | None = setting(None, at_least=1, on_resume="fixed")
    """Key/value heads, shared by groups of heads (qwen3)."""
    d_model: int | None = setting(None, at_least=2, on_resume="fixed")
    """Width of the model."""
    d_ff: int | None = setting(None, at_least=1, on_resume="fixed")
    """Width inside the feed-forward layers."""


@dataclass(frozen=True)
class StepConfig(Checked):
    """How much text a step takes, and when the run ends."""

    seq_len: int = setting(256, at_least=2, at_most=LONGEST_CONTEXT, on_resume="fixed")
    """Tokens of context per sample."""
    batch_size: int | None = setting(None, at_least=1)
    """Sequences per micro-batch (16 with a preset)."""
    grad_accumulation_steps: int | None = setting(None, at_least=1)
    """Micro-batches per optimizer step; the same update as one big batch."""
    max_epochs: float | None = setting(None, above=0, at_most=1e6, on_resume="announced")
    """Passes over the training data."""
    max_steps: int | None = setting(None, at_least=1, on_resume="announced")
    """Optimizer steps."""
    patience: int | None = setting(None, at_least=1)
    """Stop after this many evaluations without a better validation loss."""


@dataclass(frozen=True)
class OptimizerConfig(Checked):
    """How the weights move."""

    optimizer: Optimizer | None = setting(None, on_resume="fixed")
    """AdamW, or Muon for the matrices with AdamW for the rest."""
    learning_rate: float | None = setting(None, above=0, at_most=1, on_resume="announced")
    """Peak rate of AdamW (3e-4 with a preset)."""
    muon_learning_rate: float | None = setting(None, above=0, at_most=1, on_resume="announced")
    """Peak rate of Muon."""
    schedule: Schedule | None = setting(None, on_resume="announced")
    """After the warm-up: cosine to the minimum, or constant and then linear to it."""
    warmup_steps: int | None = setting(None, at_least=0, on_resume="announced")
    """Steps of linear warm-up (with a preset 2% of the run, at most 2,000)."""
    min_learning_rate_ratio: float | None = setting(
        None, at_least=0, at_most=1, on_resume="announced"
    )
    """Rate at the end, as a share of the peak (0.1 with a preset)."""
    weight_decay: float | None = setting(None, at_least=0, on_resume="announced")
    """Decoupled decay of matrices and embeddings (0.1 with a preset); biases and norms have none."""
    beta1: float = setting(0.9, at_least=0, below=1, on_resume="announced")
    """AdamW: decay of the mean of the gradients."""
    beta2: float | None = setting(None, at_least=0, below=1, on_resume="announced")
    """AdamW: decay of the mean of their squares (0.95 with a preset)."""
    max_grad_norm: float = setting(1.0, above=0, on_resume="announced")
    """Gradients with a larger global norm are scaled down to it."""
    dropout: float = setting(0.0, at_least=0, below=1, on_resume="announced")
    """Share of the numbers in the stream that a training step sets to zero, against overfitting."""
    on_spike: OnSpike = setting("warn", on_resume="announced")
    """A step whose loss or gradient norm is far above the recent ones: say so, refuse it, or refuse it and stop."""


@dataclass(frozen=True)
class MachineConfig(Checked):
    """What computes, and how."""

    engine: EngineName = "auto"
    """What computes: MLX on Apple silicon, PyTorch elsewhere (auto)."""
    precision: Precision = setting("auto", on_resume="announced")
    """What is computed in; weights and moments are always float32."""
    compile: Literal["auto", "on", "off"] = setting("auto", on_resume="announced")
    """Compiled kernels; auto: where they are worth the wait and there is a compiler."""
    gradient_checkpointing: bool = False
    """Less memory for activations, about a third more computing."""
    threads: int | None = setting(None, at_least=1, at_most=1024)
    """CPU threads; without it one per core."""


@dataclass(frozen=True)
class RecordConfig(Checked):
    """What is shown and saved on the way."""

    log_interval: int | None = setting(None, at_least=1)
    """Steps between two lines of metrics (10 with a preset)."""
    eval_interval: int | None = setting(None, at_least=1)
    """Steps between two evaluations (500 with a preset); without it up to ten in a run."""
    eval_tokens: int = setting(200_000, at_least=1, on_resume="announced")
    """At most this many tokens of the validation text, always the same ones."""
    sample_interval: int | None = setting(None, at_least=1)
    """Steps between two rounds of sample texts (500 with a preset); without it up to ten in a run."""
    sample_prompts: tuple[str, ...] = ("Once upon a time", "The cat", "In space")
    """What the sample texts begin with."""
    save_interval: int = setting(1000, at_least=1)
    """Steps between two checkpoints."""
    keep: int = setting(3, at_least=1)
    """Checkpoints that are kept, beside the best."""


@dataclass(frozen=True)
class TrainConfig(RecordConfig, MachineConfig, OptimizerConfig, StepConfig, ShapeConfig):
    """Train a model. With --model-size the settings are the usual ones; without it, everything that you leave open
    (size, optimizer, rate, batch, schedule) is chosen for your data and --time-budget."""

    data_file: str | None = None
    """Text to train on (.txt, .jsonl, .parquet, or a folder of them); without it the last download."""
    time_budget: str | None = setting(None, on_resume="announced")
    """Training time, such as 90s, 20m or 3h; where --max-epochs or --max-steps ends first, that counts."""
    model_size: str | None = setting(None, on_resume="fixed")
    """A preset: see `homespun models`."""
    checkpoint_dir: str = "checkpoints"
    """Folder of the run: checkpoints, metrics.jsonl, plot."""
    resume: Literal["never", "latest", "auto"] = setting("never", alone="latest")
    """--resume goes on where the newest checkpoint stands; --resume auto starts afresh where there is none."""
    tokenizer_path: str | None = None
    """Tokenizer folder; without it the last one trained, and where there is none, one is trained on the data."""
    seed: int = setting(0, at_least=0, on_resume="fixed")
    """For initial weights, the order of the samples, dropout, and the texts sampled on the way."""
    config: str | None = None
    """A TOML file with any of these settings (underscores for dashes); flags win over it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.time_budget is not None:
            seconds(self.time_budget)


@dataclass(frozen=True)
class SamplingConfig(Checked):
    """How the next token is drawn."""

    max_tokens: int = setting(200, at_least=1)
    """Length of the continuation in tokens; a model's end-of-text mark ends it earlier."""
    temperature: float = setting(0.8, at_least=0)
    """0: always the likeliest token; 1: the model's own distribution."""
    top_k: int | None = setting(None, at_least=1)
    """Draw from the k likeliest tokens."""
    top_p: float = setting(1.0, above=0, at_most=1)
    """Draw from the smallest set of tokens with this much probability."""
    min_p: float = setting(0.2, at_least=0, at_most=1)
    """Leave out tokens below this share of the likeliest one's probability."""
    repetition_penalty: float = setting(1.0, above=0)
    """Above 1: tokens that have occurred become less likely."""
    seed: int | None = setting(None, at_least=0)
    """The same seed gives the same text."""
    stop: tuple[str, ...] = ()
    """Texts that end the continuation; they are not printed."""


@dataclass(frozen=True)
class LoadConfig(Checked):
    """A trained model, and what it runs on."""

    checkpoint: str | None = None
    """The model: one .npz file, or the folder of a run; without it the best of the last run in `checkpoints`."""
    engine: ReaderName = "auto"
    """What computes; auto: for models up to 100 M weights NumPy, which starts at once and is fast, else what trains
    here."""
    precision: Precision = "auto"
    """What is computed in; NumPy computes in float32."""
    threads: int | None = setting(None, at_least=1, at_most=1024)
    """CPU threads; without it one per core with PyTorch, with NumPy as many as are faster, up to four."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine == "numpy" and self.precision not in ("auto", "float32"):
            raise UserError(
                "--engine numpy computes in float32: leave --precision out, or choose another engine"
            )


@dataclass(frozen=True)
class GenerateConfig(LoadConfig, SamplingConfig):
    """Continue a prompt with a trained model."""

    prompt: str | None = None
    """Text to continue; without it the model begins by itself."""
    num_samples: int = setting(1, at_least=1, at_most=1024)
    """How many continuations."""
    interactive: bool = False
    """Ask for prompts until you leave."""

    tokenizer_path: str | None = None
    """Not needed, the checkpoint holds its tokenizer; if given, it has to be the same one."""
    model_size: str | None = None
    """Not needed, the checkpoint knows its shape; if given, it has to agree."""


@dataclass(frozen=True)
class JudgeConfig(LoadConfig, SamplingConfig):
    """Let a model that learned from the built-in stories write some, and check each for contradictions."""

    num_samples: int = setting(50, at_least=1, at_most=100_000)
    """How many stories."""

    min_p: float = setting(0.3, at_least=0, at_most=1)
    """Leave out tokens less likely than this share of the likeliest: stories are so regular that they are mistakes."""
    max_tokens: int = setting(400, at_least=1)
    """Length at which a story that has not ended is cut off."""
    seed: int | None = setting(0, at_least=0)
    """The same seed gives the same stories."""


@dataclass(frozen=True)
class ModelsConfig(Checked):
    """List the presets: parameters, cost of a token, memory of training."""

    vocab_size: int = setting(50257, at_least=2)
    """Tokens in the vocabulary."""
    batch_size: int = setting(16, at_least=1)
    """Sequences per micro-batch."""
    seq_len: int = setting(256, at_least=2)
    """Tokens of context."""


@dataclass(frozen=True)
class DoctorConfig(Checked):
    """Check this machine: whether it computes what it should, and how fast."""

    engine: bool = False
    """Hold the engines against NumPy and each other, and time a training step; about two minutes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.engine:
            raise UserError("say what is to be checked: homespun doctor --engine")


@dataclass(frozen=True)
class VerifyConfig(Checked):
    """Check every byte of a checkpoint, a run, tokens, a tokenizer or a download."""

    path: str
    """A file, or the folder of a run, of tokens (data/tokens/...) or of a tokenizer."""
