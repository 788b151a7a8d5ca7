"""Models come back from every format as they were, and other programs compute the same with them."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from homespun.architectures.families import family
from homespun.bfloat16 import from_bfloat16, to_bfloat16
from homespun.config import ReaderConfig, ReaderPrecision
from homespun.errors import UserError
from homespun.language_model import load, load_stored
from homespun.model_formats.formats import EXPORTS, open_model
from homespun.model_formats.numbers import in_precision
from homespun.model_formats.stored_model import StoredModel
from tests.model_formats.conftest import (
    VOCAB_SIZE,
    WHOLE,
    small_config,
    small_model,
    small_tokenizer,
)

LARGEST_ERROR = {"float32": 0.0, "float16": 1e-3, "bfloat16": 6e-3, "int8": 6e-3}
"""Of a weight; the weights of the small models are below 2."""


def written(model: StoredModel, folder: Path, name: str, precision: str = "float32") -> Path:
    export = EXPORTS[name]
    path = folder / "model.gguf" if export.is_file else folder
    export.write(model, path, precision)
    return path


@pytest.mark.parametrize(
    ("name", "precision"), [(n, p) for n in WHOLE for p in EXPORTS[n].precisions]
)
def test_a_model_comes_back(name: str, precision: str, model: StoredModel, tmp_path: Path) -> None:
    try:
        family(model.config.architecture).check_for_mlx(model.config)
    except UserError:
        if name == "mlx":
            with pytest.raises(UserError, match="mlx-lm has"):
                written(model, tmp_path, name, precision)
            return
    back = open_model(written(model, tmp_path, name, precision))
    assert back.config == model.config
    assert back.tokenizer.sha256 == model.tokenizer.sha256
    for (expected_name, expected), (found_name, found) in zip(
        model.tensors(), back.tensors(), strict=True
    ):
        assert expected_name == found_name
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() <= LARGEST_ERROR[precision]


def test_transformers_computes_the_same_logits(model: StoredModel, tmp_path: Path) -> None:
    path = written(model, tmp_path, "huggingface")
    theirs = AutoModelForCausalLM.from_pretrained(path)
    ids = np.random.default_rng(1).integers(0, VOCAB_SIZE, (2, 40))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    ours = load_stored(model, ReaderConfig(engine="numpy"))
    np.testing.assert_allclose(ours(ids), expected, atol=1e-4)


def test_a_folder_of_transformers_is_read(model: StoredModel, tmp_path: Path) -> None:
    exported = written(model, tmp_path, "huggingface")
    saved = tmp_path / "saved"
    AutoModelForCausalLM.from_pretrained(exported).save_pretrained(saved, max_shard_size="100KB")
    AutoTokenizer.from_pretrained(exported).save_pretrained(saved)
    assert len(list(saved.glob("*.safetensors"))) > 1
    back = open_model(saved)
    assert back.config == model.config
    assert back.tokenizer.sha256 == model.tokenizer.sha256
    for (_, expected), (_, found) in zip(model.tensors(), back.tensors(), strict=True):
        np.testing.assert_array_equal(expected, found)


def test_transformers_begins_a_text_as_in_training(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(
        written(small_model(small_config("llama")), tmp_path, "huggingface")
    )
    ours = small_tokenizer()
    text = "Once upon a time"
    assert tokenizer(text)["input_ids"] == [ours.eot_id, *ours.encode(text)]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_library_reads_the_safetensors(tmp_path: Path) -> None:
    model = small_model(small_config("qwen3"))
    path = written(model, tmp_path, "huggingface")
    found = safetensors.numpy.load_file(path / "model.safetensors")
    for name, expected in model.tensors():
        np.testing.assert_array_equal(found[name], expected)


def test_names_of_published_gpt2_files_are_known(tmp_path: Path) -> None:
    """The files on the hub have no prefix, and hold the causal mask."""
    model = small_model(small_config("gpt2"))
    path = written(model, tmp_path, "huggingface") / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    renamed = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    renamed["h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.float32)
    safetensors.numpy.save_file(renamed, path)
    for (_, expected), (_, found) in zip(
        model.tensors(), open_model(tmp_path).tensors(), strict=True
    ):
        np.testing.assert_array_equal(expected, found)


def test_a_head_that_is_stored_twice_is_read_once(tmp_path: Path) -> None:
    model = small_model(small_config("llama"))
    path = written(model, tmp_path, "huggingface") / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    safetensors.numpy.save_file(tensors, path)
    assert "lm_head.weight" not in dict(open_model(tmp_path).tensors())
    tensors["lm_head.weight"] += 1
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(UserError, match="differs from the embedding"):
        open_model(tmp_path)


def test_load_takes_every_format(tmp_path: Path) -> None:
    model = small_model(small_config("llama"))
    ids = np.arange(10)[None]
    expected = load_stored(model, ReaderConfig(engine="numpy"))(ids)
    for name in WHOLE:
        folder = tmp_path / name
        folder.mkdir()
        path = written(model, folder, name)
        np.testing.assert_allclose(load(path, engine="numpy")(ids), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("model_type", "mixtral"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "llama3", "rope_theta": 10000.0}),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("num_attention_heads", 0),
        ("num_attention_heads", "four"),
        ("hidden_size", -1),
        ("hidden_size", 128),
        ("num_hidden_layers", 3),
        ("num_hidden_layers", 1),
        ("vocab_size", 100),
        ("max_position_embeddings", 10**12),
        ("rms_norm_eps", float("nan")),
        ("tie_word_embeddings", False),
    ],
)
def test_a_config_that_does_not_fit_is_refused(entry: str, value: object, tmp_path: Path) -> None:
    path = written(small_model(small_config("llama")), tmp_path, "huggingface") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {entry: value}))
    with pytest.raises(UserError, match=str(tmp_path)):
        open_model(tmp_path)


def test_bfloat16_rounds_as_torch_does() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 100_000, np.uint32)
    special = np.array([0, 1 << 31, 0x7F800000, 0x7FC00000, 0x7F7FFFFF, 0x3F808000, 0x3F818000])
    values = np.concatenate((bits, special.astype(np.uint32))).view(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    found = from_bfloat16(to_bfloat16(values))
    finite = ~np.isnan(values)
    np.testing.assert_array_equal(found[finite], expected[finite])
    assert np.isnan(found[~finite]).all()


def test_float16_refuses_numbers_that_it_does_not_have() -> None:
    with pytest.raises(OverflowError):
        in_precision(np.array([1e6], np.float32), "float16")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_a_model_with_rounded_weights_is_saved_with_its_own(
    precision: ReaderPrecision, model: StoredModel, tmp_path: Path
) -> None:
    file = tmp_path / "saved.npz"
    load_stored(model, ReaderConfig(precision=precision)).save_weights(file)
    saved = dict(open_model(file, report=print).tensors())
    for name, values in model.tensors():
        np.testing.assert_array_equal(saved[name], values)
