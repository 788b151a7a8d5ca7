"""Requests of clients flow in; the texts that the model writes for them flow out, as they grow.

`Service` holds what all requests share. `Writing` is the bridge from the thread that owns the model to the event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool

from homespun.config import SamplingConfig
from homespun.engine.base import Floats, OutOfMemory
from homespun.errors import UserError
from homespun.generation.batching import (
    Batcher,
    Drawn,
    Piece,
    QueueFull,
    Request,
    Stopped,
    likely,
)
from homespun.generation.session import Finish
from homespun.language_model import LanguageModel
from homespun.server.answers import Unanswerable
from homespun.server.limits import Limits
from homespun.server.metrics import Metrics
from homespun.tokenizer import Tokenizer

CACHED_NUMBER_BYTES = 4
"""Of a number in the key/value cache, at most."""

HANDING_OUT_SECONDS = 0.04
"""Between two parts of a text, unless it ends. A part costs the server as much time as a small model needs for some
tokens."""

FINISH_REASONS: Mapping[Finish, str] = {"end": "stop", "stop": "stop", "length": "length"}
"""OpenAI's word for each end of a text."""


def limited_batcher(
    model: LanguageModel, limits: Limits, after_pieces: Callable[[], object]
) -> Batcher:
    """The thread that generates with a model, within the limits of texts and memory."""
    shape = model.config
    per_position = 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim * CACHED_NUMBER_BYTES
    return Batcher(
        model.session,
        slots=limits.slots,
        max_waiting=limits.queue,
        max_positions=limits.cache_bytes // per_position,
        after_pieces=after_pieces,
    )


class Service:
    """A model that is served, with the thread that generates."""

    def __init__(self, model: LanguageModel, name: str, limits: Limits | None = None) -> None:
        """`name` is the one that requests have to give."""
        self.model = model
        self.name = name
        self.limits = limits or Limits()
        self.metrics = Metrics()
        self.created = int(time.time())
        self.outbox = Outbox()
        self.batcher = limited_batcher(model, self.limits, self.outbox.send)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    def prompt_ids(self, prompt: str | list[int] | None) -> list[int]:
        """The tokens of a prompt, with the end-of-text mark before a text.

        Raises:
            Unanswerable: it is longer than the context, or has a token outside the vocabulary.
        """
        try:
            return self.model.session.prompt_ids(prompt or None)
        except UserError as error:
            raise Unanswerable(400, str(error), "prompt") from None

    async def prompt_logprobs(self, ids: Sequence[int], n_top: int) -> list[Drawn]:
        """Each token of a prompt as if it had been drawn. The first one follows nothing, so it has no logprob.

        Raises:
            Unanswerable: the model cannot compute it now.
        """
        tokens = np.array([ids], np.int32)
        try:
            # The thread that generates owns the model. It computes the logits alone, since other texts wait meanwhile.
            work = self.batcher.call(lambda: self.model.engine.logits(tokens)[0])
            logits = await asyncio.wrap_future(work)
            return await run_in_threadpool(self._scored, ids, logits, n_top)
        except UserError as error:
            raise refused(error, otherwise=500) from None

    def _scored(self, ids: Sequence[int], logits: Floats, n_top: int) -> list[Drawn]:
        drawn = [Drawn(ids[0], 0, None)]
        for token, before in zip(ids[1:], logits, strict=False):
            logprob, top = likely(before[: self.tokenizer.vocab_size], token, n_top)
            drawn.append(Drawn(token, 0, logprob, top))
        return drawn


@dataclass(frozen=True)
class Wanted:
    """The texts that a request asks for."""

    prompts: Sequence[list[int]]
    """Tokens of each."""
    sampling: SamplingConfig
    n: int = 1
    """Texts of each prompt."""
    n_top: int | None = None
    bias: Mapping[int, float] = field(default_factory=dict)
    is_streamed: bool = False
    has_usage_in_stream: bool = False
    writes: bool = True
    """False: no token is drawn, since only the prompts are asked for."""

    @property
    def n_texts(self) -> int:
        return len(self.prompts) * self.n


class Growing:
    """One text, and the tokens whose characters have been handed out."""

    def __init__(self, *, is_answer: bool = False) -> None:
        """`is_answer`: white space at its beginning is not handed out, since templates end with some of their own."""
        self._is_answer = is_answer
        self.text = ""
        self.n_tokens = 0
        self.finish: Finish | None = None
        self._held: list[Drawn] = []

    def add(self, pieces: Sequence[Piece]) -> tuple[str, list[Drawn]]:
        """Returns the new text and its tokens. Those of a stop string are counted, and never handed out."""
        new = "".join([piece.text for piece in pieces])
        drawn = [piece.drawn for piece in pieces if piece.drawn]
        shown = new.lstrip() if self._is_answer and not self.text.strip() else new
        self.text += new
        self.n_tokens += len(drawn)
        self._held += drawn
        self.finish = pieces[-1].finish
        if self.finish in ("end", "length"):
            n = len(self._held)
        else:
            length = len(self.text)
            n = sum([one.offset < length for one in self._held])
        released, self._held = self._held[:n], self._held[n:]
        return shown, released


