"""The vocabulary in the metadata of a GGUF file flows in, a tokenizer flows out, and back.

There are two kinds. Byte-level BPE: llama.cpp names a few splittings of text into words, and the others cannot be
stated in such a file. SentencePiece BPE: the pieces have scores, see `tokenizer.sentencepiece_bpe`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from homespun.config.checked import shown
from homespun.errors import UserError
from homespun.tokenizer import Tokenizer, sentencepiece_bpe
from homespun.tokenizer.byte_level_bpe import merge_pair
from homespun.tokenizer.splitting import LLAMA3_WORDS, QWEN2_WORDS, normal_steps

MODEL = "tokenizer.ggml.model"
PRE = "tokenizer.ggml.pre"
TOKENS = "tokenizer.ggml.tokens"
TYPES = "tokenizer.ggml.token_type"
MERGES = "tokenizer.ggml.merges"
SCORES = "tokenizer.ggml.scores"
EOS = "tokenizer.ggml.eos_token_id"
BOS = "tokenizer.ggml.bos_token_id"
CHAT_TEMPLATE = "tokenizer.chat_template"
UNKNOWN_ID = "tokenizer.ggml.unknown_token_id"
SPACE_FIRST = "tokenizer.ggml.add_space_prefix"

BYTE_LEVEL_BPE, SENTENCEPIECE_BPE = "gpt2", "llama"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_WORDS_AND_BYTES = _BYTES | {"use_regex": True}


def _split(expression: str) -> dict[str, Any]:
    step = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated"}
    return _sequence(step | {"invert": False}, _BYTES | {"use_regex": False})


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


SPLITTINGS: dict[str, dict[str, Any]] = {
    "gpt-2": _WORDS_AND_BYTES,
    "smollm": _sequence({"type": "Digits", "individual_digits": True}, _WORDS_AND_BYTES),
    "llama-bpe": _split(LLAMA3_WORDS),
    "qwen2": _split(QWEN2_WORDS),
}
"""The `pre_tokenizer` of each splitting that llama.cpp knows by this name."""
NORMALIZERS = {"qwen2": {"type": "NFC"}}
IGNORE_MERGES = ("llama-bpe",)
"""Splittings whose tokenizers take a word that is a token without merging."""
SAME = {"default": "gpt-2", "gpt2": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe"}
"""Other names of the same splittings."""


def to_metadata(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """The vocabulary as a GGUF file states it.

    Args:
        tokenizer: the tokenizer.
        vocab_size: rows of the model's embedding; those that stand for no token are named as unused.

    Raises:
        UserError: a tokenizer that llama.cpp does not have.
    """
    specification = json.loads(tokenizer.to_json())
    model = specification["model"]
    if "merges" not in model:
        raise UserError("llama.cpp has BPE here, not this kind of tokenizer")
    scores = sentencepiece_bpe.scores_of(specification)
    tokens = [f"[PAD{n}]" for n in range(vocab_size)]
    types = [UNUSED] * vocab_size
    for token, number in model["vocab"].items():
        tokens[number], types[number] = token, NORMAL
    for added in specification["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    stated = {TOKENS: tokens, TYPES: types, EOS: tokenizer.eot_id}
    if scores is None:
        merges = [" ".join(merge_pair(merge)) for merge in model["merges"]]
        name = _name_of_splitting(specification)
        return stated | {MODEL: BYTE_LEVEL_BPE, PRE: name, MERGES: merges}
    for piece in sentencepiece_bpe.BYTE_PIECES:
        types[model["vocab"][piece]] = BYTE
    unknown = model["vocab"][model["unk_token"]]
    types[unknown] = UNKNOWN
    return stated | {
        MODEL: SENTENCEPIECE_BPE,
        PRE: "default",
        SCORES: [scores.get(token, 0.0) for token in tokens],
        UNKNOWN_ID: unknown,
        SPACE_FIRST: sentencepiece_bpe.puts_space_first(specification),
    }


def _name_of_splitting(specification: Mapping[str, Any]) -> str:
    steps = normal_steps(specification.get("pre_tokenizer"))
    for name, known in SPLITTINGS.items():
        if steps == normal_steps(known) and specification.get("normalizer") == NORMALIZERS.get(
            name
        ):
            return name
    raise UserError("llama.cpp does not have this tokenizer's way of splitting text into words")


def from_metadata(metadata: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer that a GGUF file describes.

    Args:
        metadata: of the file.
        where: messages begin with it.

    Raises:
        UserError: another kind of tokenizer, or a damaged one.
    """
    kind, pre = _name(metadata, MODEL), _splitting(metadata)
    if kind != SENTENCEPIECE_BPE and (kind != BYTE_LEVEL_BPE or pre not in SPLITTINGS):
        raise UserError(
            f"{where}: its tokenizer is of kind {kind}, {pre}: only byte-level BPE with the splitting of "
            f"{', '.join(SPLITTINGS)}, and SentencePiece BPE are supported"
        )
    try:
        tokens = _texts(metadata, TOKENS)
        types = np.asarray(metadata.get(TYPES, [NORMAL] * len(tokens))).tolist()
        if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
            raise ValueError("tokens and their types do not fit")
        read = _sentencepiece if kind == SENTENCEPIECE_BPE else _byte_level
        specification = read(metadata, tokens, types)
        eos = metadata.get(EOS)
        eos_token = None if eos is None else str(tokens[eos])
    except UserError as error:
        raise UserError(f"{where}: its tokenizer cannot be used here: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{where}: its tokenizer is damaged ({error}): get it again") from None
    return Tokenizer.from_json(json.dumps(specification), where, configured=eos_token)


