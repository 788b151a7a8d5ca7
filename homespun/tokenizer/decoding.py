"""The decoder of a `tokenizer.json` flows in, the text of each token flows out."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from homespun.tokenizer import byte_level

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Decoding:
    """How tokens become text."""

    token_bytes: Callable[[str], bytes]
    """The bytes that a token of the model's vocabulary stands for."""
    is_byte_level: bool = False
    drops_first_space: bool = False
    """Whether a text loses the space that the tokenizer puts before it."""


BYTE_LEVEL = Decoding(byte_level.token_bytes, is_byte_level=True)


def known_decoding(decoder: Any) -> Decoding | None:
    """How a decoder turns tokens into text: byte-level, or as SentencePiece does; None for any other.

    Args:
        decoder: the entry `decoder` of a `tokenizer.json`.
    """
    steps = _steps(decoder)
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return BYTE_LEVEL
    marks = []  # characters that stand for a space
    has_byte_tokens = drops_first_space = False
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": str(mark)}, "content": " "}:
                marks.append(mark)
            case {"type": "Metaspace", "replacement": mark}:
                marks.append(mark)
                drops_first_space = step.get("prepend_scheme", "always") != "never"
            case {"type": "ByteFallback"}:
                has_byte_tokens = True
            case {"type": "Fuse"}:
                pass
            case {"type": "Strip", "content": " ", "start": 1, "stop": 0}:
                drops_first_space = True
            case _:
                return None
    if len(marks) != 1 or len(marks[0]) != 1:
        return None

    def token_bytes(token: str) -> bytes:
        if has_byte_tokens and (byte := _BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        return token.replace(marks[0], " ").encode()

    return Decoding(token_bytes, drops_first_space=drops_first_space)


def _steps(decoder: Any) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for inner in decoder["decoders"] for step in _steps(inner)]
