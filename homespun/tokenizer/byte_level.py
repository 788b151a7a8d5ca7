"""The alphabet of byte-level vocabularies: each of the 256 bytes has a printable character."""

from functools import cache

BYTES = 256


@cache
def byte_alphabet() -> tuple[str, ...]:
    """The character for each byte: the byte itself where that is printable. [256]

    As in GPT-2's `bytes_to_unicode` (https://github.com/openai/gpt-2, src/encoder.py).
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    replacements = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(replacements)) for byte in range(BYTES))


@cache
def _byte_of() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_alphabet())}


def token_bytes(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary spells.

    A token with any character outside the alphabet spells its own UTF-8, as in the `tokenizers` library.
    """
    byte_of = _byte_of()
    try:
        return bytes([byte_of[character] for character in token])
    except KeyError:
        return token.encode()
