"""Small tokenizers of published kinds, each as a `tokenizer.json`, and varied text to test them with.

Splittings, normalizers and decoders are those of the published files; the vocabularies are trained here.
"""

import json
import random
from functools import cache
from typing import Any

from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from tests.tokenizer.conftest import story_texts

Json = dict[str, Any]

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UNKNOWN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+"

WORDS = [
    *["once", " upon", "The", " größer", " naïve", "e\u0301", " Ångström", "A\u030a", " Ещё раз"],
    *[
        "中文字",
        "日本語の",
        " 한국어",
        " العربية",
        "עברית",
        " हिन्दी",
        "ไทย",
        "👩‍👩‍👧‍👦",
        "😀",
        " 🇩🇪",
    ],
    *[
        "def f(x):",
        "    return x",
        "\treturn",
        "{\n",
        "};\n\n",
        "/*",
        "*/\r\n",
        "->",
        "!=",
        "http://a.b/c?d=1",
    ],
    *[
        "1",
        "23",
        " 456",
        "78901",
        "٣٤",
        "½",
        "²",
        " 3.14",
        "'s",
        "'S",
        " 'll",
        "don't",
        "'",
        '"',
        "“",
        "”",
    ],
    *[
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        " \n",
        "\n ",
        "\r\n",
        "\r",
        "\t",
        " \t ",
        "\u00a0",
        "\u3000",
        "\u2028",
    ],
    *[
        "\x0b",
        "\x0c",
        "\x1c",
        "\x1f",
        "\x85",
        "\u200b",
        "\ufeff",
        "\0",
        "\x01",
        "\x7f",
        "\u0300",
        " \u0338",
    ],
    *[
        ".",
        ",",
        "...",
        "!\n",
        "?",
        " -",
        "--",
        "_",
        "<",
        ">",
        "=",
        "<|endoftext|>",
        "<|im_start|>",
        "</s>",
    ],
    *["<think>", "<think>\u0338", " <think> ", "<unk>", "<0x41>", "▁", "\U0010ffff", "ſ", "İ", "ﬁ"],
]
TEXTS = st.lists(
    st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    max_size=30,
).map("".join)


@cache
def mixed_text(n_characters: int = 100_000) -> str:
    """Text with many scripts, code, numbers, signs and white space."""
    rng = random.Random(0)
    return "".join(rng.choices(WORDS, k=n_characters))[:n_characters]


def _trained(
    normalizer: Any, pre_tokenizer: Any, special: list[str], missing: str = "", **options: Any
) -> Tokenizer:
    """A byte-level BPE. The vocabulary lacks the bytes in `missing`, which are written in the byte alphabet."""
    library = Tokenizer(models.BPE(**options))
    if normalizer is not None:
        library.normalizer = normalizer
    library.pre_tokenizer = pre_tokenizer
    library.decoder = decoders.ByteLevel()
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(missing))
    trainer = trainers.BpeTrainer(
        vocab_size=1200, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator([*story_texts(50), mixed_text(20_000)], trainer)
    library.add_special_tokens(special)
    return library


def _split(expression: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def gpt2() -> Tokenizer:
    """Differs from the tokenizers that are trained here only in its second special token."""
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _trained(None, pre_tokenizer, ["<|endoftext|>", "<|im_start|>"])


def llama3() -> Tokenizer:
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|im_start|>"]
    return _trained(None, _split(LLAMA3), special, ignore_merges=True)


def qwen() -> Tokenizer:
    library = _trained(
        normalizers.NFC(), _split(QWEN), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    )
    library.add_tokens([AddedToken("<think>", normalized=False)])
    return library


def smollm2() -> Tokenizer:
    """Lacks the byte 0xF1, as the published vocabulary lacks some bytes: characters with this byte are lost."""
    pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    return _trained(
        None, pre_tokenizer, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], missing="ñ"
    )


def unknown_splitting() -> Tokenizer:
    return _trained(None, _split(UNKNOWN), ["<|endoftext|>"])


def unknown_normalizer() -> Tokenizer:
    return _trained(normalizers.NFKC(), _split(QWEN), ["<|endoftext|>"])


def spaces_in_added_tokens() -> Tokenizer:
    """An added token extends across a place where texts could otherwise be cut."""
    library = gpt2()
    library.add_tokens(["upon The"])
    return library


def stripping_added_tokens() -> Tokenizer:
    """An added token absorbs the white space around it."""
    library = gpt2()
    library.add_tokens([AddedToken("größer", lstrip=True, rstrip=True)])
    return library


def llama2() -> Tokenizer:
    """SentencePiece's BPE: adds a space before each text and encodes unknown characters as bytes."""
    alphabet = [chr(number) for number in range(33, 127)] + ["▁", "\n", "é", "中"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *alphabet]
    merges = [
        ("▁", "T"),
        ("▁T", "h"),
        ("▁Th", "e"),
        ("o", "n"),
        ("on", "c"),
        ("<", "/"),
        ("s", ">"),
    ]
    merges += [("</", "s>"), ("▁", "▁"), ("▁", "u"), ("p", "on"), ("▁u", "pon")]
    pieces += [left + right for left, right in merges if left + right not in pieces]
    library = Tokenizer(
        models.BPE(
            {piece: token for token, piece in enumerate(pieces)},
            merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    library.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    return library


def unigram() -> Tokenizer:
    """A Unigram model, as in T5."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(chr(number), -4.0 - number / 100) for number in range(33, 127)]
    pieces += [(word, -3.0) for word in ("▁once", "▁The", "▁upon", "▁größer", "é", "中", "\n")]
    library = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    library.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return library


KINDS = {
    make.__name__: make
    for make in (
        gpt2,
        llama3,
        qwen,
        smollm2,
        unknown_splitting,
        unknown_normalizer,
        spaces_in_added_tokens,
        stripping_added_tokens,
        llama2,
        unigram,
    )
}
CACHED = ("gpt2", "llama3", "qwen", "smollm2")
"""Kinds whose splitting is known."""


@cache
def as_json(kind: str) -> str:
    """The `tokenizer.json` of a kind."""
    return KINDS[kind]().to_str()


def specification(kind: str) -> Json:
    """The parsed `tokenizer.json` of a kind, as a copy that a test may change."""
    parsed: Json = json.loads(as_json(kind))
    return parsed


@cache
def library_of(kind: str) -> Tokenizer:
    """The library's own tokenizer of a kind, set to encode the spelling of special tokens as text where it can."""
    found = Tokenizer.from_str(as_json(kind))
    found.encode_special_tokens = True
    return found


def comparable(kind: str, text: str) -> str:
    """The text without the spellings that the library always encodes as special tokens of this kind."""
    if kind in ("llama2", "unigram"):
        for name in ("<unk>", "<pad>", "</s>"):
            text = text.replace(name, "")
    return text
