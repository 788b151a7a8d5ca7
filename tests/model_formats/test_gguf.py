"""GGUF files: the vocabulary of every known splitting, quantised weights, and files that lie about themselves."""

import contextlib
import dataclasses
import json
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from homespun.errors import UserError
from homespun.model_formats import gguf as gguf_format
from homespun.model_formats.formats import open_model
from homespun.model_formats.gguf_file import read_gguf
from homespun.model_formats.gguf_tokenizer import SPLITTINGS, from_metadata, to_metadata
from homespun.model_formats.stored_model import StoredModel
from homespun.tokenizer import Tokenizer
from tests.model_formats.conftest import small_config, small_model, small_tokenizer
from tests.tokenizer import kinds

TEXT = "It's 3:45 — naïve café 日本語 👩‍👩‍👧\n\n\tdef f(x): return 12345\r\n <|endoftext|> e\u0301\x01 don't\n"


@pytest.fixture(scope="module")
def model() -> StoredModel:
    return small_model(small_config("llama"))


@pytest.fixture
def file(model: StoredModel, tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    gguf_format.write_file(model, path, "float32")
    return path


def tokenizer_with(splitting: str) -> Tokenizer:
    """The small tokenizer with another splitting, and an added token."""
    specification = json.loads(small_tokenizer().to_json())
    specification["pre_tokenizer"] = SPLITTINGS[splitting]
    specification["normalizer"] = {"type": "NFC"} if splitting == "qwen2" else None
    specification["model"]["ignore_merges"] = splitting == "llama-bpe"
    added = specification["added_tokens"][0] | {"id": 500, "content": "<think>", "special": False}
    specification["added_tokens"].append(added)
    return Tokenizer.from_json(json.dumps(specification))


@pytest.mark.parametrize("splitting", SPLITTINGS)
def test_a_vocabulary_comes_back(splitting: str) -> None:
    tokenizer = tokenizer_with(splitting)
    metadata = to_metadata(tokenizer, 512)
    assert metadata["tokenizer.ggml.pre"] == splitting
    back = from_metadata(metadata, "model.gguf")
    assert back.encode(TEXT) == tokenizer.encode(TEXT)
    assert [back.token_bytes(n) for n in range(501)] == [
        tokenizer.token_bytes(n) for n in range(501)
    ]
    assert back.eot_id == tokenizer.eot_id


def test_other_tokenizers_are_refused() -> None:
    specification = json.loads(small_tokenizer().to_json())
    specification["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": False},
            SPLITTINGS["gpt-2"],
        ],
    }
    with pytest.raises(UserError, match="splitting text"):
        to_metadata(Tokenizer.from_json(json.dumps(specification)), 512)
    with pytest.raises(UserError, match="kind t5"):
        from_metadata({"tokenizer.ggml.model": "t5"}, "model.gguf")


VOCABULARIES = ("gpt2", "llama3", "qwen", "smollm2", "llama2")


