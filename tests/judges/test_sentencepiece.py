"""The library of SentencePiece gives the same ids as its vocabulary in a GGUF file, read here."""

import io
from typing import Any

import pytest

from homespun.model_formats.gguf_tokenizer import (
    EOS,
    MODEL,
    SCORES,
    SPACE_FIRST,
    TOKENS,
    TYPES,
    UNKNOWN_ID,
    from_metadata,
    to_metadata,
)
from homespun.tokenizer import Tokenizer
from tests.tokenizer import kinds
from tests.tokenizer.conftest import story_texts

sentencepiece = pytest.importorskip("sentencepiece")
pytestmark = pytest.mark.judges

TEXTS = [kinds.mixed_text(30_000), *story_texts(20)]
TEXTS += [character * n for character in (" ", "=", "a", "\n") for n in range(1, 60, 3)]


@pytest.fixture(scope="module", params=[True, False])
def processor(request: pytest.FixtureRequest) -> object:
    """A BPE that was trained as those of Llama 2 and Mistral: nothing is normalised, unknown characters are bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in TEXTS for line in text.split("\n") if line),
        model_writer=model,
        model_type="bpe",
        vocab_size=1500,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=request.param,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def read_here(processor: object) -> Tokenizer:
    """The tokenizer, by way of the metadata that llama.cpp's conversion writes."""
    p: Any = processor
    ids = range(p.get_piece_size())
    special = {p.unk_id(): 2, p.bos_id(): 3, p.eos_id(): 3}
    return from_metadata(
        {
            MODEL: "llama",
            TOKENS: [p.id_to_piece(number) for number in ids],
            TYPES: [special.get(number, 6 if p.is_byte(number) else 1) for number in ids],
            SCORES: [p.get_score(number) for number in ids],
            EOS: p.eos_id(),
            UNKNOWN_ID: p.unk_id(),
            SPACE_FIRST: p.id_to_piece(p.encode("e")[0]).startswith("▁"),
        },
        "model.gguf",
    )


def test_ids_are_the_same(processor: object) -> None:
    ours = read_here(processor)
    for text in TEXTS:
        assert ours.encode(text) == processor.encode(text), text[:50]  # type: ignore[attr-defined]
    assert from_metadata(to_metadata(ours, ours.vocab_size), "again").sha256 == ours.sha256
