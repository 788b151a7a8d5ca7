import errno
import json
import os
import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from homespun import durable
from homespun import tokenizer as module
from homespun.errors import UserError
from homespun.tokenizer import END_OF_TEXT, Tokenizer, train

Spec = dict[str, Any]


def stories(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    syllables = ["ka", "lo", "mi", "ren", "tas", "ul", "vé", "😀", "der", "chen"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(300)]
    return [" ".join(rng.choices(words, k=60)) + ".\n" for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(stories(200), 500)


@pytest.fixture(scope="module")
def spec(tokenizer: Tokenizer) -> Spec:
    parsed: Spec = json.loads(tokenizer.to_json())
    return parsed


# Text -------------------------------------------------------------------------------------------


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
    assert sorted(module._byte_alphabet()) == sorted(pre_tokenizers.ByteLevel.alphabet())
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


# Long texts -------------------------------------------------------------------------------------

SPACED = st.lists(
    st.tuples(
        st.text("ab'st1.,é中\u00a0\x1c", max_size=6),
        st.sampled_from([" ", "\n", "  ", "\n\n", " \t ", "\r\n", "\t", "\u3000 "]),
    ),
    max_size=60,
).map(lambda parts: "".join(word + space for word, space in parts))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(text=SPACED)
def test_pieces_have_the_ids_of_the_whole(tokenizer: Tokenizer, text: str) -> None:
    pieces = list(module._pieces(text, 32))
    assert "".join(pieces) == text
    assert all(len(piece) <= 32 for piece in pieces)
    is_forced = [
        piece[0] not in " \n" or before[-1].isspace() for before, piece in pairwise(pieces)
    ]
    for before, forced in zip(pieces, is_forced, strict=False):
        assert not forced or not re.search(r"\S[ \n]", before)
    assume(not any(is_forced))
    whole = tokenizer._library.encode(text, add_special_tokens=False).ids
    assert [token for piece in pieces for token in tokenizer.encode(piece)] == whole


@pytest.fixture(scope="module")
def spacious() -> Tokenizer:
    """Has tokens of much white space, so that the ids show where a run of it was cut."""
    spaces = [" ", "\n", "\t", "\r\n", "\x1c", "\u00a0"]
    runs = ["".join(run) for length in (2, 3, 4) for run in product(spaces, repeat=length)]
    return train(["".join(f"{run}ab.{run}'s" for run in runs)] * 2, 1500, or_less=True)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(texts=st.lists(SPACED | st.text(" \n\ta.'s\x1c\u00a0"), max_size=5))
@example(texts=["a  ", "  a"])
@example(texts=["a\t  b"])
@pytest.mark.parametrize("known", [module.KNOWN, 20])
def test_a_stream_has_the_ids_of_the_whole(
    spacious: Tokenizer, known: int, texts: list[str]
) -> None:
    tokenizer = Tokenizer.from_json(spacious.to_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "KNOWN", known)
        patch.setattr(module, "GROUP", 50)
        joined = tokenizer.join(texts).tolist()
    whole = [tokenizer._library.encode(text, add_special_tokens=False).ids for text in texts]
    assert joined == [token for ids in whole for token in (0, *ids)]


def test_words_are_looked_up_from_many_threads(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KNOWN", 1000)
    monkeypatch.setattr(module, "GROUP", 500)
    texts = [" ".join(map(str, range(start, start + 100))) for start in range(0, 8000, 50)]
    with ThreadPoolExecutor(4) as pool:
        streams = list(pool.map(tokenizer.join, [texts[start:] for start in range(8)]))
    expected = [[0, *tokenizer.encode(text)] for text in texts]
    for start, stream in enumerate(streams):
        assert stream.tolist() == [token for ids in expected[start:] for token in ids]
    assert sum(map(len, tokenizer._known)) < 10_000


@pytest.mark.parametrize("text", ["a" * 300_000, " " * 300_000, "中" * 100_000, "ab c " * 60_000])
def test_a_long_text_survives(tokenizer: Tokenizer, text: str) -> None:
    assert max(map(len, module._pieces(text, module.PIECE))) <= module.PIECE
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.join([text, "end"]).tolist() == [0, *ids, 0, *tokenizer.encode("end")]


# Streaming --------------------------------------------------------------------------------------


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


# Training ---------------------------------------------------------------------------------------


def test_the_same_text_gives_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    documents = tmp_path / "documents.json"
    documents.write_text(json.dumps(stories(200)), encoding="utf-8")
    program = (
        "import json, sys; from pathlib import Path; from homespun.tokenizer import train; "
        "print(train(json.loads(Path(sys.argv[1]).read_text()), 500).sha256)"
    )
    for parallel in ("true", "false"):
        environment = os.environ | {"TOKENIZERS_PARALLELISM": parallel, "RAYON_NUM_THREADS": "3"}
        command = [sys.executable, "-c", program, str(documents)]
        printed = subprocess.run(command, env=environment, capture_output=True, check=True)
        assert printed.stdout.decode().strip() == tokenizer.sha256
    assert train(stories(200, seed=1), 500).sha256 != tokenizer.sha256


def test_a_vocabulary_that_the_text_does_not_support_is_refused() -> None:
    documents = ["the cat sat on the mat, and the cat sat"]
    with pytest.raises(UserError, match=r"at most (\d+) tokens, not 8,000") as refused:
        train(documents, 8000)
    largest = int(str(refused.value).split("at most ")[1].split()[0])
    assert train(documents, largest).vocab_size == largest
    with pytest.raises(UserError, match=f"at most {largest} "):
        train(documents, largest + 1)


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(UserError, match="256"):
        train(["text"], 256)
    assert train(["text"], 257).vocab_size == 257


def test_the_sample_fits_and_is_spread_over_the_text() -> None:
    pieces = [f"{number:05} " + "x" * 94 for number in range(10_000)]
    sample = module._sample(pieces, 20_000, 10**9)
    assert 10_000 <= sum(map(sys.getsizeof, sample)) <= 20_000
    numbers = [int(piece[:5]) for piece in sample]
    assert numbers[0] == 0
    assert set(np.diff(numbers)) == {128}
    assert numbers[-1] > 10_000 - 128
    assert module._sample(pieces[:100], 20_000, 10**9) == pieces[:100]


def test_the_sample_has_a_bounded_number_of_distinct_words() -> None:
    rng = random.Random(0)
    pieces = ["".join(rng.choices("abcdefgh", k=100)) for _ in range(500)]
    assert 5_000 <= sum(map(len, module._sample(pieces, 10**9, 10_000))) <= 10_000
    assert module._sample(["same words"] * 500, 10**9, 10_000) == ["same words"] * 500


def test_a_stream_of_any_length_is_sampled_in_bounded_memory() -> None:
    piece = "one two three four five six seven " * 30
    tracemalloc.start()
    try:
        module._sample((f"{piece}{number}" for number in range(4_000)), 200_000, 10**9)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000 < 4_000 * len(piece)


# Files ------------------------------------------------------------------------------------------


def test_a_saved_tokenizer_comes_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "deep" / "saved", {"note": "é"})
    for path in ("deep/saved", "deep/saved/tokenizer.json"):
        loaded = Tokenizer.load(tmp_path / path)
        assert loaded.sha256 == tokenizer.sha256
        assert loaded.encode(stories(1)[0]) == tokenizer.encode(stories(1)[0])
        assert 0 not in loaded.encode(END_OF_TEXT)
    assert Tokenizer.from_json(tokenizer.to_json()).to_json() == tokenizer.to_json()
    report = json.loads((tmp_path / "deep/saved/report.json").read_text(encoding="utf-8"))
    assert report == {"vocab_size": 500, "sha256": tokenizer.sha256, "note": "é"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["saved"]


def test_other_libraries_read_the_folder(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Library
    from transformers import PreTrainedTokenizerFast

    tokenizer.save(tmp_path / "saved")
    text = stories(1)[0]
    library = Library.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert library.encode(text).ids == tokenizer.encode(text)
    assert library.decode(tokenizer.encode(text)) == text
    fast = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    assert fast(text)["input_ids"] == tokenizer.encode(text)
    assert fast.decode(tokenizer.encode(text)) == text
    assert (fast.eos_token, fast.eos_token_id, len(fast)) == (END_OF_TEXT, 0, 500)


def test_the_identity_is_the_content_not_the_file(tokenizer: Tokenizer, spec: Spec) -> None:
    older = json.loads(json.dumps(spec))
    older["model"]["merges"] = [" ".join(merge) for merge in spec["model"]["merges"]]
    older["model"]["vocab"] = dict(reversed(spec["model"]["vocab"].items()))
    assert Tokenizer.from_json(json.dumps(older, indent=1)).sha256 == tokenizer.sha256
    other = json.loads(json.dumps(spec))
    merges = other["model"]["merges"]
    merges[-1], merges[-2] = merges[-2], merges[-1]
    assert Tokenizer.from_json(json.dumps(other)).sha256 != tokenizer.sha256


def _set(*keys: str, value: object) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        for key in keys[:-1]:
            spec = spec[key]
        spec[keys[-1]] = value

    return change


FOREIGN: dict[str, Callable[[Spec], object]] = {
    "WordPiece": _set("model", "type", value="WordPiece"),
    "Metaspace": _set("pre_tokenizer", value={"type": "Metaspace"}),
    "no pre-tokenizer": _set("pre_tokenizer", value=None),
    "prefix space": _set("pre_tokenizer", "add_prefix_space", value=True),
    "another expression": _set("pre_tokenizer", "use_regex", value=False),
    "normalizer": _set("normalizer", value={"type": "NFKC"}),
    "dropout": _set("model", "dropout", value=0.1),
    "byte fallback": _set("model", "byte_fallback", value=True),
    "word suffix": _set("model", "end_of_word_suffix", value="</w>"),
    "whole words": _set("model", "ignore_merges", value=True),
    "no special token": _set("added_tokens", value=[]),
    "second special token": lambda spec: spec["added_tokens"].append({"content": "<pad>"}),
    "end of text not in the vocabulary": lambda spec: spec["model"]["vocab"].pop(END_OF_TEXT),
    "byte missing": lambda spec: spec["model"]["vocab"].pop("!"),
    "ids with a gap": _set("model", "vocab", "!", value=500),
    "id twice": _set("model", "vocab", "!", value=2),
    "no vocabulary": lambda spec: spec["model"].pop("vocab"),
    "vocabulary a list": _set("model", "vocab", value=[]),
    "ids that are texts": _set("model", "vocab", "!", value="1"),
    "token that is not of bytes": _set("model", "vocab", "中", value=500),
    "merge of three": lambda spec: spec["model"]["merges"].append(["a", "b", "c"]),
    "merge of numbers": lambda spec: spec["model"]["merges"].append([1, 2]),
    "merge into no token": lambda spec: spec["model"]["merges"].append(["!", "!"]),
    "no merges": lambda spec: spec["model"].pop("merges"),
    "no model": lambda spec: spec.pop("model"),
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_or_damaged_tokenizer_is_refused(
    spec: Spec, tmp_path: Path, change: Callable[[Spec], object]
) -> None:
    changed = json.loads(json.dumps(spec))
    change(changed)
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json: ") as refused:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", "{}", "[" * 100_000, '{"model": 1}'])
def test_what_is_no_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json: "):
        Tokenizer.from_json(text)


def test_an_unreadable_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no tokenizer here"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="there is no tokenizer here"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not readable"):
        Tokenizer.load(tmp_path)


def test_an_earlier_tokenizer_moves_aside(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    others = [train(stories(50, seed), 300) for seed in (1, 2)]
    assert others[0].save(folder) is None
    assert others[1].save(folder) == tmp_path / "saved.1"
    assert tokenizer.save(folder) == tmp_path / "saved.2"
    kept = [Tokenizer.load(tmp_path / name).sha256 for name in ("saved.1", "saved.2", "saved")]
    assert kept == [others[0].sha256, others[1].sha256, tokenizer.sha256]


def test_a_folder_with_something_else_is_left_alone(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "file").write_text("text")
    for name in ("photos", "file", "file/below"):
        with pytest.raises(UserError, match=name):
            tokenizer.save(tmp_path / name)
    monkeypatch.chdir(photos)
    for here in (".", ".."):
        with pytest.raises(UserError, match="a folder of its own"):
            tokenizer.save(Path(here))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cat.jpg", "file", "photos"]


def test_a_full_disk_leaves_the_earlier_tokenizer(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = train(stories(50), 300)
    earlier.save(tmp_path / "saved")

    def full(path: Path, *parts: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "write", full)
    with pytest.raises(UserError, match="No space left"):
        tokenizer.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").sha256 == earlier.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
