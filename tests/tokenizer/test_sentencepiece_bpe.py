"""Ranked merges give the ids of the algorithm of SentencePiece, which goes by the scores of pieces."""

import json
import math
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from homespun.errors import UserError
from homespun.tokenizer import Tokenizer
from homespun.tokenizer import sentencepiece_bpe as module
from tests.tokenizer import kinds
from tests.tokenizer.conftest import story_texts

SPECIAL = ("<unk>", "<s>", "</s>")
RUNS = ["▁" * n for n in (2, 3, 4, 5, 6, 8)]
"""As in the vocabularies of Llama 2 and Mistral, they have one score, which is below all others."""


@cache
def scores() -> dict[str, float]:
    """A vocabulary that was trained as SentencePiece does: each piece is worth less than the one before."""
    from tokenizers import Tokenizer as Library
    from tokenizers import models, pre_tokenizers, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    texts = [*story_texts(50), kinds.mixed_text(20_000), "a==b===c----\n" * 20]
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False)
    library.train_from_iterator(texts, trainer)
    merges = json.loads(library.to_str())["model"]["merges"]
    merges = [pair for pair in merges if "".join(pair) not in (*SPECIAL, *module.BYTE_PIECES)]
    single = [piece for piece in sorted(library.get_vocab()) if len(piece) == 1]
    merged = {"".join(pair): -1.0 - rank for rank, pair in enumerate(merges)}
    return dict.fromkeys([*single, "▁"], -5000.0) | merged | dict.fromkeys(RUNS, -1e9)


@cache
def tokenizer(puts_space_first: bool) -> Tokenizer:
    return Tokenizer.from_json(json.dumps(specification(scores(), puts_space_first)))


def specification(scores: dict[str, float], puts_space_first: bool = True) -> kinds.Json:
    tokens = [*SPECIAL, *module.BYTE_PIECES, *scores]
    options = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": number, "content": name, "special": True} | options
        for number, name in enumerate(SPECIAL)
    ]
    return module.specification(
        {token: number for number, token in enumerate(tokens)},
        scores,
        added,
        unknown="<unk>",
        puts_space_first=puts_space_first,
    )


def reference(text: str, puts_space_first: bool) -> list[str]:
    """The tokens by the rule itself: join the two neighbours with the best score, of equal ones the leftmost."""
    if puts_space_first and text:
        text = " " + text
    symbols, known = list(text.replace(" ", "▁")), scores()
    while True:
        pairs = enumerate(pairwise(symbols))
        places = [(-known[a + b], n) for n, (a, b) in pairs if a + b in known]
        if not places:
            break
        _, n = min(places)
        symbols[n : n + 2] = [symbols[n] + symbols[n + 1]]
    tokens = []
    for symbol in symbols:
        as_bytes = [f"<0x{byte:02X}>" for byte in symbol.encode()]
        tokens += [symbol] if symbol in known else as_bytes
    return tokens


REPETITIVE = st.lists(st.sampled_from("ab= -▁\n") | st.sampled_from(["  ", "==", "the "])).map(
    "".join
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(text=kinds.TEXTS | REPETITIVE, puts_space_first=st.booleans())
@example(text="", puts_space_first=True)
@example(text="</s> <unk> <0x41>", puts_space_first=True)
def test_ids_are_those_of_the_rule(text: str, puts_space_first: bool) -> None:
    ours = tokenizer(puts_space_first)
    vocabulary = json.loads(ours.to_json())["model"]["vocab"]
    expected = [vocabulary[token] for token in reference(text, puts_space_first)]
    assert ours.encode(text) == expected
    if text:
        assert ours.decode(expected) == text.replace("▁", " ")


@pytest.mark.parametrize("character", "▁ =-a")
def test_runs_of_one_character_have_the_ids_of_the_rule(character: str) -> None:
    ours = tokenizer(True)
    vocabulary = json.loads(ours.to_json())["model"]["vocab"]
    for n in range(70):
        text = f"x{character * n}y{character * (n % 7)}"
        assert ours.encode(text) == [vocabulary[token] for token in reference(text, True)], n


@pytest.mark.parametrize("puts_space_first", [True, False])
def test_scores_come_back_as_the_same_merges(puts_space_first: bool) -> None:
    written = specification(scores(), puts_space_first)
    again = module.scores_of(written)
    assert again is not None
    assert module.merges(again) == written["model"]["merges"]
    assert module.puts_space_first(written) == puts_space_first


def test_merges_that_no_scores_give_have_none() -> None:
    lacking = specification(scores())
    del lacking["model"]["merges"][-1]
    assert module.scores_of(lacking) is None
    for kind in ("gpt2", "llama3"):
        assert module.scores_of(kinds.specification(kind)) is None
    assert module.scores_of(kinds.specification("llama2")) is not None


A, B = {"a": 0.0, "b": 0.0}, {"ab": -1.0, "ba": -2.0}


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (A | {"ab": -1.0, "ba": -1.0}, "its pieces 'ab' and 'ba' have the same score"),
        (A | B | {"ax": -3.0}, "a part of its piece 'ax' is no piece: 'x'"),
        (A | {"ab": math.nan}, "the score nan"),
        (A | {"ab": math.inf}, "the score inf"),
        (A | {"a" * 300: -1.0}, "a piece of 300 characters"),
    ],
)
def test_scores_that_ranks_cannot_express_are_refused(
    pieces: dict[str, float], message: str
) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        module.merges(pieces)


def test_a_vocabulary_without_bytes_is_refused() -> None:
    with pytest.raises(UserError, match="no token <0x00>"):
        module.specification(A, A, [], unknown="a", puts_space_first=True)
