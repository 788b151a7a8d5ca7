"""The public functions: what the command line does, from a script or a notebook."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from homespun.checkpoint.archive import Archive, write_archive
from homespun.checkpoint.folder import open_weights
from homespun.config import ModelConfig, SamplingConfig, TrainConfig
from homespun.engine import select
from homespun.engine.base import IGNORED, Batch, Floats
from homespun.errors import UserError
from homespun.generation.generate import generate, stream
from homespun.tokenizer import Tokenizer
from homespun.training.loop import train as run_training
from homespun.training.position import TrainResult
from homespun.training.setup import find_checkpoint, requested_config


def train(config: TrainConfig | None = None, **settings: Any) -> TrainResult:
    """Train a model, as `homespun train` does.

    Args:
        config: the settings; `settings` replace some of them. Without it, a resumed run keeps its own.

    Raises:
        UserError: something that the user can mend: data, settings, folder, checkpoint.
        TypeError: a setting that does not exist.
    """
    wanted = dataclasses.replace(config or TrainConfig(), **settings)
    checkpoint = find_checkpoint(wanted, say=print)
    if checkpoint and config is None:
        place = {"checkpoint_dir": wanted.checkpoint_dir, "resume": wanted.resume}
        wanted = dataclasses.replace(requested_config(checkpoint), **{**settings, **place})
    return run_training(wanted, checkpoint, say=print)


def load(
    path: str | Path, *, engine: str = "auto", precision: str = "auto", threads: int | None = None
) -> "LanguageModel":
    """A trained model, ready to evaluate and generate.

    Args:
        path: a file of weights, or the folder of a run, of which the best weights are taken.

    Raises:
        UserError: there is none, or it is damaged.
    """
    archive = open_weights(Path(path), report=print)
    try:
        config = ModelConfig(**archive.header["model"])
        tokenizer = Tokenizer.from_json(archive.header["tokenizer"], where=str(path))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{archive.path} does not say what model it holds ({error}): name another file"
        ) from None
    return LanguageModel(
        archive, config, tokenizer, engine=engine, precision=precision, threads=threads
    )


class LanguageModel:
    """A trained model with its tokenizer."""

    def __init__(
        self,
        archive: Archive,
        config: ModelConfig,
        tokenizer: Tokenizer,
        *,
        engine: str,
        precision: str,
        threads: int | None,
    ) -> None:
        self.archive = archive
        self.config = config
        self.tokenizer = tokenizer
        self.engine = select.create(
            config, name=engine, precision=precision, threads=threads, seed=None
        )
        try:
            self.engine.load(archive.tensors())
        except ValueError as error:
            raise UserError(f"{archive.path} does not fit its own description: {error}") from error

    @overload
    def __call__(self, tokens: npt.ArrayLike) -> Floats: ...
    @overload
    def __call__(self, tokens: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[Floats, float]: ...
    def __call__(
        self, tokens: npt.ArrayLike, targets: npt.ArrayLike | None = None
    ) -> Floats | tuple[Floats, float]:
        """Logits, and with targets the loss.

        Args:
            tokens: ids, [T] or [B, T], at most `config.seq_len` long.
            targets: the ids that follow each position, in the same shape; -1 where nothing is asked.

        Returns:
            logits [T, V] or [B, T, V]; with targets also the mean loss in nats per valid target.

        Raises:
            ValueError: ids outside the vocabulary, or a shape that does not fit.
        """
        ids = self._ids(tokens)
        logits = self.engine.logits(np.atleast_2d(ids)).reshape(*ids.shape, -1)
        if targets is None:
            return logits
        if np.shape(targets) != ids.shape:
            raise ValueError(
                f"targets are {list(np.shape(targets))}, tokens {list(ids.shape)}: they have to agree"
            )
        follow = self._in_vocabulary("targets", np.asarray(targets), least=IGNORED)
        total, count = self.engine.loss(Batch(np.atleast_2d(ids), np.atleast_2d(follow)))
        return logits, total / max(1, count)

    def generate(self, prompt: str | None = None, **sampling: Any) -> str:
        """The prompt and what the model makes of it.

        Args:
            prompt: what the text begins with; None lets the model begin.
            sampling: any setting of `SamplingConfig`: max_tokens, temperature, top_k, seed, ...

        Raises:
            UserError: the prompt is empty, or longer than the context.
        """
        config = SamplingConfig(**sampling)
        written = generate(
            self.engine.decoder, self.tokenizer, prompt, config, context=self.config.seq_len
        )
        return (prompt or "") + written[0].text

    def stream(self, prompt: str | None = None, **sampling: Any) -> Iterator[str]:
        """As `generate`, without the prompt, piece by piece as it is written."""
        config = SamplingConfig(**sampling)
        return stream(
            self.engine.decoder, self.tokenizer, prompt, config, context=self.config.seq_len
        )

    def save_weights(self, path: str | Path) -> None:
        """Write the model to one file, with its shape and tokenizer: all that `load` needs."""
        write_archive(Path(path), self.engine.state(), self.archive.header, step=self.archive.step)

    def _ids(self, tokens: npt.ArrayLike) -> npt.NDArray[np.int32]:
        ids = np.asarray(tokens)
        if ids.ndim not in (1, 2) or not 0 < ids.shape[-1] <= self.config.seq_len or not ids.size:
            raise ValueError(
                f"tokens are {list(ids.shape)}: [T] or [B, T] with T from 1 to {self.config.seq_len} are needed"
            )
        return self._in_vocabulary("tokens", ids, least=0)

    def _in_vocabulary(self, what: str, ids: npt.NDArray[Any], least: int) -> npt.NDArray[np.int32]:
        if ids.dtype.kind not in "iu" or ids.min() < least or ids.max() >= self.config.vocab_size:
            raise ValueError(
                f"{what} have to be whole numbers from {least} to {self.config.vocab_size - 1}"
            )
        return ids.astype(np.int32)
