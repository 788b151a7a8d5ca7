"""Prompts flow in; continuations come out, as text that appears while the model writes it.

A session holds what generation needs from a model. Each call reads the prompt, then draws one token per step for every
sequence of the batch until all have ended. It runs on any engine's `Decoder`.

In training every document begins with the end-of-text mark, so a prompt begins with it too. After the mark
alone, the model begins a new text.
"""

import secrets
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from homespun.config import SamplingConfig
from homespun.config.checked import shown
from homespun.data.batch import Tokens
from homespun.engine.base import Decoder, Draw, Floats
from homespun.errors import UserError
from homespun.generation.sampler import Sampler, draw_each
from homespun.generation.speed import Speed
from homespun.tokenizer import Tokenizer

MAX_BATCH = 16
"""Sequences that are decoded together; this bounds the memory of the key/value cache."""

DecoderFactory = Callable[[int, int], Decoder]
"""(batch_size, max_len) -> a decoder with an empty cache: `Reader.decoder`."""

Prompt = str | list[int] | None
"""A text, or its tokens as they are; None: the model begins by itself."""

Finish = Literal["end", "length", "stop"]


@dataclass(frozen=True)
class Continuation:
    """The text that a model wrote after a prompt."""

    text: str
    """Without the prompt and without a stop string."""
    token_ids: tuple[int, ...]
    """All tokens drawn except the one that ends the text. Those of a stop string are among them."""
    finish: Finish
    """The model ended the text, the text reached `max_tokens`, or a stop string occurred."""
    end_id: int | None = None
    """The token with which the model ended the text."""


