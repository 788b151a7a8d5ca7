"""Text to ids and back, as a whole and token by token."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from homespun.errors import UserError
from homespun.tokenizer import END_OF_TEXT, Tokenizer, train
from homespun.tokenizer.byte_level import byte_alphabet


@settings(derandomize=True, deadline=None, max_examples=300)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@example(text="")
@example(text="\0\x01\x7f")
@example(text="\ufeffwith a byte-order mark")
@example(text="one\r\ntwo\rthree\n\n \t ")
@example(text="👩‍👩‍👧‍👦 e\u0301 \u200f \U0010ffff")
@example(text=f"{END_OF_TEXT}{END_OF_TEXT} a {END_OF_TEXT}")
def test_any_text_survives(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.eot_id not in ids
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())
    stream = tokenizer.stream()
    assert "".join([*map(stream.push, ids), stream.flush()]) == text


def test_end_of_text_is_id_0_and_never_comes_from_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.eot_id == 0
    documents = [f"a{END_OF_TEXT}b", END_OF_TEXT, "", "c"]
    joined = tokenizer.join(documents)
    assert np.count_nonzero(joined == 0) == len(documents)
    parts = [part for text in documents for part in ([0], tokenizer.encode(text))]
    assert joined.dtype == np.int32
    assert joined.tolist() == [token for part in parts for token in part]


def test_end_of_text_in_the_training_text_is_text() -> None:
    trained = train([f"{END_OF_TEXT} tick tock " * 50], 270)
    assert 0 not in trained.encode(END_OF_TEXT)
    assert trained.decode(trained.encode(END_OF_TEXT)) == END_OF_TEXT


def test_every_byte_has_a_token(tokenizer: Tokenizer) -> None:
    from tokenizers import pre_tokenizers

    tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    assert tokens[0] == b""
    assert {bytes([byte]) for byte in range(256)} <= set(tokens)
    assert sorted(byte_alphabet()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert tokenizer.byte_lengths.dtype == np.int32
    assert tokenizer.byte_lengths.tolist() == [len(token) for token in tokens]


@pytest.mark.parametrize("token", [-1, 500])
def test_there_is_no_other_token(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(IndexError):
        tokenizer.token_bytes(token)


@settings(derandomize=True, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_a_batch_is_its_texts(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("text", ["\ud800", "before \udfff after"])
def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer, text: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: tokenizer.encode(text),
        lambda: tokenizer.join(["fine", text]),
        lambda: train([text], 300),
    ]
    for call in calls:
        with pytest.raises(UserError, match="surrogate"):
            call()


# Streaming


def test_an_unfinished_character_is_kept_back(tokenizer: Tokenizer) -> None:
    token_of = {tokenizer.token_bytes(token): token for token in range(tokenizer.vocab_size)}
    stream = tokenizer.stream()
    parts = [stream.push(token_of[bytes([byte])]) for byte in "x€y".encode()]
    assert parts == ["x", "", "", "€", "y"]
    assert stream.flush() == ""
    assert stream.push(token_of[b"\xe2"]) == ""
    assert stream.flush() == "\ufffd"


@settings(derandomize=True, deadline=None)
@given(ids=st.lists(st.integers(0, 499)))
def test_a_stream_gives_what_decode_gives(tokenizer: Tokenizer, ids: list[int]) -> None:
    stream = tokenizer.stream()
    text = "".join([*map(stream.push, ids), stream.flush()])
    assert text == tokenizer.decode(ids)
    text.encode()
