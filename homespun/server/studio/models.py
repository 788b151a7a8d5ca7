"""A folder flows in; the models below it flow out, by names that the page can choose from, loaded when needed."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homespun.checkpoint.names import BEST, OF_THE_START, STEP_FILE
from homespun.config import ReaderConfig, TrainConfig
from homespun.errors import UserError
from homespun.language_model import load_stored
from homespun.model_formats.formats import open_model
from homespun.model_formats.stored_model import StoredModel
from homespun.server.answers import FieldError
from homespun.server.limits import Limits
from homespun.server.writing import Service

MOST_REMEMBERED = 1000
"""Models of which it is remembered whether they answer."""

Kind = Literal["best", "step", "model"]
_Version = tuple[str, int, int]
"""The path of a model, and the time and the size of its file."""


class Loaded:
    """A model in memory. All that it computes is done by the thread of its batcher. It stays there while it is lent:
    `with models.lent(path) as loaded`."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.model = service.model
        self.batcher = service.batcher
        self._n_borrowers = 0
        self._lock = threading.Lock()
        """Held for moments alone: models are given back by the thread that answers all requests."""

    def lend(self) -> "Loaded":
        with self._lock:
            self._n_borrowers += 1
        return self

    def __enter__(self) -> "Loaded":
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_borrowers -= 1

    @property
    def is_lent(self) -> bool:
        return self._n_borrowers > 0


@dataclass(frozen=True)
class Found:
    """A model on disk that may be chosen. Only its name has been looked at."""

    path: str
    """Relative to the folder of the studio."""
    run: str
    """The folder that it is in, relative as well; "" for that of the studio."""
    kind: Kind
    """The best weights of a run, one of its checkpoints, or another model."""
    step: int | None
    """Of a checkpoint."""

    @property
    def label(self) -> str:
        """The model in words."""
        place = self.run or "this folder"
        if self.kind == "best":
            return f"{place}: best"
        if self.kind == "step":
            return f"{place}: step {self.step:,}"
        return self.path


class Models:
    """The models below a folder. Safe to use from several threads."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder = folder
        self.limits = limits or Limits()
        self._loaded: OrderedDict[_Version, Loaded] = OrderedDict()
        self._templates: OrderedDict[_Version, bool] = OrderedDict()
        self._lock = threading.Lock()

    def found(self) -> list[Found]:
        """All models, those of the run that `homespun train` writes first; best weights before checkpoints, and of
        these the newest first."""
        found = [model for folder in self._folders() for model in self._models_in(folder)]
        last = TrainConfig.checkpoint_dir

        def place(model: Found) -> tuple[bool, str, int, int, str]:
            kinds = ("best", "step", "model")
            return (
                *(model.run != last, model.run, kinds.index(model.kind)),
                *(-(model.step or 0), model.path),
            )

        return sorted(found, key=place)

    def with_template(self) -> list[tuple[Found, bool]]:
        """All models, each with whether it has learned to answer. One model of a run stands for all of them."""
        runs: dict[str, bool] = {}
        told = []
        for model in self.found():
            if model.kind == "model":
                answers = self._has_template(model.path)
            else:  # a damaged file does not speak for its run
                answers = runs.get(model.run) or self._has_template(model.path)
                runs[model.run] = answers
            told.append((model, answers))
        return told

    def _has_template(self, path: str) -> bool:
        """Whether a model has a chat template. One that cannot be read has none."""
        try:
            key = _version(path, self.folder / path)
            if key not in self._templates:
                self._templates[key] = self.stored(path).chat_template is not None
                if len(self._templates) > MOST_REMEMBERED:
                    self._templates.popitem(last=False)
            return self._templates[key]
        except (OSError, UserError):
            return False

    def run_of(self, path: str) -> list[Found]:
        """The checkpoints of the run that a model belongs to, by step, and its best weights at the end.

        Raises:
            FieldError: the model does not belong to a run.
        """
        chosen = next((model for model in self.found() if model.path == path), None)
        if chosen is None or chosen.kind == "model":
            raise FieldError("model", f"{path} is no checkpoint of a run below this folder")
        own = [
            model for model in self._models_in(self.folder / chosen.run) if model.kind != "model"
        ]
        return sorted(own, key=lambda model: (model.kind == "best", model.step or 0))

    def stored(self, path: str) -> StoredModel:
        """A model that is not loaded: its description, and its tensors on disk.

        Raises:
            FieldError: there is no such model below the folder.
            UserError: it is damaged, or not supported.
        """
        return open_model(self._below(path), report=lambda message: None)

    def lent(self, path: str) -> Loaded:
        """A model, ready to be used until the end of a `with` block. The last ones stay in memory, see `Limits.models`,
        each as long as its file is the same; one that is lent is never taken out of it.

        Raises as `stored`.
        """
        file = self._below(path)
        with self._lock:
            try:
                key = _version(path, file)
            except OSError:  # its run has just removed it
                raise _no_model() from None
            loaded = self._loaded.pop(key, None)
            if loaded is None:
                model = load_stored(self.stored(path), ReaderConfig())
                self._make_room()
                loaded = Loaded(Service(model, path, self.limits))
            self._loaded[key] = loaded
            return loaded.lend()

    def _make_room(self) -> None:
        """Give up the models that were not used for the longest time, for one more. Nobody borrows one meanwhile."""
        for key in [key for key, loaded in self._loaded.items() if not loaded.is_lent]:
            if len(self._loaded) < self.limits.models:
                return
            self._loaded.pop(key).batcher.close()

    def _below(self, path: str) -> Path:
        """The file or folder of this name, if it is below the folder, links included."""
        try:
            file = (self.folder / path).resolve()
            if path and file.is_relative_to(self.folder) and file.exists():
                return file
        except (OSError, ValueError):
            pass
        raise _no_model()

    def _folders(self) -> Iterator[Path]:
        """This folder and those below it that may hold models. Links and hidden folders are left out."""
        for number, (name, inner, _) in enumerate(os.walk(self.folder)):
            folder = Path(name)
            depth = len(folder.relative_to(self.folder).parts)
            if number >= self.limits.searched:
                return
            seen = depth < self.limits.depth
            inner[:] = sorted(
                one for one in inner if seen and one.isprintable() and not one.startswith(".")
            )
            yield folder

    def _models_in(self, folder: Path) -> Iterator[Found]:
        """The models in one folder."""
        try:
            all_names = (file.name for file in folder.iterdir())
            names = sorted(name for name in all_names if name[0] != "." and name.isprintable())
        except OSError:
            return
        run = folder.relative_to(self.folder).as_posix()
        run = "" if run == "." else run

        def found(kind: Kind, name: str, step: int | None = None) -> Found:
            return Found((Path(run) / name).as_posix(), run, kind, step)

        if best := [name for name in BEST if name in names]:
            yield found("best", best[0])
        for name in names:
            if match := STEP_FILE.fullmatch(name):
                if match[2] is None:
                    yield found("step", name, int(match[1]))
            elif name.endswith((".npz", ".gguf")) and name not in (*BEST, *OF_THE_START):
                yield found("model", name)
        if run and "config.json" in names and any(name.endswith(".safetensors") for name in names):
            yield Found(run, run, "model", None)


def _version(path: str, file: Path) -> _Version:
    status = file.stat()
    return path, status.st_mtime_ns, status.st_size


def _no_model() -> FieldError:
    return FieldError("model", "there is no such model below this folder any more: choose another")
