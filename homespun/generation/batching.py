"""Prompts of many requests flow in at any time; their texts flow out while one model writes all of them together.

One thread owns the model and draws a token of each text per step. Between two steps, texts that have ended leave the
batch and waiting ones join it (continuous batching: Yu et al., Orca, 2022). The text of a request does not depend on
the others, up to rounding: each has its own random numbers and sees its own tokens alone.
"""

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import numpy as np

from homespun.config import SamplingConfig
from homespun.data.batch import Tokens
from homespun.engine.base import Decoder, Floats, OutOfMemory
from homespun.errors import UserError
from homespun.generation.sampler import check_finite, top_k
from homespun.generation.session import Finish, Session, Text
from homespun.terminal import warn

POSITIONS_STEP = 128
"""Caches have a multiple of so many positions, so that few texts that join make the cache grow."""
LONGEST_RETRY = 60
"""Seconds after which a refused request is told to try again, at most."""

T = TypeVar("T")


class Drawn(NamedTuple):
    """A token of a text."""

    token: int
    offset: int
    """Characters of the text before it."""
    logprob: float | None
    """Logarithm of its probability by the model itself, before any setting of sampling; None if not asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens with such logarithms, in descending order."""


class Piece(NamedTuple):
    """The part that one step adds to a text."""

    text: str
    """Without what may become a stop string."""
    drawn: Drawn | None
    """None for the end-of-text mark, and with an error."""
    finish: Finish | None = None
    """Set in the last piece of a text."""
    error: UserError | None = None
    """The text could not be finished. This is its last piece."""


