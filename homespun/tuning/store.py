"""The trials of a tune, in Optuna's database, so that a kill loses nothing and Optuna's own tools can read them."""

import contextlib
import math
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from homespun.errors import UserError
from homespun.tuning.sampling import distribution
from homespun.tuning.space import Dimension, Point

DATABASE = "study.db"


@dataclass
class Trial:
    """A trial so far."""

    name: str
    """Of its folder."""
    point: Point
    settings: dict[str, Any]
    """For `train`, without its folder."""
    losses: dict[int, float] = field(default_factory=dict)
    """Validation loss after so many tokens, in nats per token; infinite where the model was ruined."""
    error: str | None = None
    """The message of a trial that could not go on."""

    def loss_at(self, tokens: int) -> float | None:
        """The loss at a rung; infinite for a trial that failed, None where it has not arrived."""
        return math.inf if self.error and tokens not in self.losses else self.losses.get(tokens)


class Database:
    """The file of all studies of a tune."""

    def __init__(self, folder: Path) -> None:
        """Open the file, or make it.

        Raises:
            UserError: it cannot be read or written.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.path = folder / DATABASE
        with self.readable():
            # The address names only the kind of database: in it, some letters of a path would have a meaning.
            connect = partial(sqlite3.connect, self.path.resolve(), check_same_thread=False)
            self.storage = optuna.storages.RDBStorage(
                f"sqlite:///{DATABASE}", engine_kwargs={"creator": connect}
            )

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """Raise a UserError for an error of the database inside the block."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except (SQLAlchemyError, StorageInternalError) as error:
            reason = str(error.__cause__ or error).partition("\n")[0]
            raise UserError(
                f"{self.path} cannot be used ({reason}): make room, or move the folder of the tune away"
            ) from error


class Store:
    """A study in the database: the trials of the search, or the other seeds of the recipe."""

    def __init__(self, database: "Database", name: str, space: Sequence[Dimension]) -> None:
        """Open the study, or make it.

        Raises:
            UserError: the database cannot be read or written.
        """
        import optuna

        self._optuna = optuna
        self._space = {dimension.name: dimension for dimension in space}
        self._readable = database.readable
        with self._readable():
            self._study = optuna.create_study(
                study_name=name, storage=database.storage, direction="minimize", load_if_exists=True
            )
            self.trials = [
                Trial(
                    name=stored.user_attrs["folder"],
                    point=stored.user_attrs["point"],
                    settings=stored.user_attrs["settings"],
                    losses=dict(stored.intermediate_values),
                    error=stored.user_attrs.get("error"),
                )
                for stored in self._study.get_trials(deepcopy=False)
            ]

    def add(self, trial: Trial) -> None:
        """Begin a trial."""
        inside = {
            name: value
            for name, value in trial.point.items()
            if name in self._space and self._space[name].contains(value)
        }
        with self._readable():
            self._study.add_trial(
                self._optuna.trial.create_trial(
                    state=self._optuna.trial.TrialState.RUNNING,
                    params=inside,
                    distributions={name: distribution(self._space[name]) for name in inside},
                    user_attrs={
                        "folder": trial.name,
                        "point": trial.point,
                        "settings": trial.settings,
                    },
                )
            )
        self.trials.append(trial)

    def report(self, number: int, tokens: int, loss: float) -> None:
        """Keep the loss of a trial at a rung."""
        with self._readable():
            self._trial(number).report(loss, tokens)
        self.trials[number].losses[tokens] = loss

    def fail(self, number: int, message: str) -> None:
        """Keep the reason why a trial cannot go on."""
        with self._readable():
            self._trial(number).set_user_attr("error", message)
            self._study.tell(
                number, state=self._optuna.trial.TrialState.FAIL, skip_if_finished=True
            )
        self.trials[number].error = message

    def finish(self, number: int, total: int) -> None:
        """Close a trial: complete if it has the tokens of a whole run, else pruned."""
        trial, state = self.trials[number], self._optuna.trial.TrialState
        with self._readable():
            if trial.error is not None:
                self._study.tell(number, state=state.FAIL, skip_if_finished=True)
            elif total in trial.losses:
                self._study.tell(number, trial.losses[total], skip_if_finished=True)
            else:
                self._study.tell(number, state=state.PRUNED, skip_if_finished=True)

    def _trial(self, number: int) -> Any:
        stored = self._study.get_trials(deepcopy=False)[number]
        return self._optuna.trial.Trial(self._study, stored._trial_id)
