"""A text that is encoded in pieces has the ids of the whole text, for every known splitting."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from homespun.tokenizer import Tokenizer, train, word_cache
from homespun.tokenizer import tokenizer as module
from homespun.tokenizer.splitting import (
    BEFORE_SPACE,
    BEFORE_SPACE_OR_LINE_FEED,
    BEFORE_SPACE_OR_LINE_FEED_OR_ANYWHERE,
    Splitting,
    known_splitting,
)
from tests.tokenizer import kinds

BLANKS = [" ", "\n", "  ", "\n\n", " \t ", "\r\n", "\t", "\u3000 ", "\x1c", "\u00a0", "\x85"]
SPACED = st.lists(
    st.tuples(st.text("ab'st1.,é中\u00a0\x1c\u0301", max_size=6), st.sampled_from(BLANKS)),
    max_size=60,
).map(lambda parts: "".join(word + space for word, space in parts))


@settings(derandomize=True, deadline=None, max_examples=200)
@given(text=SPACED)
@pytest.mark.parametrize(
    "splitting", [BEFORE_SPACE_OR_LINE_FEED, BEFORE_SPACE_OR_LINE_FEED_OR_ANYWHERE, BEFORE_SPACE]
)
def test_a_text_is_cut_only_where_it_may_be(splitting: Splitting, text: str) -> None:
    place = re.compile(rf"\S(?=[{splitting.cut_before}])")
    pieces, words = list(splitting.pieces(text, 32)), splitting.words(text)
    assert "".join(pieces) == "".join(words) == text
    for before, after in pairwise(words):
        assert not before[-1].isspace()
        assert after[0] in splitting.cut_before
    assert not any(place.search(word) for word in words)
    for before, after in pairwise(pieces):
        if before[-1].isspace() or after[0] not in splitting.cut_before:
            assert splitting.cuts_long_runs
            assert not place.search(before)
    for piece in pieces:
        assert len(piece) <= 32 or not (splitting.cuts_long_runs or place.search(piece[:32]))


@cache
def loaded(kind: str) -> Tokenizer:
    return Tokenizer.from_json(kinds.as_json(kind))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(texts=st.lists(kinds.TEXTS | SPACED, min_size=1, max_size=4))
@example(texts=["a  ", "  a", "a\t  b", "", "x.\n\nY", "x.\n y", " \n", "a\u0301 \u0301b"])
@example(texts=["upon The", "a größer b", "e\u0301 upon  The", "\U00050000 a", "<think>\u0338 x"])
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_ids_are_those_of_the_whole_text(kind: str, texts: list[str]) -> None:
    texts = [kinds.comparable(kind, text) for text in texts]
    whole = [kinds.library_of(kind).encode(text, add_special_tokens=False).ids for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", 16)
        patch.setattr(module, "GROUP", 50)
        patch.setattr(word_cache, "CACHE_BYTES", 40)
        assert loaded(kind).encode_batch(texts) == whole
        joined = loaded(kind).join(texts)
    assert joined.dtype == np.int32
    assert joined.tolist() == [token for ids in whole for token in (loaded(kind).eot_id, *ids)]


@pytest.fixture(scope="module")
def spacious() -> Tokenizer:
    """A tokenizer with tokens of several white-space characters, so that the ids show where a run was cut."""
    runs = ["".join(run) for length in (2, 3, 4) for run in product(BLANKS[:6], repeat=length)]
    return train(["".join(f"{run}ab.{run}'s" for run in runs)] * 2, 1500)


@pytest.fixture(scope="module")
def spacious_library(spacious: Tokenizer) -> Library:
    return Library.from_str(spacious.to_json())


@settings(derandomize=True, deadline=None, max_examples=300)
@given(texts=st.lists(SPACED | st.text(" \n\ta.'s\x1c\u00a0"), max_size=5))
@example(texts=["a  ", "  a"])
@example(texts=["a\t  b"])
@pytest.mark.parametrize("cache_bytes", [word_cache.CACHE_BYTES, 20])
def test_white_space_has_the_ids_of_the_whole(
    spacious: Tokenizer, spacious_library: Library, cache_bytes: int, texts: list[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_cache, "CACHE_BYTES", cache_bytes)
        patch.setattr(module, "GROUP", 50)
        joined = spacious.join(texts).tolist()
    whole = [spacious_library.encode(text, add_special_tokens=False).ids for text in texts]
    assert joined == [token for ids in whole for token in (0, *ids)]


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_a_splitting_is_known_exactly_or_not_at_all(kind: str) -> None:
    found = known(kinds.specification(kind))
    assert (found is not None) == (kind in kinds.CACHED)
    for key, value in (("normalizer", {"type": "Lowercase"}), ("pre_tokenizer", None)):
        assert known(kinds.specification(kind) | {key: value}) is None


def known(specification: kinds.Json) -> Splitting | None:
    parts = ("normalizer", "pre_tokenizer", "added_tokens")
    return known_splitting(*(specification[part] for part in parts))


@pytest.mark.parametrize(
    ("option", "value"),
    [("add_prefix_space", True), ("use_regex", False), ("behavior", "Removed"), ("invert", True)],
)
def test_another_option_makes_another_splitting(option: str, value: Any) -> None:
    for kind in kinds.CACHED:
        specification = kinds.specification(kind)
        splitting = specification["pre_tokenizer"]
        for step in splitting.get("pretokenizers", [splitting]):
            if option in step and step[option] != value:
                step[option] = value
                assert known(specification) is None


def test_the_cache_is_bounded_and_may_be_shared_by_threads(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_cache, "CACHE_BYTES", 1000)
    monkeypatch.setattr(module, "GROUP", 500)
    texts = [" ".join(map(str, range(start, start + 100))) for start in range(0, 8000, 50)]
    with ThreadPoolExecutor(4) as pool:
        streams = list(pool.map(tokenizer.join, [texts[start:] for start in range(8)]))
    expected = [[0, *tokenizer.encode(text)] for text in texts]
    for start, stream in enumerate(streams):
        assert stream.tolist() == [token for ids in expected[start:] for token in ids]
    cache = word_cache.WordCache(
        BEFORE_SPACE_OR_LINE_FEED, tokenizer.encode_batch, 0, tokenizer.byte_lengths
    )
    for text in texts:
        cache.lookup(BEFORE_SPACE_OR_LINE_FEED.words(text))
        assert cache.n_bytes < 1000 + len(text)


@pytest.mark.parametrize("text", ["a" * 300_000, " " * 300_000, "中" * 100_000, "ab c " * 60_000])
def test_a_long_text_survives(tokenizer: Tokenizer, text: str) -> None:
    assert (
        max(map(len, BEFORE_SPACE_OR_LINE_FEED_OR_ANYWHERE.pieces(text, module.PIECE)))
        <= module.PIECE
    )
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.join([text, "end"]).tolist() == [0, *ids, 0, *tokenizer.encode("end")]
