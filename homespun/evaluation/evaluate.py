"""Models and a text flow in, a score for each model flows out: any model that `model_formats` opens, any text that
`data.documents` reads.

All models are scored on the same text, whatever their tokenizers. Documents do not see each other, as in training.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from homespun import workspace
from homespun.config import MAX_DEFAULT_CONTEXT, TOKENS_DIR, EvalConfig
from homespun.data.corpus import TooLittleText, survey
from homespun.data.documents import documents
from homespun.engine.base import OutOfMemory
from homespun.errors import UserError
from homespun.evaluation.scoring import Evaluator
from homespun.language_model import load_stored
from homespun.model_formats.formats import open_model
from homespun.model_formats.stored_model import StoredModel, learned_texts
from homespun.records.events import perplexity
from homespun.terminal import Say, bar
from homespun.tokenizer import Tokenizer

GROUP = 1 << 18
"""Characters that are tokenized together."""

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class EvalResult:
    """The score of a model on a text."""

    model: str
    """Its path."""
    text: str
    """Its path."""
    part: str
    """`all`, or `validation` if a model was trained on the rest of this text."""
    n_tokens: int
    """Tokens that were scored."""
    n_bytes: int
    """Bytes of text in them."""
    seq_len: int
    """Tokens in a window."""
    stride: int
    """Tokens between the beginnings of two windows; as `seq_len` if they do not overlap."""
    loss: float
    """Nats per token."""
    perplexity: float
    bits_per_byte: float
    """Comparable between tokenizers."""


@dataclass(frozen=True)
class _Text:
    """The text to score."""

    path: Path
    part: str
    n_bytes: int | None
    """None if it is not known."""
    documents: Callable[[], Iterator[str]]


def evaluate(config: EvalConfig, say: Say) -> Iterator[EvalResult]:
    """Score each model, one after the other.

    Args:
        config: the models, the text, and how to score.
        say: receives messages.

    Yields:
        The score of each model, as soon as it is known.

    Raises:
        UserError: a model or the text cannot be read, a setting does not fit a model, or memory does not suffice. The
            headers of all models are read before the first is scored.
    """
    models = [open_model(Path(path), report=say) for path in config.models]
    windows = [_window(config, model) for model in models]
    text = _chosen_text(config, models, say)
    streams = _streams(text, models, config.max_tokens, say)
    for path, model, window in zip(config.models, models, windows, strict=True):
        yield _score(config, path, model, window, text, streams[model.tokenizer.sha256])


def _window(config: EvalConfig, model: StoredModel) -> tuple[int, int]:
    """Length of the window of a model, and its stride.

    Raises:
        UserError: they are too large for the model.
    """
    context = model.config.seq_len
    seq_len = config.seq_len or min(context, MAX_DEFAULT_CONTEXT)
    if seq_len > context:
        raise UserError(f"--seq-len is {seq_len}, but the context of {model.path} is {context}")
    stride = max(1, seq_len // 2) if config.stride == "half" else config.stride or seq_len
    if stride > seq_len:
        raise UserError(
            f"--stride is {stride}, but a window of {model.path} has {seq_len} tokens: "
            "tokens between windows would be left out"
        )
    return seq_len, stride


def _chosen_text(config: EvalConfig, models: list[StoredModel], say: Say) -> _Text:
    """The text, or its validation part if a model was trained on the rest.

    Raises:
        UserError: there is no text, or it cannot be read.
    """
    path = workspace.chosen_data(config.data_file)
    folder = Path(TOKENS_DIR)
    try:
        corpus = survey(path, say, folder if folder.is_dir() else None)
    except TooLittleText:
        return _Text(path, "all", None, lambda: documents(path))
    if corpus.is_chat:
        raise UserError(
            f"{path} holds conversations: `homespun eval` scores text; a training run scores answers"
        )
    texts = {corpus.sha256, *(source.sha256 for source in corpus.sources)}
    trained = [str(model.path) for model in models if not texts.isdisjoint(learned_texts(model))]
    if not trained:
        return _Text(path, "all", corpus.n_bytes, lambda: documents(path))
    say(
        f"{' and '.join(trained)} learned from {path}: only the part that was held out for validation is scored."
    )
    return _Text(path, "validation", corpus.validation_bytes, corpus.validation)


def _streams(
    text: _Text, models: list[StoredModel], max_tokens: int | None, say: Say
) -> dict[str, Ids]:
    """The tokens of a text by tokenizer: of the whole text, or of the same beginning of it, up to a token.

    Raises:
        UserError: there is nothing to score.
    """
    tokenizers = {model.tokenizer.sha256: model.tokenizer for model in models}
    streams = {
        sha256: _tokenized(text, tokenizer, max_tokens) for sha256, tokenizer in tokenizers.items()
    }
    if min(map(len, streams.values())) < 2:
        raise UserError(f"{text.path}: too little text to score")
    ends = {sha256: _ends(ids, tokenizers[sha256]) for sha256, ids in streams.items()}
    is_cut = max_tokens is not None and max(map(len, streams.values())) > max_tokens + 1
    if is_cut:
        n_bytes = min(int(end[:max_tokens][-1]) for end in ends.values())
        for sha256, end in ends.items():
            n_targets = int(np.searchsorted(end[:max_tokens], n_bytes, side="right"))
            streams[sha256] = streams[sha256][: n_targets + 1]
        if min(map(len, streams.values())) < 2:
            raise UserError(f"--max-tokens {max_tokens} leaves nothing to score: give more")
        share = f", {n_bytes / text.n_bytes:.0%} of it" if text.n_bytes else ""
        say(
            f"Only the first {n_bytes:,} bytes of the text are scored{share}; --max-tokens off scores all of it."
        )
    if len(streams) > 1:
        say(
            "The tokenizers differ: compare bits per byte. Loss and perplexity are per token, and tokens differ."
        )
    return streams


def _ends(ids: Ids, tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """Bytes of text up to the end of each token but the first, [n_tokens - 1]."""
    return np.cumsum(tokenizer.byte_lengths[ids[1:]], dtype=np.int64)


def _tokenized(text: _Text, tokenizer: Tokenizer, max_tokens: int | None) -> Ids:
    """The tokens of a text. If there are more than `max_tokens` after the first, some of the rest may be missing."""
    parts: list[Ids] = []
    group: list[str] = []
    n_tokens = n_characters = 0
    with bar(f"Tokenizing {text.path}", text.n_bytes) as advance:
        for document in text.documents():
            group.append(document)
            n_characters += len(document)
            if n_characters >= GROUP:
                parts.append(tokenizer.join(group))
                n_tokens += len(parts[-1])
                advance(n_characters)
                group, n_characters = [], 0
                if max_tokens is not None and n_tokens > max_tokens + 1:
                    break
        parts.append(tokenizer.join(group))
    return np.concatenate(parts)


def _score(
    config: EvalConfig,
    path: str,
    stored: StoredModel,
    window: tuple[int, int],
    text: _Text,
    ids: Ids,
) -> EvalResult:
    """Load a model and score it.

    Raises:
        UserError: the weights are damaged, or memory does not suffice.
    """
    n_tokens = len(ids) - 1
    seq_len, stride = (min(length, n_tokens) for length in window)
    evaluator = Evaluator(
        ids,
        stored.tokenizer.byte_lengths,
        seq_len=seq_len,
        stride=stride,
        batch_size=config.batch_size,
    )
    model = load_stored(stored, config, generates=False)
    try:
        with bar(f"Scoring {path}", n_tokens) as advance:
            measured = evaluator(model.engine, advance)
    except OutOfMemory:
        raise UserError(
            f"out of memory with --batch-size {config.batch_size} and windows of {seq_len} tokens: choose a smaller "
            "--batch-size or --seq-len, or close other programs"
        ) from None
    return EvalResult(
        model=path,
        text=str(text.path),
        part=text.part,
        n_tokens=n_tokens,
        n_bytes=evaluator.n_bytes,
        seq_len=window[0],
        stride=window[1],
        loss=measured.loss,
        perplexity=perplexity(measured.loss),
        bits_per_byte=measured.bits_per_byte,
    )
