"""Names flow in, the models that are measured flow out: presets, and shapes for which others have published a speed."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from homespun.architectures.families import count_parameters
from homespun.architectures.presets import PRESETS, preset, shaped
from homespun.config import BenchConfig, ModelConfig
from homespun.errors import UserError

QUICK = ("pico", "tiny")
"""The presets of a short measurement."""


@dataclass(frozen=True)
class Published:
    """A speed of training that others have published."""

    tokens_per_second: float
    machine: str
    source: str
    n_layers: int
    d_model: int
    n_heads: int
    vocab_size: int
    seq_len: int
    batch_size: int

    def model(self) -> ModelConfig:
        """The model here that is nearest: as many weights in each block, in three matrices with a gate instead of two,
        and no embeddings of values."""
        sizes = {
            name: getattr(self, name)
            for name in ("n_layers", "d_model", "n_heads", "vocab_size", "seq_len")
        }
        return shaped(preset("mini"), {**sizes, "d_ff": round(8 * self.d_model / 3 / 16) * 16})


PUBLISHED: dict[str, Published] = {
    "nanochat-d6": Published(
        45_500,
        "M3 Max",
        "github.com/karpathy/nanochat, runs/runcpu.sh: 5,000 steps of 16,384 tokens in about 30 minutes",
        n_layers=6,
        d_model=384,
        n_heads=6,
        vocab_size=32_768,
        seq_len=512,
        batch_size=32,
    ),
    "autoresearch-d2": Published(
        65_000,
        "M3 with 8 GB",
        "github.com/SingggggYee/autoresearch-mlx, README: 3.5 M parameters, 8,192 tokens a step",
        n_layers=2,
        d_model=128,
        n_heads=1,
        vocab_size=8_192,
        seq_len=2_048,
        batch_size=4,
    ),
}


@dataclass(frozen=True)
class Subject:
    """A model to measure."""

    name: str
    model: ModelConfig
    batch_size: int
    """Sequences of a step."""
    optimizer: str
    published: Published | None = None


def chosen(config: BenchConfig) -> list[Subject]:
    """The models to measure, smallest first.

    Raises:
        UserError: a name is unknown.
    """
    names: Iterable[str] = config.model_size or (QUICK if config.quick else PRESETS)
    subjects = [_subject(name, config) for name in dict.fromkeys(names)]
    return sorted(subjects, key=lambda subject: count_parameters(subject.model))


def _subject(name: str, config: BenchConfig) -> Subject:
    if name in PUBLISHED:
        published = PUBLISHED[name]
        return Subject(name, published.model(), published.batch_size, "muon", published)
    if name not in PRESETS:
        known = [*PRESETS, *PUBLISHED]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        meant = f"did you mean {close[0]}? Or " if close else ""
        raise UserError(
            f"--model-size '{name}' is unknown: {meant}choose one of {', '.join(known)}"
        )
    model = shaped(PRESETS[name], {"vocab_size": config.vocab_size, "seq_len": config.seq_len})
    return Subject(name, model, config.batch_size, config.optimizer)
