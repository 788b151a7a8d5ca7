"""A file that describes a text flows in: a mixture of texts, or tokens that lie elsewhere.

    [mixture]
    "stories.txt" = 3
    "web/*.parquet" = 1

Of four tokens that a run learns from, three are from the first text.

    [tokens]
    url = "s3://bucket/b21eaf7fad9b-403b147d3fd8"
    cache = "20 GB"

The tokens are read from there, and at most so many bytes of them are kept on this disk. Paths are relative to the
folder of the file.
"""

import math
import re
import tomllib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from homespun.errors import UserError, cannot_read

SUFFIX = ".toml"
LEAST_SHARE = Fraction(1, 1000)
"""Of a text in a mixture."""
DEFAULT_CACHE = "10 GB"
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_MIXTURE = 'write [mixture] and then lines such as "stories.txt" = 3'
_TOKENS = 'write [tokens] and url = "s3://bucket/folder"'


@dataclass(frozen=True)
class Mixture:
    """Texts, and their weights as whole numbers without a common divisor."""

    texts: tuple[Path, ...]
    weights: tuple[int, ...]


@dataclass(frozen=True)
class TokensElsewhere:
    """A folder of tokens that was made by `homespun prepare`, and bytes of it that may be kept on this disk."""

    url: str
    cache_bytes: int


def is_described(path: Path) -> bool:
    """Whether a source of text is a file that describes it."""
    return path.suffix.lower() == SUFFIX and path.is_file()


def read_description(path: Path) -> Mixture | TokensElsewhere:
    """The content of such a file.

    Raises:
        UserError: the file cannot be read, is not TOML, or has a bad entry.
    """
    content = _content(path)
    if [*content] == ["tokens"] and isinstance(content["tokens"], dict):
        return _tokens(path, content["tokens"])
    if [*content] == ["mixture"] and isinstance(content["mixture"], dict):
        return _mixture(path, content["mixture"])
    raise UserError(f"{path}: describes no text; for a mixture, {_MIXTURE}; for tokens, {_TOKENS}")


def _content(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise cannot_read(error, f"{path}: cannot be read") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid TOML ({error}); for a mixture, {_MIXTURE}") from None


def _tokens(path: Path, entries: dict[str, Any]) -> TokensElsewhere:
    url, cache = entries.get("url"), entries.get("cache", DEFAULT_CACHE)
    if not isinstance(url, str) or not url or entries.keys() - {"url", "cache"}:
        raise UserError(f"{path}: {_TOKENS}, and perhaps cache")
    size = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MGT]B)", cache) if isinstance(cache, str) else None
    if not size:
        raise UserError(f'{path}: cache is {cache!r}: write a size such as "20 GB"')
    if "://" not in url:
        url = str(path.parent / Path(url).expanduser())
    return TokensElsewhere(url.rstrip("/"), int(float(size[1]) * _UNITS[size[2]]))


def _mixture(path: Path, entries: dict[str, Any]) -> Mixture:
    if len(entries) < 2:
        raise UserError(f"{path}: a mixture has two or more texts: {_MIXTURE}")
    weights = [_weight(path, name, value) for name, value in entries.items()]
    for name, weight in zip(entries, weights, strict=True):
        if weight < LEAST_SHARE * sum(weights):
            raise UserError(
                f'{path}: "{name}" is less than {float(LEAST_SHARE):.1%} of the mixture: raise its weight, or leave it '
                "out"
            )
    texts = tuple(path.parent / Path(name).expanduser() for name in entries)
    for text in texts:
        if is_described(text) and "mixture" in _content(text):
            raise UserError(f"{path}: {text} is a mixture, too: name its texts here")
    common = Fraction(
        math.gcd(*(weight.numerator for weight in weights)),
        math.lcm(*(weight.denominator for weight in weights)),
    )
    return Mixture(texts, tuple(int(weight / common) for weight in weights))


def _weight(path: Path, name: str, value: object) -> Fraction:
    """A weight, exactly as it is written.

    Raises:
        UserError: it is not a number above 0.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(float(str(value))) or float(str(value)) <= 0:
        raise UserError(f'{path}: the weight of "{name}" is {value!r}: give a number above 0')
    return Fraction(str(value))