class Session:
    """Continues prompts with one model.

    A text may grow past the context length. When the key/value cache of a sequence is full, the older half of its text
    is dropped: the last `context // 2` tokens are read again from position 0. So the model meets only positions that it
    was trained for, and windows that begin inside a text, as its training samples do.
    """

    def __init__(
        self,
        make_decoder: DecoderFactory,
        tokenizer: Tokenizer,
        context: int,
        ends: Collection[int] = (),
        draw: Draw | None = None,
    ) -> None:
        """
        Args:
            make_decoder: of the model.
            tokenizer: of the model.
            context: number of positions that the model was trained for.
            ends: tokens that end a text, beside the end-of-text mark.
            draw: of the engine, if it has its own.
        """
        self.make_decoder = make_decoder
        self.tokenizer = tokenizer
        self.context = context
        self._ends = frozenset((tokenizer.eot_id, *ends))
        self._draw = draw

    def generate(
        self, prompt: Prompt, config: SamplingConfig, num_samples: int = 1
    ) -> list[Continuation]:
        """Continue one prompt `num_samples` times. The prompt is computed once.

        With a seed, sample i is the same however many samples there are.

        Raises:
            UserError: the prompt is empty, longer than the context or not valid text; a stop string is empty; or the
                model's output is not finite.
        """
        return list(self.samples(prompt, config, num_samples))

    def samples(
        self,
        prompt: Prompt,
        config: SamplingConfig,
        num_samples: int,
        speed: Speed | None = None,
    ) -> Iterator[Continuation]:
        """As `generate`; gives each sample as soon as it and those before it have ended. `speed` is filled in."""
        speed = speed or Speed()
        speed.begin(num_samples)
        ids = self.prompt_ids(prompt)
        texts = self.texts(ids, config, num_samples)
        decoder = self.make_decoder(1, self._cache_length(texts[:1]))
        with speed.prefill(len(ids)):
            logits = decoder.prefill(_tokens([ids]))
        for first in range(0, num_samples, MAX_BATCH):
            batch = texts[first : first + MAX_BATCH]
            if num_samples == 1:
                steps = self._decode(batch, decoder, logits, speed)
            else:
                repeated = np.repeat(logits, len(batch), axis=0)
                steps = self._decode(batch, decoder.repeated(len(batch)), repeated, speed)
            waiting = deque(batch)
            for _ in steps:
                while waiting and waiting[0].finish:
                    yield waiting.popleft().continuation()
            yield from (text.continuation() for text in waiting)

    def generate_batch(
        self, prompts: Sequence[Prompt], config: SamplingConfig
    ) -> list[Continuation]:
        """Continue several prompts, which may differ in length, each as if it were alone, up to
        rounding. Raises as `generate`."""
        seed = seed_of(config)
        texts = [self._text(self.prompt_ids(prompt), config, seed) for prompt in prompts]
        for first in range(0, len(texts), MAX_BATCH):
            batch = texts[first : first + MAX_BATCH]
            decoder = self.make_decoder(len(batch), self._cache_length(batch))
            self._finish(batch, decoder, _prefill(decoder, batch))
        return [text.continuation() for text in texts]

    def stream(
        self, prompt: Prompt, config: SamplingConfig, speed: Speed | None = None
    ) -> Generator[str, None, Continuation]:
        """Continue one prompt, piece by piece; the generator's return value is the whole continuation.

        Closing the generator stops the model. `speed` is filled in.

        Raises:
            UserError: as `generate`, when the first piece is requested.
        """
        speed = speed or Speed()
        speed.begin(n_texts=1)
        text = self._text(self.prompt_ids(prompt), config, seed_of(config))
        decoder = self.make_decoder(1, self._cache_length([text]))
        with speed.prefill(len(text.ids)):
            logits = _prefill(decoder, [text])
        for _, piece in self._decode([text], decoder, logits, speed):
            yield piece
        return text.continuation()

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The end-of-text mark and the tokens of the prompt; tokens stay as they are.

        Raises:
            UserError: the prompt is empty, longer than the context, or not valid text.
        """
        if prompt is None:
            return [self.tokenizer.eot_id]
        if isinstance(prompt, list) and all(isinstance(token, int) for token in prompt):
            if not 0 < len(prompt) <= self.context:
                raise UserError(
                    f"the prompt has {len(prompt):,} tokens: 1 to {self.context:,} are possible"
                )
            if min(prompt) < 0 or max(prompt) >= self.tokenizer.vocab_size:
                raise UserError("the prompt has a token that is not in the vocabulary")
            return prompt
        if not isinstance(prompt, str):
            raise UserError(f"the prompt is {shown(prompt)}: text is expected")
        if not prompt:
            raise UserError(
                "the prompt is empty: leave --prompt out to let the model begin by itself"
            )
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"the prompt is not valid UTF-8 from character {error.start + 1} on: "
                "check the encoding of the terminal"
            ) from None
        ids = [self.tokenizer.eot_id, *self.tokenizer.encode(prompt)]
        if len(ids) > self.context:
            raise UserError(
                f"the prompt is {len(ids)} tokens long (including the end-of-text mark at its start), but the "
                f"model's context is {self.context}: shorten the prompt"
            )
        return ids

    def texts(self, ids: Sequence[int], config: SamplingConfig, n: int) -> list["Text"]:
        """Texts that continue the tokens of one prompt. With a seed, text i is the same however many there are."""
        seed = seed_of(config)
        return [self._text(ids, config, seed, sample) for sample in range(n)]

    def draw(self, texts: Sequence["Text"], logits: Sequence[Floats]) -> list[int | UserError]:
        """The next token of each text after logits [V] of its own; an error where these are not finite."""
        n = self.tokenizer.vocab_size  # rows beyond it are padding
        return draw_each([text.sampler for text in texts], [row[:n] for row in logits], self._draw)

    def _text(
        self, ids: Sequence[int], config: SamplingConfig, seed: int, sample: int = 0
    ) -> "Text":
        return Text(self.tokenizer, ids, config, seed, sample, self._ends)

    def _cache_length(self, batch: Sequence["Text"]) -> int:
        """Positions that the longest text can need at the same time."""
        longest = max(len(text.ids) + text.config.max_tokens for text in batch)
        return min(self.context, longest)

    def _finish(self, batch: Sequence["Text"], decoder: Decoder, logits: Floats) -> None:
        for _ in self._decode(batch, decoder, logits, Speed()):
            pass

    def _decode(
        self, batch: Sequence["Text"], decoder: Decoder, logits: Floats, speed: Speed
    ) -> Iterator[tuple[int, str]]:
        """Run a batch, whose prompts gave `logits` [B, V], until each text has ended; yields (index, new text)."""
        while True:
            unfinished = [index for index, text in enumerate(batch) if text.finish is None]
            tokens = self.draw([batch[i] for i in unfinished], [logits[i] for i in unfinished])
            for text in batch:
                if text.finish:
                    text.pad()
            pieces = [batch[i].extend(token) for i, token in zip(unfinished, tokens, strict=True)]
            speed.drew(len(unfinished))
            yield from ((i, piece) for i, piece in zip(unfinished, pieces, strict=True) if piece)
            if all(text.finish for text in batch):
                return
            if decoder.length < self.context:
                logits = decoder.step(_tokens([text.ids[-1] for text in batch]))
            else:
                for text in batch:
                    text.forget_older_half(self.context)
                decoder.rewind(0)
                logits = _prefill(decoder, batch)


class Text:
    """One sequence of a batch: its tokens, its sampler, and the text that no stop string can take back. `Session` and
    `Batcher` let it grow."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        config: SamplingConfig,
        seed: int,
        sample: int = 0,
        ends: Collection[int] | None = None,
    ) -> None:
        if "" in config.stop:
            raise UserError("a stop string is empty: give --stop some text or leave it out")
        self.ids = list(prompt)
        self.config = config
        self.finish: Finish | None = None
        self.n_characters = 0
        """Characters that its tokens have given so far, with those that a stop string may take back."""
        self._begin = 0  # index of the first token that the model still sees
        self._tokenizer = tokenizer
        self._ends = {tokenizer.eot_id} if ends is None else ends
        # The tokens that end a text do not count as a repetition: a penalty on them would keep texts from ending.
        seen = [token for token in prompt if token not in self._ends]
        self.sampler = Sampler(config, seed, sample, seen)
        self._characters = tokenizer.stream(continued=len(prompt) > 1)
        self._token_ids: list[int] = []
        self._end_id: int | None = None
        self._released: list[str] = []
        self._pending = ""

    @property
    def window(self) -> list[int]:
        """The tokens that the model sees."""
        return self.ids[self._begin :]

    @property
    def n_seen(self) -> int:
        """The number of tokens that the model sees."""
        return len(self.ids) - self._begin

    def forget_older_half(self, context: int) -> None:
        """Keep the last `context // 2` tokens, if the text has outgrown the context."""
        if self.n_seen > context:
            self._begin = len(self.ids) - context // 2

    def pad(self) -> None:
        """Add an end-of-text mark to a text that has ended, to stay as long as the others of its batch."""
        self.ids.append(self._tokenizer.eot_id)

    def extend(self, token: int | UserError) -> str:
        """Add a token that `Session.draw` gave; returns the text that can be shown now.

        Raises:
            UserError: it is an error.
        """
        if isinstance(token, UserError):
            raise token
        self.ids.append(token)
        if token in self._ends:
            self.finish, self._end_id = "end", token
        else:
            self._token_ids.append(token)
            characters = self._characters.push(token)
            self.n_characters += len(characters)
            self._pending += characters
            if len(self._token_ids) == self.config.max_tokens:
                self.finish = "length"
        if self.finish:
            self._pending += self._characters.flush()
        released = self._release()
        self._released.append(released)
        return released

    def continuation(self) -> Continuation:
        assert self.finish
        text = "".join(self._released)
        return Continuation(text, tuple(self._token_ids), self.finish, self._end_id)

    def _release(self) -> str:
        """Take the text that cannot be part of a stop string; end at the first stop string that is complete."""
        if not self.config.stop:
            released, self._pending = self._pending, ""
            return released
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
        released, self._pending = self._pending[:length], self._pending[length:]
        return released


def _prefill(decoder: Decoder, batch: Sequence[Text]) -> Floats:
    """Read the windows of a batch into an empty cache; returns the logits [B, V] after each of them."""
    windows = [text.window for text in batch]
    lengths = [len(window) for window in windows]
    longest = max(lengths)
    if min(lengths) == longest:
        return decoder.prefill(_tokens(windows))
    padded = [window + [0] * (longest - len(window)) for window in windows]
    return decoder.prefill(_tokens(padded), lengths)


def seed_of(config: SamplingConfig) -> int:
    """The seed of the settings, or a random one."""
    return secrets.randbits(64) if config.seed is None else config.seed


def _length_held_back(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that may be the beginning of a stop string."""
    return max(
        (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0
    )


def _tokens(ids: Sequence[int] | Sequence[list[int]]) -> Tokens:
    return np.array(ids, dtype=np.int32)
