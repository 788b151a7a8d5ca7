"""Gradients flow in, and AdamW changes the weights of the model in its engine.

Gradients that do not fit the model, or are not finite, are refused before anything is updated.
"""

import math
import weakref
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from homespun.config.checked import checked, shown
from homespun.engine.base import OptimizerSettings
from homespun.errors import UserError
from homespun.planning.resolved import ResolvedConfig
from homespun.steps.trainable_model import Gradients, TrainableModel, last_model


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
        model = (self._model and self._model()) or last_model()
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