def check_vocabulary(kind: str, n_characters: int, folder: Path) -> None:
    """The vocabulary of a `tokenizer.json`, written to a GGUF file and read, has the ids of `transformers`."""
    (folder / "tokenizer.json").write_text(kinds.as_json(kind), encoding="utf-8")
    path = folder / "model.gguf"
    tokenizer = Tokenizer.from_json(kinds.as_json(kind))
    config = dataclasses.replace(small_config("llama"), vocab_size=tokenizer.vocab_size + 3)
    gguf_format.write_file(small_model(config, tokenizer), path, "float16")
    read = open_model(path).tokenizer
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), split_special_tokens=True
    )
    text = kinds.comparable(kind, kinds.mixed_text(n_characters))
    assert read.encode(text) == theirs(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert (read.eot_id, read.vocab_size) == (tokenizer.eot_id, tokenizer.vocab_size)
    assert read.decode(read.encode(text)) == tokenizer.decode(tokenizer.encode(text))


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_a_vocabulary_has_the_ids_of_transformers(kind: str, tmp_path: Path) -> None:
    check_vocabulary(kind, 30_000, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", VOCABULARIES)
def test_a_megabyte_has_the_ids_of_transformers(kind: str, tmp_path: Path) -> None:
    assert len(kinds.mixed_text(730_000).encode()) > 1_000_000
    check_vocabulary(kind, 730_000, tmp_path)


def sentencepiece_metadata() -> dict[str, Any]:
    """The vocabulary of Llama 2's kind, with scores."""
    return to_metadata(Tokenizer.from_json(kinds.as_json("llama2")), 400)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("tokenizer.ggml.scores"), "damaged ('tokenizer.ggml.scores')"),
        (lambda data: data["tokenizer.ggml.scores"].pop(), "damaged (zip() argument 3"),
        (lambda data: data.update({"tokenizer.ggml.scores": ["x"] * 400}), "damaged (could not"),
        (lambda data: data.update({"tokenizer.ggml.eos_token_id": 400}), "damaged (list index"),
        (lambda data: data.update({"tokenizer.ggml.eos_token_id": "2"}), "damaged (list indices"),
        (lambda data: data.update({"tokenizer.ggml.unknown_token_id": 4000}), "damaged (list"),
        (lambda data: data.update({"tokenizer.ggml.token_type": [1] * 400}), "none of its special"),
        (
            lambda data: data["tokenizer.ggml.tokens"].__setitem__(5, "x0"),
            "cannot be used here: its vocabulary has no token <0x02>",
        ),
        (
            lambda data: data.update({"tokenizer.ggml.scores": [0.0] * 400}),
            "cannot be used here: its pieces '</' and 'on' have the same score",
        ),
    ],
)
def test_scores_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    metadata = sentencepiece_metadata()
    assert from_metadata(metadata, "model.gguf").vocab_size < 400
    change(metadata)
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        from_metadata(metadata, "model.gguf")
    assert str(refused.value).startswith("model.gguf: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "BF16", "F16"])
def test_quantised_weights_are_read(kind: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    stored_as = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    stored = values.astype(np.float16) if kind == "F16" else gguf.quantize(values, stored_as)
    writer.add_tensor("x", stored, raw_dtype=stored_as)
    for write in (
        "write_header_to_file",
        "write_kv_data_to_file",
        "write_tensors_to_file",
        "close",
    ):
        getattr(writer, write)()
    found = read_gguf(tmp_path / "x.gguf").tensors["x"].read_floats()
    expected = gguf.dequantize(stored, stored_as)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - values).max() < 0.5


def test_the_library_reads_the_file(model: StoredModel, file: Path) -> None:
    theirs, ours = gguf.GGUFReader(file), read_gguf(file)
    assert {tensor.name for tensor in theirs.tensors} == ours.tensors.keys()
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            found = ours.metadata[key]
            assert np.array_equal(found, field.contents()), key


def test_queries_and_keys_are_stored_in_the_order_of_llama_cpp(file: Path) -> None:
    """The rows of a head alternate between its halves: 0, 8, 1, 9, ..."""
    config = small_config("llama")
    weights = dict(small_model(config).tensors())
    ours = weights["model.layers.0.self_attn.q_proj.weight"]
    stored = read_gguf(file).tensors["blk.0.attn_q.weight"].read_floats()
    half = config.head_dim // 2
    order = [row for n in range(half) for row in (n, n + half)]
    np.testing.assert_array_equal(stored[: config.head_dim], ours[order])


@pytest.mark.parametrize(
    "key",
    [
        "llama.expert_count",
        "llama.attention.sliding_window",
        "llama.block_count",
        "llama.attention.head_count",
        "llama.embedding_length",
        "llama.context_length",
        "llama.rope.dimension_count",
        "tokenizer.ggml.model",
        "general.architecture",
    ],
)
def test_metadata_that_do_not_fit_are_refused(key: str, file: Path) -> None:
    data = file.read_bytes()
    stored = struct.pack("<Q", len(key)) + key.encode()
    if stored in data:
        at = data.index(stored) + len(stored) + 4
        at += 8 * key.startswith(("general", "tokenizer"))
        file.write_bytes(data[:at] + b"\x77\x77\x77\x00" + data[at + 4 :])
    else:  # an entry more
        at = 24
        entry = stored + struct.pack("<II", 4, 7)
        count = struct.unpack_from("<Q", data, 16)[0]
        file.write_bytes(data[:16] + struct.pack("<Q", count + 1) + entry + data[at:])
    with pytest.raises(UserError, match=str(file)):
        open_model(file)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(8, 2**63), (16, 2**63), (8, 2**40), (16, 9_999), (24, 2**62)],
    ids=["tensors", "entries", "many tensors", "many entries", "a long key"],
)
def test_impossible_counts_are_refused(offset: int, value: int, file: Path) -> None:
    data = bytearray(file.read_bytes())
    struct.pack_into("<Q", data, offset, value)
    file.write_bytes(data)
    with pytest.raises(UserError, match="damaged or no GGUF file"):
        open_model(file)


def test_a_flipped_or_cut_file_is_refused_or_taken(file: Path) -> None:
    good = file.read_bytes()
    generator = random.Random(0)
    head = good.index(b"blk.1") + 2000
    for n in range(300):
        data = bytearray(good)
        if n % 3:
            data[generator.randrange(head)] ^= 1 << generator.randrange(8)
        else:
            del data[generator.randrange(len(data)) :]
        file.write_bytes(data)
        with contextlib.suppress(UserError):
            for _ in open_model(file).tensors():
                pass
