"""A prompt in, its continuations out, as text that appears while it is generated.

The story is `_decode`: prefill the prompt, then draw a token for every sequence of the batch and
step, until all have ended. It runs on any engine's `Decoder`.

In training, every document begins with the end-of-text mark, so a prompt begins with it, too; the
mark alone makes the model start by itself.
"""

import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from homespun.config import SamplingConfig
from homespun.data.batch import Tokens
from homespun.engine.base import Decoder, Floats
from homespun.errors import UserError
from homespun.generation.sampler import Sampler
from homespun.tokenizer import Tokenizer

MAX_BATCH = 16
"""Sequences that are decoded together: a bound on the memory of the key/value cache."""

DecoderFactory = Callable[[int, int], Decoder]
"""(batch_size, max_len) -> a decoder with an empty cache: `Engine.decoder`."""

Finish = Literal["end", "length", "stop"]


@dataclass(frozen=True)
class Continuation:
    """What the model wrote after a prompt."""

    text: str
    """Without the prompt and without a stop string."""
    token_ids: tuple[int, ...]
    """All tokens drawn but the end-of-text mark; those of a stop string are among them."""
    finish: Finish
    """The model ended the text, it reached `max_tokens`, or a stop string came up."""


def generate(
    make_decoder: DecoderFactory,
    tokenizer: Tokenizer,
    prompt: str | None,
    config: SamplingConfig,
    *,
    context: int,
    num_samples: int = 1,
) -> list[Continuation]:
    """Continue `prompt` `num_samples` times.

    With a seed, sample i is the same however many there are. `context` is the number of positions
    that the model was trained for; a text may grow past it, see `_decode`.

    Raises:
        UserError: the prompt is empty, longer than the context or not valid text; a stop string is
            empty; or the model's output is not finite.
    """
    ids = prompt_ids(tokenizer, prompt, context)
    seed = _seed(config)
    continuations = []
    for first in range(0, num_samples, MAX_BATCH):
        samples = range(first, min(first + MAX_BATCH, num_samples))
        batch = [_Text(tokenizer, ids, config, seed, sample) for sample in samples]
        for _ in _decode(make_decoder, batch, context):
            pass
        continuations += [text.continuation() for text in batch]
    return continuations


def stream(
    make_decoder: DecoderFactory,
    tokenizer: Tokenizer,
    prompt: str | None,
    config: SamplingConfig,
    *,
    context: int,
) -> Generator[str, None, Continuation]:
    """One continuation of `prompt`, piece by piece; the generator's return value is the whole.

    Closing the generator stops the model.

    Raises:
        UserError: as `generate`, when the first piece is asked for.
    """
    text = _Text(tokenizer, prompt_ids(tokenizer, prompt, context), config, _seed(config))
    for _, piece in _decode(make_decoder, [text], context):
        yield piece
    return text.continuation()


def prompt_ids(tokenizer: Tokenizer, prompt: str | None, context: int) -> list[int]:
    """The end-of-text mark and the prompt's tokens.

    Raises:
        UserError: the prompt is empty, longer than the context, or not valid text.
    """
    if prompt is None:
        return [tokenizer.eot_id]
    if not prompt:
        raise UserError("the prompt is empty: leave --prompt out to let the model begin by itself")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the prompt is not valid UTF-8 from character {error.start + 1} on: "
            "check the encoding of the terminal"
        ) from None
    ids = [tokenizer.eot_id, *tokenizer.encode(prompt)]
    if len(ids) > context:
        raise UserError(
            f"the prompt is {len(ids)} tokens long (with the mark that begins a text), "
            f"the model's context is {context}: shorten the prompt"
        )
    return ids


def _seed(config: SamplingConfig) -> int:
    return secrets.randbits(64) if config.seed is None else config.seed


def _decode(
    make_decoder: DecoderFactory, batch: Sequence["_Text"], context: int
) -> Iterator[tuple[int, str]]:
    """Run sequences of one prompt until each has ended; yields (index in the batch, new text).

    When the cache is full, the older half of the text is forgotten: the last `context // 2` tokens
    are read again from position 0, and the text goes on. So the model only meets positions that it
    was trained for, and windows that begin amid a text, as its training samples do.
    """
    longest = len(batch[0].ids) + batch[0].config.max_tokens
    decoder = make_decoder(len(batch), min(context, longest))
    logits = decoder.prefill(_tokens([text.ids for text in batch]))
    while True:
        for index, text in enumerate(batch):
            if piece := text.extend(logits[index]):
                yield index, piece
        if all(text.finish for text in batch):
            return
        if decoder.length < context:
            logits = decoder.step(_tokens([text.ids[-1] for text in batch]))
        else:
            decoder.rewind(0)
            logits = decoder.prefill(_tokens([text.ids[-(context // 2) :] for text in batch]))


class _Text:
    """One sequence of a batch: what the model has read, and what of its writing is certain."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        config: SamplingConfig,
        seed: int,
        sample: int = 0,
    ) -> None:
        if "" in config.stop:
            raise UserError("a stop string is empty: give --stop some text or leave it out")
        self.ids = list(prompt)
        self.config = config
        self.finish: Finish | None = None
        self._tokenizer = tokenizer
        self._sampler = Sampler(config, seed, sample)
        self._characters = tokenizer.stream()
        self._token_ids: list[int] = []
        self._certain: list[str] = []
        self._pending = ""

    def extend(self, logits: Floats) -> str:
        """Draw the next token after `logits` [V]; returns the text that has become certain.

        A sequence that has ended only keeps pace with its batch.
        """
        eot = self._tokenizer.eot_id
        if self.finish:
            self.ids.append(eot)
            return ""
        # Rows beyond the tokenizer's vocabulary are padding. The mark at the start does not count
        # as a repetition: to penalize it would keep texts from ending.
        token = self._sampler(logits[: self._tokenizer.vocab_size], self.ids[1:])
        self.ids.append(token)
        if token == eot:
            self.finish = "end"
        else:
            self._token_ids.append(token)
            self._pending += self._characters.push(token)
            if len(self._token_ids) == self.config.max_tokens:
                self.finish = "length"
        if self.finish:
            self._pending += self._characters.flush()
        certain = self._release()
        self._certain.append(certain)
        return certain

    def continuation(self) -> Continuation:
        assert self.finish
        return Continuation("".join(self._certain), tuple(self._token_ids), self.finish)

    def _release(self) -> str:
        """Take what no stop string can claim any more; end where the first of them is complete."""
        hits = [
            (start + len(stop), start)
            for stop in self.config.stop
            if (start := self._pending.find(stop)) >= 0
        ]
        if hits:
            self.finish = "stop"
            length = min(hits)[1]
        elif self.finish:
            length = len(self._pending)
        else:
            length = len(self._pending) - _length_held_back(self._pending, self.config.stop)
        certain, self._pending = self._pending[:length], self._pending[length:]
        return certain


def _length_held_back(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that may be the beginning of a stop string."""
    return max(
        (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0
    )


def _tokens(ids: Sequence[int] | Sequence[list[int]]) -> Tokens:
    return np.array(ids, dtype=np.int32)