class QueueFull(UserError):
    """Too many texts wait."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many texts wait: try again in {retry_after} s")
        self.retry_after = retry_after
        """Seconds."""


class Stopped(UserError):
    """No thread writes texts any more."""


class Request:
    """Texts that continue one prompt."""

    def __init__(
        self,
        texts: Sequence[Text],
        bias: Floats | None,
        n_top: int | None,
        sink: Callable[[int, Piece], object],
    ) -> None:
        self.texts = texts
        self.bias = bias
        self.n_top = n_top
        self.sink = sink
        self.is_cancelled = False
        self.read: tuple[Decoder, Floats] | None = None
        """The prompt, and the logits after it, until the last of the texts has joined."""

    def cancel(self) -> None:
        """Let the texts end at the next step. Nothing more comes from them."""
        self.is_cancelled = True


class _Row:
    """A text in the batch."""

    def __init__(self, request: Request, index: int, positions: int) -> None:
        self.request = request
        self.index = index
        self.text = request.texts[index]
        self.positions = positions
        """Those that the text needs at the same time."""
        self.logits: Floats
        self.began = 0.0

    @property
    def biased(self) -> Floats:
        """The logits with the bias of the request."""
        bias = self.request.bias
        return self.logits if bias is None else self.logits[: len(bias)] + bias

    def extend(self, token: int | UserError, vocab_size: int) -> None:
        """Add a token and hand out the piece. A text whose model gives no finite numbers ends with an error."""
        text, request = self.text, self.request
        offset = text.n_characters
        try:
            piece = text.extend(token)
        except UserError as error:
            self.fail(error)
            return
        drawn = None
        if text.finish != "end":
            logprob, top = None, None
            if request.n_top is not None:
                logprob, top = likely(self.logits[:vocab_size], text.ids[-1], request.n_top)
            drawn = Drawn(text.ids[-1], offset, logprob, top or ())
        request.sink(self.index, Piece(piece, drawn, text.finish))

    def fail(self, error: UserError) -> None:
        self.text.finish = "stop"  # so that it leaves the batch
        self.request.sink(self.index, Piece("", None, error=error))


class Batcher:
    """Writes the texts of many requests with one model.

    Its methods may be called by any thread; a `with` block ends its own one. `sink` functions are called by that
    thread, which waits for them.
    """

    def __init__(
        self,
        session: Session,
        *,
        slots: int = 16,
        max_waiting: int = 128,
        max_positions: int | None = None,
        after_pieces: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            session: of the model.
            slots: texts that are written together.
            max_waiting: texts that may wait for a slot.
            max_positions: positions of the key/value caches of all texts together; None: as many as they need.
            after_pieces: is called by the thread when all pieces of a step have been given to their sinks. It has to
                return at once and raise nothing.
        """
        self._session = session
        self._context = session.context
        self._slots = slots
        self._max_waiting = max_waiting
        self._max_positions = max_positions
        self._after_pieces = after_pieces
        self._decoder: Decoder | None = None
        self._max_len = 0
        """Positions of a row of the decoder."""
        self._rows: list[_Row] = []
        self._waiting: deque[_Row] = deque()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._change = threading.Condition()
        self._is_closing = False
        self._text_seconds = 0.0
        self.failure: str | None = None
        """Why the thread has ended, if it should not have."""
        self.tokens_written = 0
        self.tokens_read = 0
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Batcher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def n_running(self) -> int:
        """Texts that are being written."""
        return len(self._rows)

    @property
    def n_waiting(self) -> int:
        """Texts that wait for a slot."""
        return len(self._waiting)

    def submit(
        self,
        prompt: Sequence[int],
        config: SamplingConfig,
        sink: Callable[[int, Piece], object],
        *,
        n: int = 1,
        n_top: int | None = None,
        bias: Mapping[int, float] | None = None,
    ) -> Request:
        """Continue a prompt `n` times.

        With a seed, text i is sample i of `Session.generate` with this seed.

        Args:
            prompt: its tokens, of `Session.prompt_ids`.
            sink: takes the number of a text and a piece of it, until a piece has `finish` or `error`. It has to return
                at once and raise nothing.
            n_top: for each token, its logprob and those of so many most likely tokens.
            bias: is added to the logits of tokens.

        Raises:
            QueueFull: too many texts wait.
            Stopped: the thread has ended.
            UserError: a stop string is empty, or the texts need more positions than there may be.
        """
        texts = self._session.texts(prompt, config, n)
        steps = math.ceil((len(prompt) + config.max_tokens) / POSITIONS_STEP)
        positions = min(self._context, steps * POSITIONS_STEP)
        if self._max_positions is not None and positions > self._max_positions:
            raise UserError(
                f"the prompt with its continuation needs {positions:,} positions, and there is memory for "
                f"{self._max_positions:,}: shorten the prompt or take fewer max_tokens"
            )
        added = None
        if bias:
            added = np.zeros(self._session.tokenizer.vocab_size, np.float32)
            added[list(bias)] = list(bias.values())
        request = Request(texts, added, n_top, sink)
        with self._change:
            self._check_alive()
            in_flight = len(self._rows) + len(self._waiting) + n
            if in_flight > self._slots + self._max_waiting:
                raise QueueFull(self._retry_after())
            self._waiting.extend(_Row(request, index, positions) for index in range(n))
            self._change.notify()
        return request

    def write(
        self, prompt: Sequence[int], config: SamplingConfig, **options: Any
    ) -> Iterator[tuple[int, Piece]]:
        """As `submit`, for a thread that waits: yields the number of a text and a piece of it. Closing the generator
        stops the texts.

        Raises:
            UserError: as `submit`; or a text could not be finished.
        """
        pieces: queue.SimpleQueue[tuple[int, Piece]] = queue.SimpleQueue()
        request = self.submit(
            prompt, config, lambda index, piece: pieces.put((index, piece)), **options
        )
        try:
            unfinished = len(request.texts)
            while unfinished:
                index, piece = pieces.get()
                if piece.error:
                    raise piece.error
                unfinished -= piece.finish is not None
                yield index, piece
        finally:
            request.cancel()

    def call(self, work: Callable[[], T]) -> "Future[T]":
        """Run `work` between two steps, in the thread that owns the model.

        Raises:
            QueueFull, Stopped: as `submit`.
        """
        future: Future[T] = Future()
        with self._change:
            self._check_alive()
            if len(self._calls) >= self._max_waiting:
                raise QueueFull(self._retry_after())
            self._calls.append((future, work))
            self._change.notify()
        return future

    def close(self) -> None:
        """End the thread. Texts that are not finished end with an error."""
        with self._change:
            self._is_closing = True
            self._change.notify()
        self._thread.join()

    # The rest runs in the thread.

    def _run(self) -> None:
        reason = "the server was stopped"
        try:
            while self._has_work():
                self._leave([row for row in self._rows if row.request.is_cancelled])
                self._run_calls()
                self._admit()
                self._advance()
        except BaseException as error:
            reason = f"the thread that generates has ended ({type(error).__name__}: {error})"
            self.failure = reason
            warn(f"error: {reason}")
        finally:
            self._end(Stopped(reason))

    def _has_work(self) -> bool:
        """Wait until there is something to do; False when the thread has to end."""
        with self._change:
            while not (self._rows or self._waiting or self._calls or self._is_closing):
                self._change.wait()
            return not self._is_closing

    def _run_calls(self) -> None:
        while self._calls:
            future, work = self._calls.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except Exception as error:
                    future.set_exception(error)

    def _admit(self) -> None:
        """Let the next text join. One prompt is read per step, so that the running texts do not wait for many."""
        with self._change:
            if any(row.request.is_cancelled for row in self._waiting):
                self._waiting = deque(r for r in self._waiting if not r.request.is_cancelled)
        if not self._waiting or len(self._rows) == self._slots or not self._fits(self._waiting[0]):
            return
        row = self._waiting[0]
        request = row.request
        row.began = time.monotonic()
        try:
            if request.read is None:
                request.read = self._prefilled(row)
                self.tokens_read += len(row.text.ids)
            decoder, row.logits = request.read
            if row.index == len(request.texts) - 1:
                request.read = None
            elif self._decoder is None:
                decoder = decoder.repeated(
                    1
                )  # that of the batch changes, and the next text needs this one
            self._join(row, decoder)
        except OutOfMemory as error:
            row.fail(error)
        self._waiting.popleft()

    def _advance(self) -> None:
        """Draw a token of each text, and compute the logits after it for those that go on."""
        vocab_size = self._session.tokenizer.vocab_size
        tokens = self._session.draw(
            [row.text for row in self._rows], [row.biased for row in self._rows]
        )
        for row, token in zip(self._rows, tokens, strict=True):
            row.extend(token, vocab_size)
            self.tokens_written += row.text.finish != "end"
        self._after_pieces()
        ended = [row for row in self._rows if row.text.finish]
        for row in ended:
            self._text_seconds += 0.2 * (time.monotonic() - row.began - self._text_seconds)
        self._leave(ended)
        outgrown = [row for row in self._rows if row.text.n_seen > self._context]
        self._leave(outgrown)
        try:
            if self._decoder is not None:
                logits = self._decoder.step(_tokens([row.text.ids[-1] for row in self._rows]))
                for row, after in zip(self._rows, logits, strict=True):
                    row.logits = after
            for row in outgrown:
                row.text.forget_older_half(self._context)
                decoder, row.logits = self._prefilled(row)
                self._join(row, decoder)
        except OutOfMemory as error:
            for row in {*self._rows, *outgrown}:
                row.fail(error)
            self._rows, self._decoder = [], None
            self._after_pieces()

    def _prefilled(self, row: _Row) -> tuple[Decoder, Floats]:
        """A decoder that has read a text, and the logits [V] after it."""
        decoder = self._session.make_decoder(1, row.positions)
        return decoder, decoder.prefill(_tokens([row.text.window]))[0]

    def _join(self, row: _Row, decoder: Decoder) -> None:
        if self._decoder is None:
            self._decoder, self._max_len = decoder, 0
        else:
            self._decoder.join(decoder)
        self._max_len = max(self._max_len, row.positions)
        self._rows.append(row)

    def _leave(self, rows: Sequence[_Row]) -> None:
        """Take texts out of the batch."""
        for row in rows:
            place, last = self._rows.index(row), self._rows.pop()
            if not self._rows:
                self._decoder = None  # with its memory
                continue
            assert self._decoder is not None
            self._decoder.drop(place)
            if last is not row:
                self._rows[place] = last

    def _fits(self, row: _Row) -> bool:
        """Whether the caches have room for one more text. A decoder has up to the next power of two of rows."""
        if self._max_positions is None or self._decoder is None:
            return True
        rows = 1 << len(self._rows).bit_length()
        return rows * max(self._max_len, row.positions) <= self._max_positions

    def _end(self, reason: Stopped) -> None:
        """Tell all who wait that nothing more comes."""
        with self._change:
            self._is_closing = True
            rows, calls = [*self._rows, *self._waiting], list(self._calls)
            self._rows, self._decoder = [], None
            self._waiting.clear()
            self._calls.clear()
        for row in rows:
            if not row.request.is_cancelled:
                row.fail(reason)
        self._after_pieces()
        for future, _ in calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(reason)

    def _check_alive(self) -> None:
        if self._is_closing or self.failure:
            raise Stopped(self.failure or "the server was stopped")

    def _retry_after(self) -> int:
        """Seconds until about all texts are finished that are here now."""
        in_flight = len(self._rows) + len(self._waiting)
        seconds = self._text_seconds * in_flight / self._slots
        return min(LONGEST_RETRY, max(1, math.ceil(seconds)))


def likely(logits: Floats, token: int, n: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The logarithm of the probability of a token after `logits` [V], and those of the `n` most likely ones."""
    logprobs = log_softmax(logits)
    if not n:
        return float(logprobs[token]), ()
    best = top_k(logprobs, n) if n < logprobs.size else np.arange(logprobs.size)
    best = best[np.argsort(-logprobs[best], kind="stable")]
    return float(logprobs[token]), tuple((int(i), float(logprobs[i])) for i in best)


def log_softmax(logits: Floats) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Logarithms of the probabilities after `logits` [V], in float64.

    Raises:
        UserError: a logit is NaN or infinite.
    """
    check_finite(logits)
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= math.log(np.exp(scores).sum())
    return scores


def _tokens(ids: Sequence[int] | Sequence[list[int]]) -> Tokens:
    return np.array(ids, dtype=np.int32)
