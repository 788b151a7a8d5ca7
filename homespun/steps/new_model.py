"""A preset or a trained model flows in, a model that can be trained step by step flows out.

It has the initial weights of a run of `homespun train`, in the engine of such a run.
"""

from pathlib import Path
from typing import Any

from homespun.architectures.presets import PRESETS, preset, shaped
from homespun.config import EngineName, Precision, TrainConfig
from homespun.config.checked import PathName, checked, takes_settings_of
from homespun.config.shape import ShapeConfig
from homespun.data.known_tokenizers import main_tokenizers
from homespun.engine import select
from homespun.errors import UserError
from homespun.model_formats.formats import open_model
from homespun.model_formats.stored_model import StoredModel
from homespun.planning.recipe import SHAPE
from homespun.planning.resolved import ResolvedConfig
from homespun.steps.trainable_model import TrainableModel
from homespun.terminal import warn
from homespun.tokenizer import Tokenizer
from homespun.training.fine_tuning.initial_model import take_weights
from homespun.training.stages import engine_options


@takes_settings_of(ShapeConfig)
def new_model(
    model_size: str | None = None,
    tokenizer: Tokenizer | str | Path | None = None,
    *,
    init_from: str | Path | None = None,
    seq_len: int | None = None,
    seed: int = TrainConfig.seed,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    threads: int | None = None,
    **shape: Any,
) -> "TrainableModel":
    """Make a model that can be trained step by step, with the initial weights of a run of `homespun train`.

    Args:
        model_size: a preset; `shape` replaces some of it: n_layers, d_model, ...
        tokenizer: a tokenizer, or its folder; by default the last one that was trained here.
        init_from: go on from a trained model instead, which keeps its shape and its tokenizer: anything that
            `homespun.load` reads.
        seq_len: context length in tokens; by default that of `homespun train`.
        seed: of the initial weights.
        engine: the framework that computes, as for `homespun.train`; also `precision` and `threads`.

    Raises:
        UserError: there is no such size, shape, tokenizer or model, or the framework is not installed.
    """
    settings: dict[str, Any] = {
        "seq_len": TrainConfig.seq_len if seq_len is None else seq_len,
        "seed": seed,
        "engine": engine,
        "precision": precision,
    }
    unknown = sorted(shape.keys() - ShapeConfig.__dataclass_fields__.keys())
    if unknown:
        raise UserError(
            f"unknown setting {unknown[0]}: a new model has model_size, tokenizer, init_from, threads, "
            f"{', '.join([*settings, *ShapeConfig.__dataclass_fields__])}"
        )
    config = ResolvedConfig(**settings, **shape, threads=threads, model_size=model_size)
    if init_from is not None:
        if shape or any(x is not None for x in (model_size, tokenizer, seq_len)):
            raise UserError(
                "init_from keeps the model's own shape and tokenizer: leave model_size, tokenizer, seq_len and "
                "settings of the shape out"
            )
        stored = open_model(Path(checked("init_from", init_from, PathName)), report=warn)
    else:
        stored = _described(config, _tokenizer(tokenizer))
    made = select.create(
        stored.config,
        engine_options(config, stored.tokenizer.eot_id, compiled=False),
        name=config.engine,
    )
    if init_from is not None:
        take_weights(made, stored, None)
    return TrainableModel(stored, made)


def _tokenizer(given: Tokenizer | str | Path | None) -> Tokenizer:
    if isinstance(given, Tokenizer):
        return given
    if given is not None:
        return Tokenizer.load(checked("tokenizer", given, PathName))
    there = main_tokenizers()
    if not there:
        raise UserError(
            "there is no tokenizer yet: train one with homespun.train_tokenizer(), or name one with tokenizer=..."
        )
    return Tokenizer.load(there[0])


def _described(config: ResolvedConfig, tokenizer: Tokenizer) -> StoredModel:
    """A model with initial weights, which are in the engine alone."""
    if config.model_size is None:
        raise UserError(f"a new model needs a model_size: choose one of {', '.join(PRESETS)}")
    if config.vocab_size not in (None, tokenizer.vocab_size):
        raise UserError(
            f"vocab_size is {config.vocab_size:,}, but the tokenizer has {tokenizer.vocab_size:,} tokens: leave "
            "vocab_size out"
        )
    given = {name: getattr(config, name) for name in (*SHAPE, "seq_len")}
    shape = shaped(preset(config.model_size), given | {"vocab_size": tokenizer.vocab_size})
    return StoredModel(Path(config.model_size), shape, tokenizer, lambda: iter(()), header={})
