"""A trained model from which a new run goes on flows in; its shape, its tokenizer and its weights come out."""

import dataclasses
from pathlib import Path

from homespun.architectures.lora import Lora
from homespun.config import TrainConfig
from homespun.config.checked import flag
from homespun.engine.base import Engine
from homespun.errors import UserError
from homespun.model_formats.formats import open_model
from homespun.model_formats.stored_model import StoredModel
from homespun.planning.recipe import SHAPE
from homespun.planning.resolved import ResolvedConfig
from homespun.terminal import Say
from homespun.training.checkpointing.resume import check_tokenizer_path


def initial_model(requested: TrainConfig, say: Say) -> StoredModel | None:
    """The model that `--init-from` names, if any.

    Raises:
        UserError: there is no such model, it is damaged, or a setting contradicts it.
    """
    if requested.init_from is None:
        return None
    path = Path(requested.init_from)
    if not path.exists():
        raise UserError(
            f"--init-from {path}: there is no such file or folder; `homespun import` fetches a model from the hub"
        )
    model = open_model(path, report=say)
    check_tokenizer_path(requested.tokenizer_path, model.tokenizer, str(path))
    _check_shape(requested, model)
    context, wanted = model.config.seq_len, requested.seq_len
    if wanted > context and wanted != TrainConfig.seq_len:
        raise UserError(
            f"--seq-len {wanted} is more than the context of {path}, {context} tokens: give at most {context}"
        )
    return model


def in_context(requested: TrainConfig, model: StoredModel, say: Say) -> TrainConfig:
    """The settings with training samples that are not longer than the context of a model."""
    context = model.config.seq_len
    if requested.seq_len <= context:
        return requested
    say(f"The training samples have {context} tokens, which is the context of {model.path}.")
    return dataclasses.replace(requested, seq_len=context)


def _check_shape(requested: TrainConfig, model: StoredModel) -> None:
    """Refuse settings of another shape.

    Raises:
        UserError: there are some.
    """
    keeps = f"--init-from {model.path} keeps its shape"
    if requested.model_size is not None:
        raise UserError(f"{keeps}: leave --model-size out")
    sizes = {model.config.vocab_size, model.tokenizer.vocab_size}
    if requested.vocab_size not in {None, *sizes}:
        raise UserError(f"{keeps}, with {model.config.vocab_size:,} tokens: leave --vocab-size out")
    for name in SHAPE:
        given, own = getattr(requested, name), getattr(model.config, name)
        if given not in (None, own):
            raise UserError(f"{keeps}: it has {flag(name)} {own}, not {given}; leave the flag out")


def own_settings(model: StoredModel) -> ResolvedConfig | None:
    """The settings of the run that trained a model; None for a model from elsewhere."""
    try:
        return ResolvedConfig(**model.header["resolved"])
    except (LookupError, TypeError, UserError):
        return None


def take_weights(engine: Engine, model: StoredModel, lora: Lora | None) -> None:
    """Load the weights of a model into the engine of its run; with LoRA, they are those that adapters belong to.

    Raises:
        UserError: a tensor is damaged, missing, or of another shape.
    """
    try:
        (engine.load if lora is None else engine.load_base)(model.tensors())
    except ValueError as error:
        raise UserError(f"{model.path} does not fit its own description: {error}") from error
