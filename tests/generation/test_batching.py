"""Texts that are written together are those that each gives alone; texts join, leave and fail each for itself."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from homespun.config import SamplingConfig
from homespun.engine.base import OutOfMemory
from homespun.errors import UserError
from homespun.generation.batching import Batcher, Piece, QueueFull, Stopped, likely, log_softmax
from homespun.generation.session import Session


class Gate:
    """A model that computes a step only when it is let through."""

    def __init__(self, model: Callable[[tuple[int, ...]], Any]) -> None:
        self.model = model
        self.allowed = threading.Semaphore(0)
        self.is_open = False
        self.at_gate = threading.Semaphore(0)
        self.computed: list[tuple[int, ...]] = []

    def __call__(self, prefix: tuple[int, ...]) -> Any:
        self.at_gate.release()
        if not self.is_open:
            assert self.allowed.acquire(timeout=30)
        self.computed.append(prefix)
        return self.model(prefix)

    def let(self, n: int) -> None:
        """Let `n` rows through, and wait until the next one has come."""
        for _ in range(n):
            assert self.at_gate.acquire(timeout=30)
            self.allowed.release()

    def open(self) -> None:
        self.is_open = True
        self.allowed.release(1000)


class Texts:
    """Takes the pieces of a request."""

    def __init__(self, n: int = 1) -> None:
        self.pieces: list[list[Piece]] = [[] for _ in range(n)]
        self.unfinished = n
        self.is_done = threading.Event()

    def __call__(self, index: int, piece: Piece) -> None:
        self.pieces[index].append(piece)
        if piece.finish or piece.error:
            self.unfinished -= 1
            if not self.unfinished:
                self.is_done.set()

    def wait(self) -> "Texts":
        assert self.is_done.wait(30)
        return self

    def text(self, index: int = 0) -> str:
        return "".join(piece.text for piece in self.pieces[index])

    def tokens(self, index: int = 0) -> tuple[int, ...]:
        return tuple(piece.drawn.token for piece in self.pieces[index] if piece.drawn)


@pytest.fixture
def batcher(tokenizer: Any) -> Iterator[Callable[..., Batcher]]:
    """`batcher(factory, context=64, ...)`; ended after the test."""
    made: list[Batcher] = []

    def make(factory: Any, context: int = 64, **options: Any) -> Batcher:
        made.append(Batcher(Session(factory, tokenizer, context), **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("context", [6, 9, 64])
def test_texts_that_are_written_together_are_those_that_each_gives_alone(
    decoders: Any, tokenizer: Any, batcher: Any, context: int
) -> None:
    session = Session(decoders(eot=2), tokenizer, context)
    prompts = ["a", None, "abcde", "bc", "abcde", "xyz"] * 3
    together = batcher(decoders(eot=2), context, slots=5)
    requests = []
    for number, prompt in enumerate(prompts):
        config = SamplingConfig(
            max_tokens=3 * number + 1, temperature=number % 2, seed=number, stop=("a",)
        )
        n = number % 4 + 1
        texts = Texts(n)
        together.submit(session.prompt_ids(prompt), config, texts, n=n)
        requests.append((prompt, config, n, texts))
    finishes = set()
    for prompt, config, n, texts in requests:
        texts.wait()
        for index, alone in enumerate(session.generate(prompt, config, n)):
            assert texts.text(index) == alone.text
            assert texts.tokens(index) == alone.token_ids
            assert texts.pieces[index][-1].finish == alone.finish
            finishes.add(alone.finish)
    assert len(finishes) > 1


def test_a_prompt_is_read_once_for_all_its_texts(decoders: Any, batcher: Any) -> None:
    factory = decoders(eot=-100)
    together = batcher(factory, slots=3)
    config = SamplingConfig(max_tokens=4, seed=0)
    texts = Texts(5)
    together.submit([0, *range(1, 20)], config, texts, n=5)
    texts.wait()
    [first] = factory.made
    assert first.tokens_read == 20
    assert together.tokens_read == 20
    assert together.tokens_written == 20


def test_a_cancelled_text_is_gone_at_the_next_step(decoders: Any, batcher: Any) -> None:
    factory = decoders(eot=-100)
    gate = factory.model = Gate(factory.model)
    together = batcher(factory, slots=1)
    config = SamplingConfig(max_tokens=1000, seed=0)
    first, second = Texts(), Texts()
    request = together.submit([0, 1], config, first)
    gate.let(3)
    together.submit([0, 2], SamplingConfig(max_tokens=1, seed=0), second)
    assert gate.at_gate.acquire(timeout=30)  # a step is being computed
    written = len(first.pieces[0])
    request.cancel()
    gate.open()
    second.wait()
    assert len(first.pieces[0]) <= written + 2
    assert len([prefix for prefix in gate.computed if prefix[:2] == (0, 1)]) <= written + 2


def test_a_cancelled_text_that_waits_is_never_read(decoders: Any, batcher: Any) -> None:
    factory = decoders(eot=-100)
    gate = factory.model = Gate(factory.model)
    together = batcher(factory, slots=1, max_waiting=2)
    config = SamplingConfig(max_tokens=2, seed=0)
    running, left, last = Texts(), Texts(), Texts()
    together.submit([0, 1], config, running)
    together.submit([0, 2], config, left).cancel()
    together.submit([0, 3], config, last)
    gate.open()
    last.wait()
    assert not left.pieces[0]
    assert not any(prefix[:2] == (0, 2) for prefix in gate.computed)


def test_no_more_texts_than_fit_may_wait(decoders: Any, batcher: Any) -> None:
    factory = decoders(eot=-100)
    gate = factory.model = Gate(factory.model)
    together = batcher(factory, slots=2, max_waiting=3)
    config = SamplingConfig(max_tokens=2, seed=0)
    taken = [Texts() for _ in range(5)]
    for texts in taken:
        together.submit([0], config, texts)
    with pytest.raises(QueueFull) as full:
        together.submit([0], config, Texts())
    assert 1 <= full.value.retry_after <= 60
    gate.open()
    for texts in taken:
        texts.wait()
    after = Texts()
    together.submit([0], config, after, n=1)
    after.wait()


def test_texts_wait_until_their_cache_has_room(decoders: Any, batcher: Any) -> None:
    factory = decoders(eot=-100)
    widths: set[int] = set()

    def look() -> None:
        widths.update(len(decoder.cache) for decoder in factory.decoders)

    together = batcher(factory, context=128, slots=8, max_positions=256, after_pieces=look)
    config = SamplingConfig(max_tokens=100, seed=0)
    all_texts = [Texts() for _ in range(6)]
    for texts in all_texts:
        together.submit([0], config, texts)
    for texts in all_texts:
        texts.wait()
    assert max(widths) == 2
    small = batcher(factory, context=128, max_positions=127)
    with pytest.raises(UserError, match="needs 128 positions, and there is memory for 127"):
        small.submit([0], config, Texts())


def test_a_text_without_finite_numbers_fails_alone(decoders: Any, batcher: Any) -> None:
    factory = decoders(eot=-100)
    sound = factory.model
    factory.model = lambda prefix: sound(prefix) * (np.nan if prefix[1] == 7 else 1)
    together = batcher(factory)
    config = SamplingConfig(max_tokens=9, seed=0)
    bad, good = Texts(), Texts()
    together.submit([0, 7], config, bad)
    together.submit([0, 8], config, good)
    assert "not finite" in str(bad.wait().pieces[0][-1].error)
    assert len(good.wait().tokens()) == 9
    assert together.is_alive


def test_a_lack_of_memory_fails_the_text_and_not_the_thread(decoders: Any, batcher: Any) -> None:
    factory = decoders(eot=-100)
    sound = factory.model

    def model(prefix: tuple[int, ...]) -> Any:
        if prefix[1] == 7 and len(prefix) > 4:
            raise OutOfMemory
        return sound(prefix)

    factory.model = model
    together = batcher(factory)
    config = SamplingConfig(max_tokens=9, seed=0)
    bad, good = Texts(), Texts()
    together.submit([0, 7], config, bad)
    bad.wait()
    assert isinstance(bad.pieces[0][-1].error, OutOfMemory)
    together.submit([0, 7, 1, 1, 1, 1], config, reading := Texts())
    assert isinstance(reading.wait().pieces[0][-1].error, OutOfMemory)
    together.submit([0, 8], config, good)
    assert len(good.wait().tokens()) == 9


def test_when_the_thread_dies_all_texts_end(
    decoders: Any, batcher: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    factory = decoders(eot=-100)
    sound = factory.model

    def model(prefix: tuple[int, ...]) -> Any:
        if len(prefix) == 5:
            raise ValueError("broken")
        return sound(prefix)

    gate = factory.model = Gate(model)
    together = batcher(factory, slots=1)
    config = SamplingConfig(max_tokens=9, seed=0)
    running, waiting = Texts(), Texts()
    together.submit([0, 1], config, running)
    together.submit([0, 1], config, waiting)
    called = together.call(lambda: gate.let(0))
    gate.open()
    for texts in (running, waiting):
        assert "has ended (ValueError: broken)" in str(texts.wait().pieces[0][-1].error)
    assert called.result(30) is None
    together._thread.join(30)
    assert not together.is_alive
    assert "ValueError: broken" in (together.failure or "")
    with pytest.raises(Stopped, match="broken"):
        together.submit([0], config, Texts())
    with pytest.raises(Stopped):
        together.call(lambda: None)
    assert "Traceback" not in capsys.readouterr().err


def test_closing_ends_texts_and_calls(decoders: Any, tokenizer: Any) -> None:
    factory = decoders(eot=-100)
    gate = factory.model = Gate(factory.model)
    together = Batcher(Session(factory, tokenizer, 64), slots=1)
    texts = Texts()
    together.submit([0], SamplingConfig(max_tokens=1000, seed=0), texts)
    gate.let(2)
    threading.Timer(0.01, gate.open).start()
    together.close()
    assert "stopped" in str(texts.wait().pieces[0][-1].error)
    assert not together.is_alive
    assert together.failure is None


def test_logprobs_are_those_of_the_model_itself(decoders: Any, batcher: Any) -> None:
    factory = decoders(eot=-100)
    config = SamplingConfig(max_tokens=6, temperature=0.3, top_k=2, seed=1)
    texts = Texts()
    batcher(factory).submit([0, 5], config, texts, n_top=3)
    prefix = (0, 5)
    for piece in texts.wait().pieces[0]:
        assert piece.drawn
        expected = log_softmax(factory.model(prefix))
        assert np.exp(expected).sum() == pytest.approx(1)
        assert piece.drawn.logprob == pytest.approx(expected[piece.drawn.token])
        best = np.argsort(-expected)[:3]
        assert [token for token, _ in piece.drawn.top] == best.tolist()
        assert [value for _, value in piece.drawn.top] == pytest.approx(expected[best])
        prefix = (*prefix, piece.drawn.token)


def test_of_equally_likely_tokens_the_lower_ids_come_first() -> None:
    logits = np.zeros(1000, np.float32)
    logits[[990, 20]] = 1
    by_likelihood = [20, 990, *(token for token in range(1000) if token not in (20, 990))]
    for n in (0, 1, 2, 5, 999, 1000, 1001):
        logprob, top = likely(logits, 20, n)
        assert [token for token, _ in top] == by_likelihood[:n]
        assert logprob == pytest.approx(log_softmax(logits)[20])


def test_a_bias_moves_tokens_and_no_logprob(decoders: Any, batcher: Any) -> None:
    factory = decoders(eot=-100)
    config = SamplingConfig(max_tokens=3, temperature=0)
    texts = Texts()
    batcher(factory).submit([0], config, texts, n_top=0, bias={98: 1000.0})
    assert texts.wait().text() == "aaa"
    first = texts.pieces[0][0].drawn
    assert first
    assert first.logprob == pytest.approx(log_softmax(factory.model((0,)))[98])


def test_offsets_count_the_characters_before_a_token(scripted: Any, batcher: Any) -> None:
    factory = scripted("añb".encode())
    texts = Texts()
    batcher(factory).submit([0], SamplingConfig(max_tokens=9, temperature=0), texts)
    pieces = texts.wait().pieces[0]
    assert [piece.drawn.offset for piece in pieces if piece.drawn] == [0, 1, 1, 2]
    assert pieces[-1].drawn is None
    assert texts.text() == "añb"


def test_a_thread_that_waits_gets_the_pieces_in_order(decoders: Any, batcher: Any) -> None:
    factory = decoders(eot=-100)
    together = batcher(factory)
    config = SamplingConfig(max_tokens=5, seed=3)
    written = list(together.write([0, 1], config, n=2))
    assert len(written) == 10
    pieces = together.write([0, 1], SamplingConfig(max_tokens=10_000, seed=3))
    next(pieces)
    pieces.close()
    done = Texts()
    together.submit([0], config, done)
    done.wait()
    assert together.n_running == 0


def test_calls_run_between_steps_and_keep_their_errors(decoders: Any, batcher: Any) -> None:
    together = batcher(decoders())
    assert together.call(threading.get_ident).result(30) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        together.call(lambda: 1 / 0).result(30)
    assert together.call(lambda: 3).result(30) == 3
