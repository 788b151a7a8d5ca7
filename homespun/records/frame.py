"""Rows flow in, a `pandas.DataFrame` flows out, where pandas is installed.

pandas is no dependency of the package: the rows themselves are there without it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from homespun.errors import UserError


def data_frame(rows: Iterable[Mapping[str, Any]], attribute: str) -> Any:
    """A data frame with these rows. `attribute` holds them for somebody without pandas.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas  # type: ignore[import-untyped]
    except ImportError:
        raise UserError(
            f"a data frame needs pandas: pip install pandas; without it, `{attribute}` has the same as dictionaries"
        ) from None
    return pandas.DataFrame(list(rows))
