"""A folder flows in; the models below it flow out, by names that the page can choose from, loaded when needed."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homespun.checkpoint.folder import BEST, OF_THE_START, STEP_FILE
from homespun.config import ReaderConfig, TrainConfig
from homespun.generation.batching import Batcher
from homespun.language_model import LanguageModel, load_stored
from homespun.model_formats.formats import open_model
from homespun.model_formats.stored_model import StoredModel
from homespun.server.answers import FieldError
from homespun.server.limits import Limits
from homespun.server.writing import limited_batcher

MOST_LOADED = 3
"""Models that stay in memory: two side by side, and one to change to."""
MOST_FOLDERS = 2000
MOST_DEPTH = 4
"""Folders that are searched for models, and how deep: a studio that was started in a home folder still answers."""

Kind = Literal["best", "step", "model"]


@dataclass(frozen=True)
class Loaded:
    """A model in memory. All that it computes is done by the thread of its batcher."""

    model: LanguageModel
    batcher: Batcher

    @property
    def is_idle(self) -> bool:
        return not self.batcher.n_running and not self.batcher.n_waiting


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
        self._loaded: OrderedDict[tuple[str, int, int], Loaded] = OrderedDict()
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

    def loaded(self, path: str) -> Loaded:
        """A model, ready to be used. The last `MOST_LOADED` stay in memory, each as long as its file is the same; one
        that is writing is never taken out of it.

        Raises as `stored`.
        """
        file = self._below(path)
        with self._lock:
            status = file.stat()
            key = (path, status.st_mtime_ns, status.st_size)
            loaded = self._loaded.pop(key, None)
            if loaded is None:
                model = load_stored(self.stored(path), ReaderConfig())
                self._make_room()
                loaded = Loaded(model, limited_batcher(model, self.limits))
            self._loaded[key] = loaded
            return loaded

    def _make_room(self) -> None:
        """Give up the models that were not used for the longest time, for one more."""
        for key in [key for key, loaded in self._loaded.items() if loaded.is_idle]:
            if len(self._loaded) < MOST_LOADED:
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
        raise FieldError(
            "model", "there is no such model below this folder any more: choose another"
        )

    def _folders(self) -> Iterator[Path]:
        """This folder and those below it that may hold models. Links and hidden folders are left out."""
        for number, (name, inner, _) in enumerate(os.walk(self.folder)):
            folder = Path(name)
            depth = len(folder.relative_to(self.folder).parts)
            inner[:] = sorted(one for one in inner if not one.startswith(".")) * (
                depth < MOST_DEPTH
            )
            if number >= MOST_FOLDERS:
                return
            yield folder

    def _models_in(self, folder: Path) -> Iterator[Found]:
        """The models in one folder."""
        try:
            names = sorted(file.name for file in folder.iterdir() if file.name[0] != ".")
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
