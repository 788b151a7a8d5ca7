"""Tokenizers from any `tokenizer.json`: same ids and text as the library; unusable files are refused."""

import hashlib
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from tokenizers import Tokenizer as Library
from transformers import PreTrainedTokenizerFast

from homespun.errors import UserError
from homespun.tokenizer import END_OF_TEXT, Tokenizer
from tests.tokenizer import kinds
from tests.tokenizer.kinds import Json

EOT = {
    "llama3": "<|end_of_text|>",
    "llama2": "</s>",
    "unigram": "</s>",
}
"""The separator of each kind that does not use END_OF_TEXT."""


@pytest.fixture(scope="module", params=kinds.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def loaded(kind: str) -> Tokenizer:
    return Tokenizer.from_json(kinds.as_json(kind))


# Ids and text -----------------------------------------------------------------------------------


def test_transformers_gives_the_same_ids(kind: str, loaded: Tokenizer, tmp_path: Path) -> None:
    text = kinds.comparable(kind, kinds.mixed_text())
    (tmp_path / "tokenizer.json").write_text(kinds.as_json(kind), encoding="utf-8")
    other = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), split_special_tokens=True
    )
    encoded = other(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert loaded.encode(text) == encoded
    assert loaded.join([text]).tolist() == [loaded.eot_id, *encoded]
    assert loaded.vocab_size == len(other)


def test_special_tokens_never_come_from_text(kind: str, loaded: Tokenizer) -> None:
    special = [token for token in kinds.specification(kind)["added_tokens"] if token["special"]]
    ids = {token["id"] for token in special if token["content"] != "<unk>"}
    for token in special:
        for text in (token["content"], f"a {token['content']} b", f"x{token['content']}y"):
            assert not ids & set(loaded.encode(text))
            assert np.count_nonzero(loaded.join([text]) == loaded.eot_id) == 1
        assert loaded.token_bytes(token["id"]) == b""
    assert loaded.eot_id in ids
    assert Library.from_str(kinds.as_json(kind)).id_to_token(loaded.eot_id) == EOT.get(
        kind, END_OF_TEXT
    )


@settings(derandomize=True, deadline=None, max_examples=100)
@given(text=kinds.TEXTS)
@example(text="")
@example(text=" The  upon")
@example(text="größer <0x41> é中\n")
def test_ids_come_back_as_the_text(kind: str, loaded: Tokenizer, text: str) -> None:
    ids = loaded.encode(text)
    stream = loaded.stream()
    decoded = loaded.decode(ids)
    assert "".join([*map(stream.push, ids), stream.flush()]) == decoded
    assert loaded.byte_lengths[ids].sum() == len(b"".join(map(loaded.token_bytes, ids)))
    if kind in ("gpt2", "llama3", "unknown_splitting", "spaces_in_added_tokens"):
        assert decoded == text
    if kind == "qwen" and "<think>" not in text:
        assert decoded == unicodedata.normalize("NFC", text)
    if kind == "unigram" and text.startswith(("▁", " ")):
        return  # the library drops all spaces at the start
    if kind != "stripping_added_tokens":  # the library decodes their letters as bytes
        assert decoded == kinds.library_of(kind).decode(ids)


@pytest.mark.parametrize("kind", ["llama2", "unigram"], scope="module")
def test_a_continuation_keeps_its_space(loaded: Tokenizer) -> None:
    ids = loaded.encode("once upon The")
    beginning, rest = ids[:-1], ids[-1:]
    assert loaded.decode(beginning) + loaded.decode(rest, continued=True) == "once upon The"
    stream = loaded.stream(continued=True)
    assert stream.push(rest[0]) == loaded.decode(rest, continued=True)
    assert loaded.decode([loaded.eot_id, *ids]) == "once upon The"


def test_bytes_that_are_no_characters_give_a_replacement() -> None:
    loaded = Tokenizer.from_json(kinds.as_json("llama2"))
    ids = loaded.encode("日")
    assert b"".join(map(loaded.token_bytes, ids)) == b" \xe6\x97\xa5"
    stream = loaded.stream()
    assert [stream.push(token) for token in ids] == ["", "", "", "日"]
    assert loaded.decode(ids[:-1]) == "\ufffd"


def test_a_vocabulary_without_a_byte_loses_it() -> None:
    loaded = Tokenizer.from_json(kinds.as_json("smollm2"))
    ids = loaded.encode("a \U00050000b")
    assert b"".join(map(loaded.token_bytes, ids)) == b"a \x90\x80\x80b"
    assert loaded.join(["a \U00050000b"]).tolist() == [loaded.eot_id, *ids]


def test_half_a_surrogate_pair_is_refused(loaded: Tokenizer) -> None:
    for call in (loaded.encode, lambda text: loaded.join([text])):
        with pytest.raises(UserError, match="surrogate"):
            call("before \udfff after")


# Identity and files -----------------------------------------------------------------------------


def test_a_saved_tokenizer_is_the_same(kind: str, loaded: Tokenizer, tmp_path: Path) -> None:
    loaded.save(tmp_path / "saved")
    again = Tokenizer.load(str(tmp_path / "saved"))
    text = kinds.mixed_text(5_000)
    assert again.encode(text) == loaded.encode(text)
    assert (again.sha256, again.eot_id, again.vocab_size) == (
        loaded.sha256,
        loaded.eot_id,
        loaded.vocab_size,
    )
    other = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    assert other.eos_token_id == loaded.eot_id
    assert len(other) == loaded.vocab_size


def test_the_identity_is_what_decides_ids(kind: str, loaded: Tokenizer) -> None:
    def identity(change: Callable[[Json], object]) -> str:
        specification = kinds.specification(kind)
        change(specification)
        return Tokenizer.from_json(json.dumps(specification, indent=1)).sha256

    truncation = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    assert (
        identity(lambda spec: spec.update(truncation=truncation, padding=padding)) == loaded.sha256
    )
    if kind != "unigram":
        assert identity(lambda spec: spec["model"].update(dropout=0.5)) == loaded.sha256
        assert identity(lambda spec: spec["model"]["merges"].reverse()) != loaded.sha256
        assert identity(lambda spec: spec["model"].pop("byte_fallback")) == (
            loaded.sha256
            if kind != "llama2"
            else identity(_set("model", "byte_fallback", value=False))
        )
    assert identity(lambda spec: spec["added_tokens"][-1].update(single_word=True)) != loaded.sha256


def test_truncation_padding_and_dropout_change_no_ids(kind: str, loaded: Tokenizer) -> None:
    specification = kinds.specification(kind)
    specification["truncation"] = {
        "direction": "Right",
        "max_length": 8,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    if kind != "unigram":
        specification["model"]["dropout"] = 0.9
    text = kinds.mixed_text(2_000)
    assert Tokenizer.from_json(json.dumps(specification)).encode(text) == loaded.encode(text)


# The separator ----------------------------------------------------------------------------------


def test_the_separator_can_be_chosen_and_is_kept(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(kinds.as_json("qwen"), encoding="utf-8")
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"eos_token": "<|im_end|>"}), encoding="utf-8")
    usual = Tokenizer.load(tmp_path)
    assert usual.encode("a") == Tokenizer.load(tmp_path, eos_token="<|im_end|>").encode("a")
    library = Library.from_str(kinds.as_json("qwen"))
    assert usual.eot_id == library.token_to_id(END_OF_TEXT)
    chosen = Tokenizer.load(tmp_path, eos_token="<|im_end|>")
    assert chosen.eot_id == library.token_to_id("<|im_end|>")
    assert chosen.sha256 != usual.sha256
    again = Tokenizer.from_json(chosen.to_json())
    assert (again.eot_id, again.sha256) == (chosen.eot_id, chosen.sha256)
    assert again.to_json() == chosen.to_json()
    assert Library.from_str(chosen.to_json()).to_str() == library.to_str()
    with pytest.raises(UserError, match=r"<\|end\|> is not one of its special tokens"):
        Tokenizer.load(tmp_path, eos_token="<|end|>")
    chosen.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").sha256 == chosen.sha256
    assert Tokenizer.load(tmp_path / "saved", eos_token=END_OF_TEXT).sha256 == usual.sha256


