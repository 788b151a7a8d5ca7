"""Tokens flow in, what a reader sees of each flows out: its text, and its bytes where they are no text of their own."""

from collections.abc import Iterable

from homespun.server.studio.exchange import JSON
from homespun.tokenizer import Tokenizer


def spelled(tokenizer: Tokenizer, token: int) -> JSON:
    """`id`, `text` and `bytes` in hexadecimal digits of a token; `name` instead of text for a special one."""
    content = tokenizer.token_bytes(token) if token < tokenizer.vocab_size else b""
    word: JSON = {
        "id": token,
        "text": content.decode("utf-8", "replace"),
        "bytes": content.hex(" "),
    }
    if not content:
        word["name"] = "end of text" if token == tokenizer.eot_id else f"special token {token}"
    return word


def spelled_text(tokenizer: Tokenizer, tokens: Iterable[int]) -> list[JSON]:
    """`spelled` for the tokens of a text. A character of several tokens is the text of the last one of them."""
    characters = tokenizer.stream()
    return [spelled(tokenizer, token) | {"text": characters.push(token)} for token in tokens]
