"""The training step in single parts, to type and to change: model, loss, gradients, clipping, AdamW, schedule.

Token ids flow in, a trained model comes out. All of it is computed by the engine that trains a run, so that the same
batches give the same numbers as `homespun train`. Gradients come out as NumPy arrays and go back in.
"""

import functools
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt

from homespun.architectures.lora import trained_parameters
from homespun.architectures.presets import PRESETS, preset, shaped
from homespun.checkpoint.archive import write_archive
from homespun.config import EngineName, Precision, TrainConfig
from homespun.config.checked import PathName, checked, shown, takes_settings_of
from homespun.config.shape import ShapeConfig
from homespun.data.batch import Batch
from homespun.data.known_tokenizers import main_tokenizers
from homespun.engine import select
from homespun.engine.base import Engine, Floats, OptimizerSettings
from homespun.errors import UserError
from homespun.language_model import LanguageModel
from homespun.model_formats.formats import open_model
from homespun.model_formats.stored_model import StoredModel, header_of
from homespun.planning.recipe import SHAPE
from homespun.planning.resolved import ResolvedConfig
from homespun.terminal import warn
from homespun.tokenizer import Tokenizer
from homespun.training.fine_tuning.initial_model import take_weights
from homespun.training.schedule import RateCurve, rate_curve
from homespun.training.stages import engine_options

Gradients = dict[str, Floats]
"""An array for each parameter, by its name, in the parameter's shape."""


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


class Loss(float):
    """The mean loss of a batch in nats per token: a number that remembers its batch and its model.

    Numbers that are computed from it, such as `loss / 2`, are plain ones.
    """

    model: "TrainableModel"
    batch: Batch | None
    """None when the weights have changed since."""

    @classmethod
    def of(cls, value: float, model: "TrainableModel", batch: Batch) -> "Loss":
        loss = cls(value)
        loss.model, loss.batch = model, batch
        return loss