class Outbox:
    """Wakes those who wait for pieces of their texts, at most twice per step, however many texts there are.

    The first piece of a request and the last piece of each text are handed out at once. Others wait for the next time
    at which all texts are handed out, so that the event loop seldom interrupts the thread that generates.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._urgent: list[Writing] = []
        """Used by the thread that generates alone."""
        self._waiting: deque[Writing] = deque()
        self._is_woken = False
        """Whether the loop is going to hand out what waits."""
        self._next_time = 0.0  # by the clock of the loop

    def use(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand out in this loop from now on."""
        if loop is not self._loop:
            self._loop, self._next_time, self._is_woken = loop, 0.0, False

    # In the thread that generates:

    def put_urgent(self, writing: "Writing") -> None:
        self._urgent.append(writing)

    def put(self, writing: "Writing") -> None:
        self._waiting.append(writing)

    def send(self) -> None:
        """Wake the loop, after a step."""
        urgent, self._urgent = self._urgent, []
        try:
            if self._waiting and not self._is_woken:
                self._is_woken = True
                self._wake(self._hand_out_in_time)
            if urgent:  # afterwards: it puts off the next time, which may be due now
                self._wake(self._hand_out, urgent)
        except RuntimeError:  # the loop has ended, and so have the clients
            for writing in (*urgent, *self._waiting):
                writing.cancel()
            self._waiting.clear()

    def _wake(self, call: Callable[..., object], *values: Any) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(call, *values)

    # In the loop:

    def _hand_out(self, writings: "Sequence[Writing]") -> None:
        for writing in writings:
            writing.arrived.set()
        self._set_next_time()

    def _hand_out_in_time(self) -> None:
        assert self._loop is not None
        if self._loop.time() < self._next_time:
            self._loop.call_at(self._next_time, self._hand_out_waiting)
        else:
            self._hand_out_waiting()

    def _hand_out_waiting(self) -> None:
        # Before the texts are taken: one that comes meanwhile wakes the loop again.
        self._is_woken = False
        while self._waiting:
            self._waiting.popleft().arrived.set()
        self._set_next_time()

    def _set_next_time(self) -> None:
        assert self._loop is not None
        self._next_time = self._loop.time() + HANDING_OUT_SECONDS


class Writing:
    """The texts of one request of a client. Whoever makes it calls `cancel` in the end, whatever happens."""

    def __init__(self, service: Service, wanted: Wanted) -> None:
        """
        Raises:
            Unanswerable: too many texts wait, or the server has stopped.
            UserError: a text needs more memory than there may be.
        """
        self._service = service
        self._wanted = wanted
        self._outbox = service.outbox
        self._outbox.use(asyncio.get_running_loop())
        self._pieces: deque[tuple[int, Piece]] = deque()
        self.arrived = asyncio.Event()
        """Set when pieces are to be taken."""
        self._has_begun = False
        self._requests: list[Request] = []
        self._began = time.monotonic()
        try:
            for number, prompt in enumerate(wanted.prompts):
                self._requests.append(self._submit(number * wanted.n, prompt))
        except BaseException as error:
            self.cancel()
            if isinstance(error, UserError):
                raise refused(error) from None
            raise

    def cancel(self) -> None:
        """End all texts."""
        for request in self._requests:
            request.cancel()

    async def pieces(self) -> AsyncIterator[dict[int, list[Piece]]]:
        """For the number of a text, all its pieces that have come since the last time, until all texts have ended. So a
        fast model, a slow client, or a busy server leads to fewer and longer answers.

        Raises:
            Unanswerable: a text could not be finished.
        """
        unfinished = self._wanted.n_texts
        while unfinished:
            await self.arrived.wait()
            self.arrived.clear()
            if self._began:
                self._service.metrics.first_token_seconds.add(time.monotonic() - self._began)
                self._began = 0.0
            come: dict[int, list[Piece]] = {}
            while self._pieces:
                index, piece = self._pieces.popleft()
                if piece.error:
                    raise refused(piece.error, otherwise=500)
                come.setdefault(index, []).append(piece)
            unfinished -= sum(pieces[-1].finish is not None for pieces in come.values())
            if come:
                yield come

    def _submit(self, first: int, prompt: list[int]) -> Request:
        wanted = self._wanted
        return self._service.batcher.submit(
            prompt,
            wanted.sampling,
            lambda index, piece: self._sink(first + index, piece),
            n=wanted.n,
            n_top=wanted.n_top,
            bias=wanted.bias,
        )

    def _sink(self, index: int, piece: Piece) -> None:
        """Take a piece, in the thread that generates."""
        self._pieces.append((index, piece))
        is_last = piece.finish is not None or piece.error is not None
        if is_last or not self._has_begun:
            self._has_begun = True
            self._outbox.put_urgent(self)
        elif len(self._pieces) == 1:
            self._outbox.put(self)


def refused(error: UserError, otherwise: int = 400) -> Unanswerable:
    """The answer that tells of an error of the batcher, with status `otherwise` where no other one fits better."""
    if isinstance(error, QueueFull):
        answer = Unanswerable(429, str(error), code="queue_full")
        answer.headers = {"retry-after": str(error.retry_after)}
        return answer
    status = 503 if isinstance(error, Stopped | OutOfMemory) else otherwise
    return Unanswerable(status, str(error))


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token as text. Bytes that are no whole characters are spelled out, as by OpenAI; a special token has only its
    number."""
    data = tokenizer.token_bytes(token)
    if not data:
        return f"<|{token}|>"
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
