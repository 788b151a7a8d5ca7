"""TensorBoard: event files in the folder of the run, written with TensorBoard's own package, without a framework."""

import json
import shlex
import time
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from homespun.records.tracking import TrackedRun


class Tracker:
    """Numbers as scalars, samples and advice as texts, and the settings as hyperparameters."""

    takes_back = True

    def __init__(self, run: TrackedRun) -> None:
        folder = str(run.folder / "tensorboard")
        self.place = f"tensorboard --logdir {shlex.quote(folder)}"
        self.writer = EventFileWriter(folder)
        self.complete_to = -1 if run.last_step is None else run.last_step
        # TensorBoard drops the points of earlier files after that step: they are sent again.
        start = SessionLog(status=SessionLog.START)
        self.writer.add_event(Event(step=self.complete_to + 1, session_log=start))
        if run.last_step is None:
            settings = dict(_flat(run.settings))
            hyperparameters = hparams_pb(settings, trial_id=run.id)
            self.writer.add_event(Event(wall_time=time.time(), summary=hyperparameters))
            self.text(0, "settings", _table(settings))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._add(step, [Summary.Value(tag=name, simple_value=v) for name, v in values.items()])

    def text(self, step: int, name: str, text: str) -> None:
        tensor = TensorProto(
            dtype=DT_STRING, string_val=[text.encode()], tensor_shape=TensorShapeProto()
        )
        plugin = SummaryMetadata.PluginData(plugin_name="text")
        metadata = SummaryMetadata(plugin_data=plugin)
        self._add(step, [Summary.Value(tag=name, metadata=metadata, tensor=tensor)])

    def summary(self, step: int, values: Mapping[str, Any]) -> None:
        self.text(step, "summary", _table(values))

    def close(self, *, failed: bool) -> None:
        self.writer.close()

    def _add(self, step: int, values: list[Any]) -> None:
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self.writer.add_event(event)
        self.writer.flush()


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Settings without groups, in types that TensorBoard takes."""
    flat = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{name}/")
        else:
            simple = isinstance(value, bool | int | float | str)
            flat.append((prefix + name, value if simple else json.dumps(value)))
    return flat


def _table(values: Mapping[str, Any]) -> str:
    """A table in Markdown."""
    rows = [f"| {name} | {value} |" for name, value in values.items()]
    return "\n".join(["| | |", "| --- | --- |", *rows])
