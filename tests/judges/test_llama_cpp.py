"""llama.cpp runs what is exported as GGUF: the same ids for a text, logits, and greedy continuations."""

from pathlib import Path

import numpy as np
import pytest

import homespun
from homespun.architectures.families import FAMILIES
from homespun.language_model import load
from homespun.model_formats import gguf
from homespun.model_formats.formats import open_model
from tests.model_formats.conftest import VOCAB_SIZE, small_config, small_model

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.judges

PROMPTS = ["Once upon a time", "One day", "The fox", "Tom was", "She said", '"Hello', "A big dog"]
PROMPTS += ["In the morning", "Ünïcödé 日本語 👩‍👩‍👧", "  two  blanks\n\n"]
N_TOKENS = 200


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
    )
    return workplace / "checkpoints"


def test_greedy_texts_are_the_same(trained: Path) -> None:
    path = trained / "model.gguf"
    gguf.write_file(open_model(trained), path, "float32")
    ours = load(path, engine="numpy")
    theirs = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, verbose=False)
    for prompt in PROMPTS:
        ids = [ours.tokenizer.eot_id, *ours.tokenizer.encode(prompt)]
        assert theirs.tokenize(prompt.encode(), add_bos=True, special=False) == ids
        expected, written = ours.continuations(prompt, temperature=0, max_tokens=N_TOKENS)[0], []
        for token in theirs.generate(ids, temp=0, top_k=1):
            if token == ours.tokenizer.eot_id or len(written) == N_TOKENS:
                break
            written.append(token)
        assert ours.tokenizer.decode(written, continued=True) == expected.text


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_the_same(name: str, tied: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    gguf.write_file(small_model(small_config(name, tied=tied)), path, "float32")
    theirs = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    ids = np.random.default_rng(1).integers(0, VOCAB_SIZE, 40)
    theirs.eval(ids.tolist())
    expected = load(path, engine="numpy")(ids)
    np.testing.assert_allclose(theirs.scores[:40], expected, atol=1e-3)


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("name", FAMILIES)
def test_other_precisions_are_read(name: str, precision: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    gguf.write_file(small_model(small_config(name)), path, precision)
    theirs = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False)
    tokens = theirs.generate([0, 1, 2], temp=0, top_k=1)
    assert 0 <= next(iter(tokens)) < 512
