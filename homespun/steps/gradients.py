"""A loss flows in, its gradients come out as NumPy arrays, alone or added up over several batches.

They can be looked at, clipped and changed, and go back in through the optimizer.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from homespun.config import TrainConfig
from homespun.config.checked import checked, shown
from homespun.engine.base import Floats
from homespun.errors import UserError
from homespun.steps.trainable_model import Accumulated, Gradients, Loss, TrainableModel, last_model


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
        loss = last_model()._last_loss
        assert loss is not None
    gradients = compute_gradients(loss)
    model, batch = loss.model, loss.batch
    assert batch is not None
    if model._accumulated is None:
        model._accumulated = Accumulated(model.steps)
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
    (model or last_model())._accumulated = None
