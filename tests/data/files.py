"""Texts in files of each kind, for the tests of reading them."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_parquet(path: Path, **columns: Sequence[str | None]) -> Path:
    parquet.write_table(pa.table(columns), path, row_group_size=10)
    return path