def test_the_config_names_a_separator_that_is_not_known(tmp_path: Path) -> None:
    text = kinds.as_json("unigram").replace("</s>", "<stop>")
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json: none of its special tokens .*eos_token"):
        Tokenizer.load(tmp_path)
    for eos in ("<stop>", {"content": "<stop>", "lstrip": False}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
        loaded = Tokenizer.load(tmp_path)
        assert loaded.eot_id == Tokenizer.from_json(loaded.to_json()).eot_id == 1
    for damaged in ("{", "[]", '{"eos_token": 3}'):
        (tmp_path / "tokenizer_config.json").write_text(damaged)
        with pytest.raises(UserError, match="eos_token"):
            Tokenizer.load(tmp_path)


# Our own kind -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spec(tokenizer: Tokenizer) -> Json:
    parsed: Json = json.loads(tokenizer.to_json())
    return parsed


def test_a_file_without_the_type_of_its_model_is_read(tokenizer: Tokenizer, spec: Json) -> None:
    """Older versions of the library leave the type out, as in the file of GPT-2."""
    for parsed, expected in (
        (json.loads(json.dumps(spec)), tokenizer.sha256),
        (kinds.specification("gpt2"), Tokenizer.from_json(kinds.as_json("gpt2")).sha256),
    ):
        del parsed["model"]["type"]
        assert Tokenizer.from_json(json.dumps(parsed)).sha256 == expected


def test_our_own_identity_is_the_content_not_the_file(tokenizer: Tokenizer, spec: Json) -> None:
    older = json.loads(json.dumps(spec))
    older["model"]["merges"] = [" ".join(merge) for merge in spec["model"]["merges"]]
    older["model"]["vocab"] = dict(reversed(spec["model"]["vocab"].items()))
    assert Tokenizer.from_json(json.dumps(older, indent=1)).sha256 == tokenizer.sha256
    other = json.loads(json.dumps(spec))
    merges = other["model"]["merges"]
    merges[-1], merges[-2] = merges[-2], merges[-1]
    assert Tokenizer.from_json(json.dumps(other)).sha256 != tokenizer.sha256
    content = {"merges": spec["model"]["merges"], "vocabulary": spec["model"]["vocab"]}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    assert tokenizer.sha256 == hashlib.sha256(canonical).hexdigest()


def _set(*keys: str, value: object) -> Callable[[Json], None]:
    def change(spec: Json) -> None:
        for key in keys[:-1]:
            spec = spec[key]
        spec[keys[-1]] = value

    return change


OTHERS: dict[str, Callable[[Json], object]] = {
    "prefix space": _set("pre_tokenizer", "add_prefix_space", value=True),
    "no expression": _set("pre_tokenizer", "use_regex", value=False),
    "no pre-tokenizer": _set("pre_tokenizer", value=None),
    "normalizer": _set("normalizer", value={"type": "NFKC"}),
    "byte fallback": _set("model", "byte_fallback", value=True),
    "whole words": _set("model", "ignore_merges", value=True),
    "byte missing": lambda spec: spec["model"]["vocab"].pop("~"),
    "ids with a gap": _set("model", "vocab", "~", value=600),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_tokenizer_close_to_our_own_is_another(
    tokenizer: Tokenizer, spec: Json, change: Callable[[Json], object]
) -> None:
    changed = json.loads(json.dumps(spec))
    change(changed)
    loaded = Tokenizer.from_json(json.dumps(changed))
    text = "größer  than\nlokami ~ren 😀"
    library = Library.from_str(json.dumps(changed))
    assert loaded.encode(text) == library.encode(text).ids
    assert loaded.decode(loaded.encode(text)) == library.decode(library.encode(text).ids)
    assert loaded.join([text]).tolist() == [0, *loaded.encode(text)]
    assert loaded.sha256 != tokenizer.sha256
    assert loaded.vocab_size == max(library.get_vocab().values()) + 1
    assert len(loaded.byte_lengths) == loaded.vocab_size


# Refused ----------------------------------------------------------------------------------------

REFUSED: dict[str, Callable[[Json], object]] = {
    "model of another type": _set("model", "type", value="RNN"),
    "broken expression": _set(
        "pre_tokenizer",
        value={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False},
    ),
    "no special token": _set("added_tokens", value=[]),
    "added token with another id": lambda spec: spec["added_tokens"].append(
        spec["added_tokens"][0] | {"content": "<pad>", "id": 900}
    ),
    "added token without an id": lambda spec: spec["added_tokens"].append({"content": "<pad>"}),
    "end of text not in the vocabulary": lambda spec: spec["model"]["vocab"].pop(END_OF_TEXT),
    "id twice": _set("model", "vocab", "!", value=2),
    "huge id": _set("model", "vocab", "!", value=1 << 31),
    "larger id than the library takes": _set("model", "vocab", "!", value=1 << 40),
    "no vocabulary": lambda spec: spec["model"].pop("vocab"),
    "vocabulary a list": _set("model", "vocab", value=[]),
    "ids that are texts": _set("model", "vocab", "!", value="1"),
    "merge of three": lambda spec: spec["model"]["merges"].append(["a", "b", "c"]),
    "merge of numbers": lambda spec: spec["model"]["merges"].append([1, 2]),
    "merge into no token": lambda spec: spec["model"]["merges"].append(["!", "!"]),
    "no merges": lambda spec: spec["model"].pop("merges"),
    "no model": lambda spec: spec.pop("model"),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_a_damaged_tokenizer_is_refused_in_one_line(
    spec: Json, tmp_path: Path, change: Callable[[Json], object]
) -> None:
    changed = json.loads(json.dumps(spec))
    change(changed)
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json: ") as refused:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("decoder", [None, {"type": "WordPiece", "prefix": "##", "cleanup": True}])
def test_a_decoder_of_another_kind_is_refused(decoder: object) -> None:
    changed = kinds.specification("gpt2") | {"decoder": decoder}
    with pytest.raises(UserError, match=r"tokenizer\.json: its decoder is neither"):
        Tokenizer.from_json(json.dumps(changed))


def test_a_model_that_fails_at_unknown_characters_is_refused() -> None:
    changed = kinds.specification("unigram")
    changed["model"]["unk_id"] = None
    with pytest.raises(UserError, match=r"tokenizer\.json: .*unk_id"):
        Tokenizer.from_json(json.dumps(changed))


def test_a_special_token_that_text_can_spell_is_refused() -> None:
    """Without a pre-tokenizer, the spelling may be found in the vocabulary as a whole."""
    specification = kinds.specification("llama3") | {"pre_tokenizer": None}
    specification["model"]["vocab"]["<|end_of_text|>"] = 5000
    specification["added_tokens"] = [
        {"id": 5000, "content": "<|end_of_text|>", "special": True, "single_word": False}
        | {"lstrip": False, "rstrip": False, "normalized": False}
    ]
    with pytest.raises(UserError, match="cannot be told from text"):
        Tokenizer.from_json(json.dumps(specification))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", "{}", "[" * 100_000, '{"model": 1}'])
def test_what_is_no_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json: "):
        Tokenizer.from_json(text)
