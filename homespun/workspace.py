"""What this folder did last: the newest download and tokenizer, remembered by name.

The record is `.homespun.json` in the working directory. File times decide nothing: a copied or
touched file must not change which data a run reads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from homespun import durable
from homespun.errors import UserError

RECORD = Path(".homespun.json")

Kind = Literal["data", "tokenizer"]


def remember(kind: Kind, path: Path) -> None:
    """Record `path` as the newest of its kind.

    Raises:
        UserError: the record cannot be written.
    """
    with _record_at_hand():
        durable.write_json(RECORD, durable.read_json(RECORD) | {kind: str(path)})


def recall(kind: Kind) -> Path | None:
    """The newest path of its kind, or None if nothing was recorded.

    Raises:
        UserError: the record cannot be read.
    """
    with _record_at_hand():
        path = durable.read_json(RECORD).get(kind)
    return Path(path) if isinstance(path, str) else None


def chosen_data(named: str | None) -> Path:
    """The text that is named, else the last download.

    Raises:
        UserError: there is neither, or the record cannot be read.
    """
    path = Path(named) if named else recall("data")
    if path is None:
        raise UserError(
            "there is no text to learn from yet: name a file with --data-file, or get some with "
            "homespun download --dataset stories (needs no network)"
        )
    return path


@contextmanager
def _record_at_hand() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{RECORD} in this folder cannot be used ({error.strerror}): move it away"
        ) from None
