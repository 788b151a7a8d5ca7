"""mlx-lm runs what is exported as an MLX folder, and what it quantises is read here."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from homespun.architectures.families import FAMILIES
from homespun.language_model import load
from homespun.model_formats import mlx
from tests.model_formats.conftest import VOCAB_SIZE, small_config, small_model, small_tokenizer

mlx_lm = pytest.importorskip("mlx_lm")
pytestmark = pytest.mark.judges


def logits(model: object, ids: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    import mlx.core as mx

    return np.array(model(mx.array(ids)).astype(mx.float32))  # type: ignore[operator]


@pytest.fixture
def ids() -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(1).integers(0, VOCAB_SIZE, (2, 40))


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("int8", 0.3)])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_the_same(
    name: str,
    precision: str,
    tolerance: float,
    ids: np.ndarray,  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    """With int8 mlx-lm computes in float16, and the logits are up to 8."""
    mlx.write_folder(small_model(small_config(name)), tmp_path, precision)
    theirs, _ = mlx_lm.load(str(tmp_path))
    np.testing.assert_allclose(load(tmp_path)(ids), logits(theirs, ids), atol=tolerance)


def test_greedy_texts_are_the_same(tmp_path: Path) -> None:
    vocab_size = small_tokenizer().vocab_size  # mlx-lm would draw the padding of a vocabulary
    config = dataclasses.replace(small_config("llama"), vocab_size=vocab_size)
    mlx.write_folder(small_model(config), tmp_path, "float32")
    theirs, tokenizer = mlx_lm.load(str(tmp_path))
    ours = load(tmp_path).continuations("One day", temperature=0, max_tokens=40)[0].text
    assert mlx_lm.generate(theirs, tokenizer, "One day", max_tokens=40) == ours


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", FAMILIES)
def test_weights_that_mlx_lm_quantised_are_read(
    name: str,
    bits: int,
    ids: np.ndarray,  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    exported, quantised = tmp_path / "exported", tmp_path / "quantised"
    exported.mkdir()
    mlx.write_folder(small_model(small_config(name)), exported, "float32")
    theirs, config = quantize_model(*load_model(exported), 32, bits)
    save_model(quantised, theirs)
    save_config(config, quantised / "config.json")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (quantised / file).write_bytes((exported / file).read_bytes())
    np.testing.assert_allclose(load(quantised)(ids), logits(theirs, ids), atol=1e-4)