class TrainableModel(LanguageModel):
    """A model that `homespun.AdamW` can update. It computes, generates and saves at any time, with its present weights.

    Made by `homespun.new_model`.
    """

    engine: Engine

    def __init__(self, stored: StoredModel, engine: Engine) -> None:
        """`engine` already holds the weights."""
        super().__init__(stored, engine)
        self.steps = stored.step
        """Updates of the weights, with those before `init_from`."""
        self._losses: weakref.WeakValueDictionary[int, Loss] = weakref.WeakValueDictionary()
        """Losses that belong to the present weights, numbered."""
        self._last_loss: Loss | None = None
        self._optimizer: AdamW | None = None
        self._accumulated: _Accumulated | None = None

    @overload
    def __call__(self, tokens: npt.ArrayLike) -> Floats: ...
    @overload
    def __call__(self, tokens: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[Floats, Loss]: ...
    def __call__(
        self, tokens: npt.ArrayLike, targets: npt.ArrayLike | None = None
    ) -> Floats | tuple[Floats, Loss]:
        """Compute logits and, with targets, the loss, from which `compute_gradients` goes on.

        Arguments, results and errors are those of `LanguageModel`.
        """
        global _last
        if targets is None:
            return super().__call__(tokens)
        logits, value = super().__call__(tokens, targets)
        batch = Batch(np.array(tokens, np.int32, ndmin=2), np.array(targets, np.int32, ndmin=2))
        loss = Loss.of(value, self, batch)
        self._losses[id(loss)] = self._last_loss = loss
        _last = weakref.ref(self)
        return logits, loss

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter, by its name."""
        return {p.name: p.shape for p in trained_parameters(self.config, None)}

    def weights(self) -> dict[str, Floats]:
        """A copy of each parameter, by its name."""
        names = self.parameters
        return {name: cast(Floats, array) for name, array in self.engine.state() if name in names}

    def save_weights(self, path: str | Path) -> None:
        """Write the model with its shape and tokenizer to one file, from which `homespun.load` reads it.

        Raises:
            UserError: the file cannot be written.
        """
        file, names = Path(checked("path", path, PathName)), self.parameters
        weights = ((name, array) for name, array in self.engine.state() if name in names)
        write_archive(file, weights, header_of(self.stored), step=self.steps)

    def _updated(self) -> None:
        """The weights have changed, so that earlier losses have no gradients any more."""
        self.steps += 1
        for loss in self._losses.values():
            loss.batch = None
        self._losses.clear()


_last: "weakref.ref[TrainableModel] | None" = None
"""The model that computed the last loss, for functions that are called without arguments."""


def _last_model() -> TrainableModel:
    model = _last() if _last else None
    if model is None:
        raise UserError("no model has computed a loss yet: call it with inputs and targets first")
    return model


def compute_gradients(loss: Loss) -> Gradients:
    """The gradients of a loss, by the name of the parameter, as float32 arrays; nothing is updated.

    Args:
        loss: as the model gave it, computed with its present weights.

    Raises:
        UserError: it is another number, or the weights have changed since.
    """
    if not isinstance(loss, Loss):
        raise UserError(
            f"{shown(loss)} is not the loss that a model of homespun.new_model gives, and a number that was computed "
            "from a loss has no gradients: pass the loss itself"
        )
    if loss.batch is None:
        raise UserError(
            "the weights have changed since this loss was computed, so it has no gradients any more: call the model "
            "again, and update it after that"
        )
    return {name: cast(Floats, grad) for name, grad in loss.model.engine.gradients([loss.batch])}


def gradient_norm(gradients: Mapping[str, npt.ArrayLike]) -> float:
    """The global L2 norm: the root of the sum of all squares."""
    return math.sqrt(
        sum(float(np.square(array, dtype=np.float64).sum()) for array in gradients.values())
    )


def clip_gradients(
    grads: Mapping[str, npt.NDArray[Any]], max_norm: float = TrainConfig.max_grad_norm
) -> dict[str, npt.NDArray[Any]]:
    """Scale gradients down so that their global norm is at most `max_norm`; smaller ones stay as they are.

    Raises:
        UserError: `max_norm` is not a positive number.
    """
    norm = gradient_norm(grads)
    scale = checked("max_norm", max_norm, float, {"above": 0}) / norm if norm else 1.0
    return {name: grad * scale for name, grad in grads.items()} if scale < 1.0 else dict(grads)


@dataclass
class _Accumulated:
    """The gradients of several batches."""

    steps: int
    """Updates of the model before them."""
    sums: Gradients = field(default_factory=dict)
    """Each gradient times the targets of its batch."""
    n_targets: int = 0

    def add(self, gradients: Gradients, n_targets: int) -> None:
        for name, gradient in gradients.items():
            self.sums[name] = self.sums.get(name, 0.0) + gradient * np.float32(n_targets)
        self.n_targets += n_targets

    def mean(self) -> Gradients:
        return {name: total / np.float32(self.n_targets) for name, total in self.sums.items()}


def accumulate_gradients(loss: Loss | None = None) -> Gradients:
    """Add the gradients of a loss to those of its model since `reset_gradients`.

    Each batch counts by the number of its targets, so that the mean is the gradient of one large batch.

    Args:
        loss: by default the last one that a model gave.

    Returns:
        The mean so far, for `optimizer.update`; `optimizer.step` takes it without being given it.

    Raises:
        UserError: there is no loss, it has no gradients, or the accumulated ones belong to earlier weights.
    """
    if loss is None:
        loss = _last_model()._last_loss
        assert loss is not None
    gradients = compute_gradients(loss)
    model, batch = loss.model, loss.batch
    assert batch is not None
    if model._accumulated is None:
        model._accumulated = _Accumulated(model.steps)
    elif model._accumulated.steps != model.steps:
        raise UserError(
            "accumulate_gradients: the gradients from before the last update are still there: call reset_gradients() "
            "after optimizer.step()"
        )
    model._accumulated.add(gradients, max(1, batch.n_targets))
    return model._accumulated.mean()


def reset_gradients(model: TrainableModel | None = None) -> None:
    """Forget the accumulated gradients of a model, by default of the one that computed the last loss.

    Raises:
        UserError: no model has computed a loss yet.
    """
    (model or _last_model())._accumulated = None


class AdamW:
    """AdamW (Loshchilov and Hutter, 2019) for one model. Biases and norms have no weight decay.

    The weights and the moments are in the engine of the model. The first update binds the optimizer to its model.
    """

    def __init__(
        self,
        learning_rate: float | Callable[[int], float] = ResolvedConfig.learning_rate,
        betas: tuple[float, float] = (ResolvedConfig.beta1, ResolvedConfig.beta2),
        weight_decay: float = ResolvedConfig.weight_decay,
        eps: float = OptimizerSettings.eps,
    ) -> None:
        """
        Args:
            learning_rate: a number, or a function that gives it for the number of the update, from 1 on. It may be
                changed at any time.
            betas: decay rates of the mean gradient and of the mean squared gradient.
            weight_decay: decoupled from the gradient.
            eps: is added to the root of the mean squared gradient.

        Raises:
            UserError: a setting is out of its bounds.
        """
        self.learning_rate = learning_rate
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise UserError(
                f"betas is {shown(betas)}: two numbers are expected, such as (0.9, 0.95)"
            )
        beta1, beta2 = (checked("betas", b, float, {"at_least": 0, "below": 1}) for b in betas)
        self._settings = OptimizerSettings(
            name="adamw",
            weight_decay=checked("weight_decay", weight_decay, float, {"at_least": 0}),
            beta1=beta1,
            beta2=beta2,
            max_grad_norm=math.inf,
            eps=checked("eps", eps, float, {"above": 0}),
        )
        self.steps = 0
        """Updates so far."""
        self._model: weakref.ref[TrainableModel] | None = None
        """The model of the first update."""

    def __repr__(self) -> str:
        s = self._settings
        return (
            f"AdamW(learning_rate={self._rate!r}, betas=({s.beta1:g}, {s.beta2:g}), "
            f"weight_decay={s.weight_decay:g}, eps={s.eps:g})"
        )

    @property
    def learning_rate(self) -> float:
        """Of the next update. A number or a function can be assigned.

        Raises:
            UserError: it is not a number of at least 0.
        """
        rate = self._rate(self.steps + 1) if callable(self._rate) else self._rate
        return float(checked("learning_rate", rate, float, {"at_least": 0}))

    @learning_rate.setter
    def learning_rate(self, rate: float | Callable[[int], float]) -> None:
        if not callable(rate):
            checked("learning_rate", rate, float, {"at_least": 0})
        self._rate = rate

    def update(self, model: TrainableModel, grads: Mapping[str, npt.ArrayLike]) -> None:
        """Take one step: change the weights of the model by these gradients.

        Raises:
            UserError: the gradients do not fit the model or are not finite, or the optimizer belongs to another one.
        """
        if not isinstance(model, TrainableModel):
            raise UserError(
                f"{shown(model)} cannot be updated: homespun.new_model makes a model that can, also from a trained "
                "one (init_from=...)"
            )
        checked_grads = _fitting(grads, model)
        rate = self.learning_rate
        self._take_over(model)
        model.engine.update(checked_grads.items(), {"adamw": rate}, self._settings)
        self.steps += 1
        model._updated()

    def step(self) -> None:
        """Take one step with the gradients that `accumulate_gradients` has collected for its model; before its first
        update, this is the one that computed the last loss.

        Raises:
            UserError: there are none, or as `update`.
        """
        model = (self._model and self._model()) or _last_model()
        if model._accumulated is None:
            raise UserError(
                "optimizer.step: there are no gradients: call accumulate_gradients() after each loss"
            )
        self.update(model, model._accumulated.mean())

    def _take_over(self, model: TrainableModel) -> None:
        if model._optimizer is self:
            return
        if self.steps:
            raise UserError(
                "this optimizer has the moments of another model, or another optimizer has updated this model since: "
                "make a new AdamW"
            )
        if model._optimizer is not None:
            names = model.parameters
            model.engine.load(
                (name, array if name in names else np.zeros_like(array))
                for name, array in model.engine.state()
            )
        model._optimizer = self
        self._model = weakref.ref(model)


def _fitting(grads: Mapping[str, npt.ArrayLike], model: TrainableModel) -> Gradients:
    """The gradients in the form that the engine takes.

    Raises:
        UserError: they do not fit the model, or are not finite.
    """
    if not isinstance(grads, Mapping):
        raise UserError(f"gradients are {shown(grads)}: a dictionary of arrays by name is expected")
    shapes = model.parameters
    for name in (*shapes, *grads):
        if name not in shapes or name not in grads:
            problem = "missing" if name in shapes else "no parameter of this model"
            raise UserError(f"the gradients do not fit the model: {name} is {problem}")
    arrays = {name: np.asarray(grads[name], np.float32) for name in shapes}
    for name, array in arrays.items():
        if array.shape != shapes[name]:
            raise UserError(
                f"the gradient of {name} is {list(array.shape)}, and the parameter {list(shapes[name])}"
            )
        if not np.isfinite(array).all():
            raise UserError(
                f"the gradient of {name} is not finite, so nothing was updated: lower the learning rate, or look at "
                "the batch"
            )
    return arrays


def cosine_schedule(
    step: int,
    *,
    max_lr: float = ResolvedConfig.learning_rate,
    warmup_steps: int | None = None,
    total_steps: int,
    min_lr: float | None = None,
) -> float:
    """The learning rate of a step: a linear warm-up from 0 to `max_lr`, then a cosine decay to `min_lr`.

    Args:
        step: the number of the step, from 1 on; `homespun train` counts in the same way.
        max_lr: the peak.
        warmup_steps: by default as in a run, see `--warmup-steps`.
        total_steps: of the whole training.
        min_lr: by default as in a run, see `--min-learning-rate-ratio`.

    Raises:
        UserError: a number is out of its bounds.
    """
    peak = checked("max_lr", max_lr, float, {"above": 0})
    bounds = {"at_least": 0, "at_most": peak}
    least = None if min_lr is None else checked("min_lr", min_lr, float, bounds) / peak
    done = checked("step", step, int, {"at_least": 0})
    total = checked("total_steps", total_steps, int, {"at_least": 1})
    warm_up = checked("warmup_steps", warmup_steps, int | None, {"at_least": 0})
    curve = _cosine(total, warm_up, least)
    return float(peak * curve(done - 1, done / total))


@functools.lru_cache
def _cosine(total_steps: int, warmup_steps: int | None, least: float | None) -> RateCurve:
    ratio = ResolvedConfig.min_learning_rate_ratio if least is None else least
    config = ResolvedConfig(
        max_steps=total_steps, warmup_steps=warmup_steps, min_learning_rate_ratio=ratio
    )
    return rate_curve(config, {"max_steps": total_steps})
