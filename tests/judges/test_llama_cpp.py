"""llama.cpp runs what is exported as GGUF: the same ids for a text, logits, and greedy continuations."""

import dataclasses
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun
from homespun.architectures.families import FAMILIES
from homespun.language_model import load
from homespun.model_formats import gguf
from homespun.model_formats.formats import open_model
from homespun.tokenizer import Tokenizer
from tests.model_formats.conftest import VOCAB_SIZE, small_config, small_model
from tests.tokenizer import kinds

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.judges

PROMPTS = ["Once upon a time", "One day", "The fox", "Tom was", "She said", '"Hello', "A big dog"]
PROMPTS += ["In the morning", "Ünïcödé 日本語 👩‍👩‍👧", "  two  blanks\n\n"]
N_TOKENS = 200
ROUNDING = {"gpt2": 1e-2}
"""llama.cpp looks up this family's activation in a table of 16-bit numbers. The others compute as we do, up to 1e-4."""


def their_model(path: Path, **options: Any) -> Any:
    """The model in llama.cpp, whose cache usually holds 16-bit numbers, with a cache of float32."""
    float32 = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    return llama_cpp.Llama(str(path), n_threads=1, verbose=False, **float32, **options)


@pytest.fixture(params=FAMILIES)
def trained(request: pytest.FixtureRequest, workplace: Path) -> Path:
    """The folder of a run that has learned to spell. With random weights two tokens are too often equally likely."""
    homespun.train(
        architecture=request.param,
        model_size="pico",
        n_layers=2,
        n_heads=4,
        d_model=64,
        vocab_size=500,
        max_steps=150,
        batch_size=8,
        learning_rate=3e-3,
        precision="float32",
        threads=1,
    )
    return workplace / "checkpoints"


def test_greedy_texts_are_the_same(trained: Path) -> None:
    path = trained / "model.gguf"
    gguf.write_file(open_model(trained), path, "float32")
    ours = load(path, engine="numpy")
    theirs = their_model(path, n_ctx=256)
    n_ties = 0
    for prompt in PROMPTS:
        ids = [ours.tokenizer.eot_id, *ours.tokenizer.encode(prompt)]
        assert theirs.tokenize(prompt.encode(), add_bos=True, special=False) == ids
        expected, written = ours.continuations(prompt, temperature=0, max_tokens=N_TOKENS)[0], []
        for token in theirs.generate(ids, temp=0, top_k=1):
            if token == ours.tokenizer.eot_id or len(written) == N_TOKENS:
                break
            written.append(token)
        if ours.tokenizer.decode(written, continued=True) == expected.text:
            continue
        # Two tokens are equally likely up to rounding. From there on the texts are not comparable.
        n_ties += 1
        [at, *_] = (
            n
            for n, pair in enumerate(zip(written, expected.token_ids, strict=False))
            if len({*pair}) > 1
        )
        logits = ours([*ids, *written[:at]])[-1]
        gap = logits[expected.token_ids[at]] - logits[written[at]]
        assert gap < ROUNDING.get(ours.config.architecture, 1e-4)
    assert n_ties <= 2


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "qwen", "smollm2", "llama2"])
def test_ids_of_a_text_are_the_same(kind: str, tmp_path: Path) -> None:
    """llama.cpp does not compose characters (NFC), as the tokenizers of Qwen do, so the text is composed before."""
    path = tmp_path / "model.gguf"
    ours = Tokenizer.from_json(kinds.as_json(kind))
    config = dataclasses.replace(small_config("llama"), vocab_size=ours.vocab_size)
    gguf.write_file(small_model(config, ours), path, "float16")
    theirs = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    text = kinds.comparable(kind, unicodedata.normalize("NFC", kinds.mixed_text(30_000)))
    assert theirs.tokenize(text.encode(), add_bos=False, special=False) == ours.encode(text)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_the_same(name: str, tied: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    gguf.write_file(small_model(small_config(name, tied=tied)), path, "float32")
    theirs = their_model(path, n_ctx=64, logits_all=True)
    ids = np.random.default_rng(1).integers(0, VOCAB_SIZE, 40)
    theirs.eval(ids.tolist())
    expected = load(path, engine="numpy")(ids)
    np.testing.assert_allclose(theirs.scores[:40], expected, atol=ROUNDING.get(name, 1e-4))


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("name", FAMILIES)
def test_other_precisions_are_read(name: str, precision: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    gguf.write_file(small_model(small_config(name)), path, precision)
    theirs = their_model(path, n_ctx=64)
    tokens = theirs.generate([0, 1, 2], temp=0, top_k=1)
    assert 0 <= next(iter(tokens)) < 512