def chat_template_of(metadata: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, str] | None:
    """The template of conversations in a GGUF file, as `ChatTemplate.stored` gives it; None if there is none."""
    source = metadata.get(CHAT_TEMPLATE)
    if not isinstance(source, str):
        return None
    by_id = {number: name for name, number in tokenizer.special_ids.items()}
    numbers = {"bos_token": metadata.get(BOS), "eos_token": metadata.get(EOS)}
    names = {
        name: by_id[number]
        for name, number in numbers.items()
        if isinstance(number, int) and number in by_id
    }
    return {"source": source, **names}


def eos_of_template(
    vocabulary: Mapping[str, Any], eos_token: str | None, tokenizer: Tokenizer
) -> int:
    """The token that a file states as the end: the one that a template names so, if the same separator of documents is
    found in the file then, or else the separator."""
    separator: int = vocabulary[EOS]
    named = tokenizer.special_ids.get(eos_token or "", separator)
    read_back = from_metadata({**vocabulary, EOS: named}, "the copy")
    return named if read_back.eot_id == separator else separator


def _splitting(metadata: Mapping[str, Any]) -> str:
    """The name of the splitting, as in `SPLITTINGS` if it is known."""
    name = _name(metadata, PRE)
    return SAME.get(name, name)


def _name(metadata: Mapping[str, Any], key: str) -> str:
    """A name in the metadata; another value as it is shown in messages."""
    name = metadata.get(key, "default")
    return name if isinstance(name, str) else shown(name)


def _texts(metadata: Mapping[str, Any], key: str) -> list[str]:
    """A list of texts.

    Raises:
        KeyError: there is none.
        TypeError: it is something else.
    """
    texts: list[str] = metadata[key]
    if not isinstance(texts, list):
        raise TypeError(f"{key} is no list of texts")
    return texts


def _vocabulary(
    tokens: Sequence[str], types: Sequence[int]
) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """The ids of all tokens that are used, and the added tokens."""
    vocabulary, added = {}, []
    for number, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind in (UNKNOWN, CONTROL, USER_DEFINED):
            options = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            named = {"id": number, "content": token, "special": kind != USER_DEFINED}
            added.append(named | options)
        if kind != UNUSED:
            vocabulary[token] = number
    return vocabulary, added


def _sentencepiece(
    metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]
) -> dict[str, Any]:
    """The `tokenizer.json` of a vocabulary whose pieces have scores."""
    vocabulary, added = _vocabulary(tokens, types)
    stated = np.asarray(metadata[SCORES], np.float64).tolist()
    scores = {
        token: score
        for token, kind, score in zip(tokens, types, stated, strict=True)
        if kind in (NORMAL, USER_DEFINED)
    }
    return sentencepiece_bpe.specification(
        vocabulary,
        scores,
        added,
        unknown=tokens[metadata.get(UNKNOWN_ID, 0)],
        puts_space_first=bool(metadata.get(SPACE_FIRST, True)),
    )


def _byte_level(
    metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]
) -> dict[str, Any]:
    """The `tokenizer.json` of a vocabulary whose merges have ranks."""
    pre, merges = _splitting(metadata), _texts(metadata, MERGES)
    vocabulary, added = _vocabulary(tokens, types)
    model: dict[str, Any] = {"type": "BPE", "vocab": vocabulary}
    model["merges"] = [_pair(merge) for merge in merges]
    if pre in IGNORE_MERGES:
        model["ignore_merges"] = True
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": NORMALIZERS.get(pre),
        "pre_tokenizer": SPLITTINGS[pre],
        "post_processor": None,
        "decoder": _BYTES | {"use_regex": True},
        "model": model,
    }


def _pair(merge: str) -> list[str]:
    left, right = merge.split(" ")
    return [left, right]
