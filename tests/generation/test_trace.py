"""Tokens with their probabilities are the tokens of the ordinary samples."""

from collections.abc import Callable

import numpy as np
import pytest

from homespun.config import SamplingConfig
from homespun.generation.sampler import largest, probabilities
from homespun.generation.session import Session
from tests.generation.conftest import VOCAB_SIZE, ByteTokenizer, Factory, hash_model

CONTEXT = 24


@pytest.mark.parametrize("max_tokens", [5, 60])
@pytest.mark.parametrize("num_samples", [1, 3])
def test_the_tokens_are_those_of_the_samples(
    decoders: Callable[..., Factory], tokenizer: ByteTokenizer, num_samples: int, max_tokens: int
) -> None:
    """Also past the context, where the session reads a part of the text again."""
    config = SamplingConfig(max_tokens=max_tokens, seed=3, stop=("\x07",))
    session = Session(decoders(eot=3.0), tokenizer, CONTEXT)
    drawn = list(session.trace("ab", config, num_samples))
    for number, sample in enumerate(session.generate("ab", config, num_samples)):
        own = [one for one in drawn if one.sample == number]
        assert "".join(one.text for one in own) == sample.text
        tokens = [one.token for one in own if one.token != tokenizer.eot_id]
        assert tuple(tokens) == sample.token_ids
        assert [one.finish for one in own] == [None] * (len(own) - 1) + [sample.finish]


def test_probabilities_are_those_of_the_model(
    decoders: Callable[..., Factory], tokenizer: ByteTokenizer
) -> None:
    session = Session(decoders(), tokenizer, CONTEXT)
    config = SamplingConfig(max_tokens=4, seed=1, temperature=0.3, top_k=2)
    seen = tuple(session.prompt_ids("ab"))
    for drawn in session.trace("ab", config, n_likeliest=5):
        logits = np.asarray(hash_model()(seen), np.float64)
        shares = np.exp(logits) / np.exp(logits).sum()
        assert drawn.probability == pytest.approx(shares[drawn.token])
        ids = [token for token, _ in drawn.likeliest]
        assert ids == list(np.argsort(-shares)[:5])
        assert [share for _, share in drawn.likeliest] == pytest.approx(list(shares[ids]))
        seen += (drawn.token,)


def test_the_largest_numbers_come_in_order() -> None:
    numbers = np.array([0.1, 0.5, 0.2, 0.5])
    assert largest(numbers, 3) == [1, 3, 2]
    assert largest(numbers, 9) == [1, 3, 2, 0]
    assert probabilities(np.zeros(VOCAB_SIZE, np.float32)).sum() == pytest.approx(1)
