"""A trained model and its tokenizer, from any source of weights: logits, losses and text out."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from homespun.architectures.families import model_config, parameters
from homespun.checkpoint.archive import Archive, CheckpointError, write_archive
from homespun.checkpoint.folder import BEST, CheckpointFolder, open_weights
from homespun.config import (
    LoadConfig,
    ModelConfig,
    Precision,
    ReaderName,
    SamplingConfig,
    TrainConfig,
)
from homespun.config.checked import replaced
from homespun.data.batch import IGNORED, Batch
from homespun.engine import select
from homespun.engine.base import Floats, Reader
from homespun.errors import UserError
from homespun.generation.session import Continuation, generate, stream
from homespun.terminal import say
from homespun.tokenizer import Tokenizer


def load(
    path: str | Path | None = None,
    *,
    engine: ReaderName = "auto",
    precision: Precision = "auto",
    threads: int | None = None,
) -> "LanguageModel":
    """A trained model, ready to evaluate and generate.

    Args:
        path: a file of weights, or the folder of a run, of which the best weights are taken. Without it, those of
            the run in `checkpoints`; where it has none that are whole, its newest checkpoint, which is said on
            standard error.

    Raises:
        UserError: there is none, it is damaged, or a setting makes no sense.
    """
    wanted = LoadConfig(None if path is None else str(path), engine, precision, threads)
    archive = _usual_weights() if path is None else open_weights(Path(path), report=_warn)
    try:
        config = model_config(archive.header["model"])
        tokenizer = Tokenizer.from_json(archive.header["tokenizer"], where=str(archive.path))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{archive.path} does not say what model it holds ({error}): name another file"
        ) from None
    _check_shapes(archive, config)
    made = select.reader(config, wanted)
    try:
        made.load(archive.tensors())
    except ValueError as error:
        raise UserError(f"{archive.path} does not fit its own description: {error}") from error
    return LanguageModel(archive, config, tokenizer, made)


def _check_shapes(archive: Archive, config: ModelConfig) -> None:
    """Before memory is taken for what the file says of the model, make sure that it holds that much.

    Raises:
        UserError: it does not.
    """
    described = {p.name: p.shape for p in parameters(config)}
    found = {name: info.shape for name, info in archive.arrays.items()}
    for name in described.keys() | found.keys():
        if described.get(name) != found.get(name):
            raise UserError(
                f"{archive.path} does not fit its own description: {name} is {found.get(name)}, "
                f"not {described.get(name)}: name another file"
            )


def _usual_weights() -> Archive:
    """What `load` takes where no path is given.

    Raises:
        UserError: there is nothing, or not yet.
    """
    folder = CheckpointFolder(Path(TrainConfig.checkpoint_dir))
    try:
        archive = open_weights(folder.path, report=_warn)
        archive.verify()
    except CheckpointError as error:
        newest = folder.latest(report=_warn)
        if newest is None:
            folder.check_free()  # while a run is under way, that is the reason
            raise
        archive, reason = newest.weights, str(error)
    else:
        reason = "the run has not been evaluated yet"
    if archive.path.name not in BEST:
        _warn(f"{reason}; taking {archive.path}")
    return archive


def _warn(line: str) -> None:
    say(line, sys.stderr)


class LanguageModel:
    """A trained model with its tokenizer."""

    def __init__(
        self, archive: Archive, config: ModelConfig, tokenizer: Tokenizer, engine: Reader
    ) -> None:
        self.archive = archive
        self.config = config
        self.tokenizer = tokenizer
        self.engine = engine

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

    def generate(
        self, prompt: str | None = None, config: SamplingConfig | None = None, **settings: Any
    ) -> str:
        """The prompt and what the model makes of it.

        Args:
            prompt: what the text begins with; None lets the model begin.
            config: how tokens are drawn; `settings` replace some of it: max_tokens, temperature, seed, ...

        Raises:
            UserError: the prompt is empty, or longer than the context.
        """
        [written] = self.continuations(prompt, config, **settings)
        return (prompt or "") + written.text

    def continuations(
        self,
        prompt: str | None = None,
        config: SamplingConfig | None = None,
        num_samples: int = 1,
        **settings: Any,
    ) -> list[Continuation]:
        """As `generate`, several times, each without the prompt and with how it ended."""
        sampling = replaced(config or SamplingConfig(), settings)
        context = self.config.seq_len
        return generate(
            self.engine.decoder,
            self.tokenizer,
            prompt,
            sampling,
            context=context,
            num_samples=num_samples,
        )

    def stream(
        self, prompt: str | None = None, config: SamplingConfig | None = None, **settings: Any
    ) -> Iterator[str]:
        """As `generate`, without the prompt, piece by piece as it is written."""
        sampling = replaced(config or SamplingConfig(), settings)
        context = self.config.seq_len
        return stream(self.engine.decoder, self.tokenizer, prompt, sampling, context=context)

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
