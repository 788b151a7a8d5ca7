"""The pieces of a SentencePiece BPE vocabulary and their scores flow in, a `tokenizer.json` flows out, and back.

SentencePiece and llama.cpp merge the two neighbours whose piece has the best score, and of equal ones the leftmost. A
`tokenizer.json` ranks pairs of pieces instead, so pieces with one score are refused. The exception are runs of one
character, such as the runs of blanks in the vocabularies of Llama 2 and Mistral: there the longest left piece comes
first, which is the leftmost. The ranks are those of the `transformers` library (`generate_merges`).
"""

import math
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from homespun.errors import UserError
from homespun.tokenizer.byte_level import BYTES
from homespun.tokenizer.byte_level_bpe import merge_pair

Json = dict[str, Any]

SPACE = "▁"
"""Stands for a blank."""
MAX_PIECE = 256
"""Characters. Longer pieces are damage; the work for a piece grows with the square of its length."""
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(BYTES)]
"""The tokens for characters that are no pieces."""

_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPEND = {"type": "Prepend", "prepend": SPACE}
_DECODERS: list[Json] = [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def specification(
    vocabulary: Mapping[str, int],
    scores: Mapping[str, float],
    added: list[Json],
    *,
    unknown: str,
    puts_space_first: bool,
) -> Json:
    """The `tokenizer.json` of a vocabulary.

    Args:
        vocabulary: the ids of all tokens.
        scores: of the pieces that a text can be merged to.
        added: the added tokens.
        unknown: the token for unknown characters.
        puts_space_first: whether a blank is put before each text.

    Raises:
        UserError: ranked merges cannot express the vocabulary.
        ValueError: a piece is too long.
    """
    if missing := [piece for piece in BYTE_PIECES if piece not in vocabulary]:
        raise UserError(
            f"its vocabulary has no token {missing[0]}, so unknown characters would be lost"
        )
    model: Json = {"type": "BPE", "vocab": dict(vocabulary), "merges": merges(scores)}
    model |= {"unk_token": unknown, "fuse_unk": True, "byte_fallback": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": _sequence("normalizers", [_PREPEND, _REPLACE])
        if puts_space_first
        else _REPLACE,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": _sequence("decoders", [*_DECODERS, *([_STRIP] if puts_space_first else [])]),
        "model": model,
    }


def merges(scores: Mapping[str, float]) -> list[list[str]]:
    """All pairs of pieces that are a piece together, best first.

    Raises:
        UserError: two pieces that can be merged have one score, or a character of one is no piece.
        ValueError: a piece is too long, or a score is no number.
    """
    found: list[tuple[float, list[str]]] = []
    with_score: dict[float, set[str]] = {}
    for piece, score in scores.items():
        if len(piece) > MAX_PIECE or not math.isfinite(score):
            raise ValueError(f"a piece of {len(piece):,} characters with the score {score}")
        for n in range(1, len(piece)):
            pair = [piece[:n], piece[n:]]
            # A text is characters at first, whether they are pieces or not.
            if all(half in scores or len(half) == 1 for half in pair):
                if lacking := [half for half in pair if half not in scores]:
                    raise UserError(f"a part of its piece {piece!r} is no piece: {lacking[0]!r}")
                found.append((score, pair))
                with_score.setdefault(score, set()).add(piece)
    for pieces in with_score.values():
        if len(pieces) > 1 and len(set("".join(pieces))) > 1:
            raise UserError(f"its pieces {_listed(pieces)} have the same score")
    found.sort(key=lambda entry: (-entry[0], -len(entry[1][0]), -len(entry[1][1])))
    return [pair for _, pair in found]


def _listed(pieces: Iterable[str]) -> str:
    return " and ".join(map(repr, sorted(pieces)[:2]))


def scores_of(specification: Json) -> dict[str, float] | None:
    """Scores from which `merges` gives the merges of a `tokenizer.json`; None if it is of another kind, or no scores
    do."""
    model = specification["model"]
    steps = [_sequence("normalizers", [_PREPEND, _REPLACE]), _REPLACE]
    if specification.get("normalizer") not in steps or specification.get("pre_tokenizer"):
        return None
    if not model.get("byte_fallback") or model.get("ignore_merges"):
        return None
    if not model["vocab"].keys() >= {model.get("unk_token"), *BYTE_PIECES}:
        return None
    special = {token["content"] for token in specification["added_tokens"] if token["special"]}
    pieces = [p for p in model["vocab"] if p not in special and p not in BYTE_PIECES]
    pairs = [list(merge_pair(merge)) for merge in model["merges"]]
    last = {left + right: n for n, (left, right) in enumerate(pairs)}
    score = dict.fromkeys(pieces, -float(len(pairs)))
    level, end = 0.0, -1
    for n, (left, right) in enumerate(pairs):
        if n > end:  # no earlier piece has more merges
            level, end = level - 1, n
        end = max(end, last[left + right])
        score[left + right] = level
    try:
        again = merges(score)
    except (UserError, ValueError):
        return None
    return score if _without_order_of_halves(again) == _without_order_of_halves(pairs) else None


def _without_order_of_halves(pairs: Iterable[list[str]]) -> list[list[list[str]]]:
    """Merges, with those of the same piece that follow each other in one order."""
    return [sorted(same) for _, same in groupby(pairs, key="".join)]


def puts_space_first(specification: Json) -> bool:
    """Whether such a tokenizer puts a blank before each text."""
    return bool(specification["normalizer"] != _REPLACE)


def _sequence(name: str, steps: list[Json]) -> Json:
    return {"type": "Sequence", name: steps}
