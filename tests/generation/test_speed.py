"""The figures of speed, with a clock that moves when the model computes."""

import pytest

from homespun.config import SamplingConfig
from homespun.generation.session import MAX_BATCH, Session
from homespun.generation.speed import Speed


class Clock:
    """A second for each token that is read in one pass, ten for each pass of a single token."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def timed(decoders, clock):
    """A factory of decoders that move the clock."""
    inner = decoders(eot=-100)

    def make(batch_size, max_len):
        return slowed(inner(batch_size, max_len), clock)

    return make


def slowed(decoder, clock):
    read, step, repeated = decoder.prefill, decoder.step, decoder.repeated

    def prefill(tokens, lengths=None):
        clock.now += tokens.shape[1]
        return read(tokens, lengths)

    def slow_step(tokens):
        clock.now += 10 - 1  # it calls prefill for one more second
        return step(tokens)

    decoder.prefill, decoder.step = prefill, slow_step
    decoder.repeated = lambda n: slowed(repeated(n), clock)
    return decoder


@pytest.mark.parametrize("n_texts", [None, 1, 3])
def test_prefill_first_token_and_decode_are_measured_separately(timed, tokenizer, clock, n_texts):
    speed, session = Speed(clock), Session(timed, tokenizer, 64)
    config = SamplingConfig(max_tokens=5, seed=1)
    for _ in range(2):  # the second call starts anew
        if n_texts is None:
            list(session.stream("Once", config, speed))
        else:
            list(session.samples("Once", config, n_texts, speed))
        texts = n_texts or 1
        assert (speed.prompt_tokens, speed.prefill_seconds) == (5, 5)  # with the mark
        assert speed.first_token_seconds == 5
        assert (speed.decoded_tokens, speed.decode_seconds) == (4 * texts, 40)
        of = " of 3 texts" if texts == 3 else ""
        assert str(speed) == (
            "prefill 5 tokens in 5.000 s (1 tokens/s), first token after 5.000 s, "
            f"decode {4 * texts} tokens{of} in 40.000 s ({4 * texts / 40:,.0f} tokens/s)"
        )


def test_texts_that_have_ended_count_no_more_tokens(scripted, tokenizer, clock):
    speed = Speed(clock)
    session = Session(scripted(b"abc"), tokenizer, 64)
    list(session.samples(None, SamplingConfig(), MAX_BATCH + 1, speed))
    # Four tokens a text with the mark that ends it; the first ones of the first batch come with the prompt.
    assert speed.decoded_tokens == 3 * MAX_BATCH + 4


def test_without_a_token_there_is_no_figure(timed, tokenizer, clock):
    speed = Speed(clock)
    stream = Session(timed, tokenizer, 64).stream("Once", SamplingConfig(), speed)
    stream.close()
    assert str(speed) == "no token was drawn"


def test_a_time_of_zero_gives_no_rate():
    speed = Speed(lambda: 0.0)
    speed.begin(1)
    with speed.prefill(3):
        pass
    speed.drew(1)
    assert str(speed) == (
        "prefill 3 tokens in 0.000 s, first token after 0.000 s, decode 0 tokens in 0.000 s"
    )
