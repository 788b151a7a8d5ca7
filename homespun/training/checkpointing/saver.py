"""A run at a step flows in; its checkpoints and best weights come out, written in the background."""

from itertools import islice
from pathlib import Path

from homespun.architectures.lora import trained_parameters
from homespun.checkpoint.names import BEST
from homespun.checkpoint.writer import CheckpointWriter
from homespun.errors import DiskFullError
from homespun.records.metrics import MetricsLog
from homespun.training.checkpointing.position import Position
from homespun.training.run import Run


class Saver:
    """Saves a run together with the length of its metrics, to which a resumed run cuts them back."""

    def __init__(
        self, run: Run, position: Position, writer: CheckpointWriter, metrics: MetricsLog
    ) -> None:
        self._run, self._position, self._writer, self._metrics = run, position, writer, metrics
        self._n_weights = len(trained_parameters(run.model, run.lora))
        self._told: tuple[int, Path] | None = None
        self.saved_at: int | None = position.step
        """The step that was saved last; None where the position has changed since then."""
        self._resumed_at = position.step or None

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self._writer.folder.path

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint that is complete on the disk; None if there is none."""
        return self._writer.saved[0] if self._writer.saved else self._resumed_at

    @property
    def best(self) -> Path:
        """The file of the best weights."""
        return self.folder / BEST[0]

    def newest_before(self, step: int) -> int | None:
        """The newest step before this one that has a complete checkpoint, if there is one."""
        return self._writer.folder.newest_before(step)

    @property
    def seconds_to_save(self) -> float:
        """Duration of the last save."""
        return self._writer.seconds_to_save

    def save(self, elapsed: float) -> None:
        """Begin to write a checkpoint of this moment, `elapsed` seconds after the beginning of the run."""
        position = self._position
        self.saved_at = position.step
        try:
            metrics_length = self._metrics.sync()
        except DiskFullError as error:
            self._writer.no_room(error)
            return
        position.elapsed_seconds = elapsed
        state = self._run.engine.state()
        self._writer.save(
            position.step,
            islice(state, self._n_weights),
            state,  # the moments follow
            self._run.header,
            {
                "position": position.stored(),
                "metrics_length": metrics_length,
                "metrics_sha256": self._metrics.sha256,
            },
        )

    def save_best(self, val_loss: float, elapsed: float) -> None:
        """Begin to write the weights, the best so far, with the position of the run. In a run with a reward, `val_loss`
        is minus that."""
        self._position.elapsed_seconds = elapsed
        header = {
            **self._run.header,
            "val_loss": val_loss,
            "position": self._position.stored(),
        }
        weights = islice(self._run.engine.state(), self._n_weights)
        self._writer.save_best(self._position.step, weights, header)

    def completed(self) -> tuple[int, Path] | None:
        """Step and file of a checkpoint that has been completed since the last call.

        Raises:
            UserError: a save has failed.
        """
        self._writer.check()
        saved, told = self._writer.saved, self._told
        self._told = saved
        return None if saved is told else saved

    def wait(self) -> None:
        """Wait for the running save. Raises as `CheckpointWriter.wait`."""
        self._writer.wait()

    def finish(self) -> None:
        """Wait for the last save. Raises as `CheckpointWriter.finish`."""
        self._writer.finish()
