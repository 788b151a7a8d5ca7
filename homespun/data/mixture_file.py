"""A mixture file flows in; the texts that it names flow out, with their weights.

    [mixture]
    "stories.txt" = 3
    "web/*.parquet" = 1

Of four tokens that a run learns from, three are from the first text. Paths are relative to the folder of the file.
"""

import math
import tomllib
from fractions import Fraction
from pathlib import Path

from homespun.errors import UserError, cannot_read

SUFFIX = ".toml"
LEAST_SHARE = Fraction(1, 1000)
"""Of a text in a mixture."""
_EXAMPLE = 'write [mixture] and then lines such as "stories.txt" = 3'


def is_mixture(path: Path) -> bool:
    """Whether a source of text is a mixture file."""
    return path.suffix.lower() == SUFFIX and path.is_file()


def read_mixture(path: Path) -> list[tuple[Path, int]]:
    """The texts of a mixture, and their weights as whole numbers without a common divisor.

    Raises:
        UserError: the file cannot be read, is not TOML, or has a bad entry.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise cannot_read(error, f"{path}: cannot be read") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid TOML ({error}); for a mixture, {_EXAMPLE}") from None
    entries = content.get("mixture")
    if not isinstance(entries, dict) or len(content) > 1 or len(entries) < 2:
        raise UserError(f"{path}: not a mixture of two or more texts: {_EXAMPLE}")
    weights = [_weight(path, name, value) for name, value in entries.items()]
    for name, weight in zip(entries, weights, strict=True):
        if weight < LEAST_SHARE * sum(weights):
            raise UserError(
                f'{path}: "{name}" is less than {float(LEAST_SHARE):.1%} of the mixture: raise its weight, or leave it '
                "out"
            )
    common = Fraction(
        math.gcd(*(weight.numerator for weight in weights)),
        math.lcm(*(weight.denominator for weight in weights)),
    )
    texts = [path.parent / Path(name).expanduser() for name in entries]
    for text in texts:
        if is_mixture(text):
            raise UserError(f"{path}: {text} is a mixture, too: name its texts here")
    return [(text, int(weight / common)) for text, weight in zip(texts, weights, strict=True)]


def _weight(path: Path, name: str, value: object) -> Fraction:
    """A weight, exactly as it is written.

    Raises:
        UserError: it is not a number above 0.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(float(str(value))) or float(str(value)) <= 0:
        raise UserError(f'{path}: the weight of "{name}" is {value!r}: give a number above 0')
    return Fraction(str(value))
