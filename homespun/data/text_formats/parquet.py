"""A .parquet file flows in, its rows flow out."""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from homespun.data.text_formats.columns import Choose
from homespun.data.text_formats.compression import COMPRESSIONS, READ, head_of
from homespun.data.text_formats.foreign import not_text
from homespun.errors import UserError


def records(
    file: BinaryIO, name: str, start: int, choose: Choose
) -> Iterator[tuple[dict[str, Any], str, int]]:
    """Stream the rows, each with its place and its number. Arguments and errors as for `documents.read`.

    Args:
        choose: gets the names of the columns and returns those that are wanted.
    """
    import pyarrow
    from pyarrow import parquet

    row = 0
    try:
        # Buffered and without prefetching, so that only the rows that are taken are read from a remote column.
        table = parquet.ParquetFile(file, buffer_size=READ, pre_buffer=False)
        columns = choose(table.schema_arrow.names)
        for group in range(table.num_row_groups):
            n_rows = table.metadata.row_group(group).num_rows
            if row + n_rows <= start:
                row += n_rows
                continue
            for batch in table.iter_batches(
                64, row_groups=[group], columns=columns, use_threads=False
            ):
                values = (batch.column(column).to_pylist() for column in columns)
                for values_of_row in zip(*values, strict=True):
                    row += 1
                    if row > start:
                        record = dict(zip(columns, values_of_row, strict=True))
                        yield record, f"{name}, row {row}", row
    except UnicodeDecodeError:
        raise UserError(f"{name}: not UTF-8 in row {row + 1} or shortly after") from None
    except (pyarrow.ArrowException, OSError) as error:
        if row == 0:
            for packed in COMPRESSIONS:
                if re.match(COMPRESSIONS[packed][1], head_of(file)):
                    raise not_text(name, f".parquet{packed}") from None
        raise UserError(f"{name}: not readable as parquet ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
