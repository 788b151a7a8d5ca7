"""Token ids flow in, logits and a loss that remembers its batch come out, of a model that can be updated.

The weights and the moments are in the engine that trains a run, so that the same batches give the same numbers.
"""

import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, overload

import numpy as np
import numpy.typing as npt

from homespun.architectures.lora import trained_parameters
from homespun.checkpoint.archive import write_archive
from homespun.config.checked import PathName, checked
from homespun.data.batch import Batch
from homespun.engine.base import Engine, Floats
from homespun.errors import UserError
from homespun.language_model import LanguageModel
from homespun.model_formats.stored_model import StoredModel, header_of

Gradients = dict[str, Floats]
"""An array for each parameter, by its name, in the parameter's shape."""


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


@dataclass
class Accumulated:
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
        self._optimizer: object | None = None
        """The one that updated it last, whose moments are in the engine."""
        self._accumulated: Accumulated | None = None

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


def last_model() -> TrainableModel:
    model = _last() if _last else None
    if model is None:
        raise UserError("no model has computed a loss yet: call it with inputs and targets first")
    return model
