"""A trained model and its tokenizer, from any source of weights: logits, losses and text come out."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from homespun.architectures.families import count_parameters
from homespun.checkpoint.archive import Archive, CheckpointError, write_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.names import BEST
from homespun.checkpoint.opening import open_weights
from homespun.config import (
    ReaderConfig,
    ReaderName,
    ReaderPrecision,
    SamplingConfig,
    TrainConfig,
)
from homespun.config.checked import PathName, checked, settings_of, shown, takes_settings_of
from homespun.data.batch import IGNORED, Batch
from homespun.engine import select
from homespun.engine.base import Drawer, Floats, Reader
from homespun.engine.inside import Inside, Inspector
from homespun.errors import UserError
from homespun.generation.session import Continuation, Prompt, Session
from homespun.generation.speed import Speed
from homespun.model_formats.checkpoint import from_checkpoint
from homespun.model_formats.formats import open_model
from homespun.model_formats.stored_model import StoredModel, header_of
from homespun.model_formats.tokenizer_files import turn_end
from homespun.terminal import bar, counted, warn
from homespun.tokenizer import ChatTemplate, Message, check_messages
from homespun.tokenizer.messages import USER


def load(
    path: str | Path | None = None,
    *,
    engine: ReaderName = "auto",
    precision: ReaderPrecision = "auto",
    threads: int | None = None,
) -> "LanguageModel":
    """Load a trained model, ready to evaluate and generate.

    Args:
        path: a file of weights, or the folder of a run, of which the best weights are loaded; a Hugging Face or MLX
            folder; or a GGUF file. Without a path, the run in `checkpoints`; if it has no intact best weights, its
            newest checkpoint, with a note on standard error.
        engine: the library that computes; see `ReaderConfig`.
        precision: the number format of weights and computation; see `ReaderConfig`.
        threads: CPU threads.

    Raises:
        UserError: there is no model, it is damaged, or a setting is impossible.
    """
    named = None if path is None else checked("path", path, PathName)
    config = ReaderConfig(engine, precision, threads)
    if named is None:
        return load_stored(from_checkpoint(_default_weights()), config)
    return load_stored(open_model(Path(named), report=warn), config)


def load_stored(
    stored: StoredModel, config: ReaderConfig, *, generates: bool = True
) -> "LanguageModel":
    """Read the weights of a model into an engine.

    Args:
        generates: whether the model is to write text, rather than to score texts, for which another engine may be
            faster.

    Raises:
        UserError: a tensor is damaged, missing or of another shape, or the engine is not installed.
    """
    # Every model is trained with documents that do not see each other, so its losses are computed in this way, too.
    try:
        with bar(f"Loading {stored.path}", None):
            reader = select.reader(
                stored.config, config, document_mark=stored.tokenizer.eot_id, generates=generates
            )
            reader.load(stored.tensors())
    except ValueError as error:
        raise UserError(f"{stored.path} does not fit its own description: {error}") from error
    return LanguageModel(stored, reader)


def _default_weights() -> Archive:
    """The best weights of the last run, or its newest checkpoint.

    Raises:
        UserError: there are none, or not yet.
    """
    folder = CheckpointFolder(Path(TrainConfig.checkpoint_dir))
    try:
        archive = open_weights(folder.path, report=warn)
        archive.verify()
    except CheckpointError as error:
        newest = folder.latest(report=warn)
        if newest is None:
            folder.check_free()  # a run that is still active explains the missing weights
            raise
        archive, reason = newest.weights, str(error)
    else:
        reason = "the run has not been evaluated yet"
    if archive.path.name not in BEST:
        warn(f"{reason}; taking {archive.path}")
    return archive


class LanguageModel:
    """A trained model with its tokenizer."""

    def __init__(self, stored: StoredModel, reader: Reader) -> None:
        """`reader` already holds the weights of `stored`."""
        self.stored = stored
        self.config = stored.config
        self.tokenizer = stored.tokenizer
        self.engine = reader
        self.session = Session(
            reader.decoder,
            stored.tokenizer,
            stored.config.seq_len,
            [turn_end(stored)],
            reader.draw if isinstance(reader, Drawer) else None,
        )
        """The model as generation needs it."""

    def __repr__(self) -> str:
        c, kind = self.config, type(self).__name__
        return (
            f"<{kind} {self.stored.path}: {c.architecture}, {counted(c.n_layers, 'layer')} x {c.d_model}, "
            f"{count_parameters(c) / 1e6:.1f} M parameters, vocabulary {c.vocab_size:,}, context {c.seq_len:,}>"
        )

    @overload
    def __call__(self, tokens: npt.ArrayLike) -> Floats: ...
    @overload
    def __call__(self, tokens: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[Floats, float]: ...
    def __call__(
        self, tokens: npt.ArrayLike, targets: npt.ArrayLike | None = None
    ) -> Floats | tuple[Floats, float]:
        """Compute logits and, with targets, the loss, as in training: a document, which begins with the end-of-text
        token, does not see another one before it.

        Args:
            tokens: ids, [T] or [B, T], at most `config.seq_len` long.
            targets: the ids that follow each position, in the same shape; -1 where there is no target.

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
                f"targets are {list(np.shape(targets))}, tokens {list(ids.shape)}: give both the same shape"
            )
        follow = self._in_vocabulary("targets", np.asarray(targets), least=IGNORED)
        total, count = self.engine.loss(Batch(np.atleast_2d(ids), np.atleast_2d(follow)))
        return logits, total / max(1, count)

    @takes_settings_of(SamplingConfig)
    def generate(
        self, prompt: str | None = None, config: SamplingConfig | None = None, **settings: Any
    ) -> str:
        """Continue a prompt; returns the prompt with its continuation.

        Args:
            prompt: the beginning of the text; with None the model begins by itself.
            config: how tokens are drawn; `settings` replace some of it: max_tokens, temperature, seed, ...

        Raises:
            UserError: the prompt is empty, or longer than the context.
        """
        sampling = settings_of(SamplingConfig, config, settings)
        [written] = self.session.generate(prompt, sampling)
        return (prompt or "") + written.text

    @takes_settings_of(SamplingConfig)
    def continuations(
        self,
        prompt: str | None = None,
        config: SamplingConfig | None = None,
        num_samples: int = 1,
        **settings: Any,
    ) -> list[Continuation]:
        """Continue one prompt several times; each result has the text without the prompt, and how it ended.

        Raises:
            UserError: as `generate`.
        """
        return list(self.samples(prompt, config, num_samples, **settings))

    @takes_settings_of(SamplingConfig)
    def samples(
        self,
        prompt: str | None = None,
        config: SamplingConfig | None = None,
        num_samples: int = 1,
        *,
        speed: Speed | None = None,
        **settings: Any,
    ) -> Iterator[Continuation]:
        """As `continuations`; gives each sample as soon as it and those before it have ended. `speed` is filled in
        meanwhile.

        Raises:
            UserError: as `generate`; for the prompt when the first sample is requested.
        """
        sampling = settings_of(SamplingConfig, config, settings)
        count = checked("num_samples", num_samples, int, {"at_least": 1})
        return self.session.samples(prompt, sampling, count, speed)

    @takes_settings_of(SamplingConfig)
    def generate_batch(
        self,
        prompts: Iterable[Prompt],
        config: SamplingConfig | None = None,
        **settings: Any,
    ) -> list[Continuation]:
        """Continue several prompts of any length together, each as if it were alone, up to rounding. A list of ids is
        taken as the tokens of a prompt, as they are.

        Raises:
            UserError: as `generate`, for any of the prompts.
        """
        sampling = settings_of(SamplingConfig, config, settings)
        if isinstance(prompts, str) or not isinstance(prompts, Iterable):
            raise UserError(f"prompts is {shown(prompts)}: a list of texts is expected")
        return self.session.generate_batch(list(prompts), sampling)

    @cached_property
    def template(self) -> ChatTemplate:
        """The template of conversations: how messages become tokens.

        Raises:
            UserError: the model has none, or it cannot be used.
        """
        if template := self.stored.template():
            return template
        raise UserError(
            f"{self.stored.path} continues texts, and has not learned to answer: train it on conversations first, with "
            "--init-from"
        )

    @takes_settings_of(SamplingConfig)
    def chat(
        self,
        messages: str | Sequence[Message],
        config: SamplingConfig | None = None,
        **settings: Any,
    ) -> str:
        """Answer the last message of a conversation.

        Args:
            messages: a question, or a list of messages, each with `role` ("system", "user" or "assistant") and
                `content`. If they do not fit into the context, the oldest ones are left out, except the system's.
            config: how tokens are drawn; `settings` replace some of it: max_tokens, temperature, seed, ...

        Raises:
            UserError: the model has no template, or the messages break its rules or are too long.
        """
        return "".join(self.chat_stream(messages, config, **settings)).rstrip()

    @takes_settings_of(SamplingConfig)
    def chat_stream(
        self,
        messages: str | Sequence[Message],
        config: SamplingConfig | None = None,
        *,
        speed: Speed | None = None,
        **settings: Any,
    ) -> Iterator[str]:
        """As `chat`, piece by piece as the model writes. `speed` is filled in meanwhile."""
        sampling = settings_of(SamplingConfig, config, settings)
        ids = self.fitting(messages, sampling)[1]
        return _without_first_space(self.session.stream(ids, sampling, speed))

    def fitting(
        self, messages: str | Sequence[Message], sampling: SamplingConfig
    ) -> tuple[list[Message], list[int]]:
        """The newest messages that leave room for an answer in the context, and their tokens; raises as `chat`.

        Old messages are left out until there is room for `max_tokens` in the context, or for half of it. The last one
        may leave less, but not less than an eighth.
        """
        given = [{"role": USER, "content": messages}] if isinstance(messages, str) else messages
        checked_messages = check_messages(given, ends_with=USER)
        context, room = self.config.seq_len, sampling.max_tokens
        return self.template.fitting(
            checked_messages,
            limit=context - min(room, context // 2),
            most=context - min(room, context // 8),
        )

    @takes_settings_of(SamplingConfig)
    def stream(
        self,
        prompt: Prompt = None,
        config: SamplingConfig | None = None,
        *,
        speed: Speed | None = None,
        **settings: Any,
    ) -> Iterator[str]:
        """Continue a prompt, piece by piece as the model writes, without the prompt. `speed` is filled in meanwhile. A
        list of ids is taken as the tokens of a prompt, as they are.

        Raises:
            UserError: as `generate`, when the first piece is requested.
        """
        sampling = settings_of(SamplingConfig, config, settings)
        return self.session.stream(prompt, sampling, speed)

    def inspect(self, tokens: npt.ArrayLike) -> Inside:
        """Look inside a forward pass: the states between the layers, the attention of each head, the experts.

        Args:
            tokens: ids, [T], at most `config.seq_len` long. Memory grows with the square of T.

        Raises:
            UserError: the engine cannot show it: load the model with engine="numpy".
            ValueError: ids outside the vocabulary, or a shape that does not fit.
        """
        ids = self._ids(tokens)
        if ids.ndim != 1:
            raise ValueError(f"tokens are {list(ids.shape)}: [T] is required")
        return self._inspector.inspect(ids)

    def lens(self, hidden: npt.ArrayLike) -> Floats:
        """States [..., D] from `inspect`, such as `hidden[layer]`, -> logits [..., V], through last norm and head.

        After the last layer these are the model's logits; before, they show what the model would say if it ended there.

        Raises:
            UserError: as `inspect`.
            ValueError: the last axis is not as wide as the model.
        """
        states = np.array(
            hidden, dtype=np.float32
        )  # a copy, since compiled functions refuse read-only memory
        if not states.ndim or states.shape[-1] != self.config.d_model:
            raise ValueError(f"states are {list(states.shape)}: [..., {self.config.d_model}]")
        rows = states.reshape(-1, self.config.d_model)
        if not len(rows):
            return np.zeros((*states.shape[:-1], self.config.vocab_size), np.float32)
        return self._inspector.lens(rows).reshape(*states.shape[:-1], -1)

    @property
    def _inspector(self) -> Inspector:
        if isinstance(self.engine, Inspector):
            return self.engine
        raise UserError(
            f'the inside of {self.stored.path} cannot be seen in this engine: load it with engine="numpy"'
        )

    def save_weights(self, path: str | Path) -> None:
        """Write the model with its shape and tokenizer to one file, from which `load` reads it. The weights are those
        of the source, also if they were rounded to 16 or 8 bits for generation.

        Raises:
            UserError: the file cannot be written, or the source of rounded weights cannot be read again.
        """
        file, header = Path(checked("path", path, PathName)), header_of(self.stored)
        weights = self.stored.tensors() if self.engine.rounds_weights else self.engine.state()
        write_archive(file, weights, header, step=self.stored.step)

    def _ids(self, tokens: npt.ArrayLike) -> npt.NDArray[np.int32]:
        ids = np.asarray(tokens)
        if ids.ndim not in (1, 2) or not 0 < ids.shape[-1] <= self.config.seq_len or not ids.size:
            raise ValueError(
                f"tokens are {list(ids.shape)}: [T] or [B, T] with T from 1 to {self.config.seq_len} is required"
            )
        return self._in_vocabulary("tokens", ids, least=0)

    def _in_vocabulary(self, what: str, ids: npt.NDArray[Any], least: int) -> npt.NDArray[np.int32]:
        if ids.dtype.kind not in "iu" or ids.min() < least or ids.max() >= self.config.vocab_size:
            raise ValueError(
                f"{what} must be whole numbers from {least} to {self.config.vocab_size - 1}"
            )
        return ids.astype(np.int32)


def _without_first_space(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces of a text that begins with no white space."""
    begun = False
    for piece in pieces:
        text = piece if begun else piece.lstrip()
        if text:
            begun = True
            yield text
