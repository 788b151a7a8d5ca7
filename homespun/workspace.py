"""What this folder did last: the newest download and tokenizer, remembered by name.

The record is `.homespun.json` in the working directory. File times decide nothing: a copied or
touched file must not change which data a run reads.
"""

from pathlib import Path
from typing import Literal

from homespun import durable

RECORD = Path(".homespun.json")

Kind = Literal["data", "tokenizer"]


def remember(kind: Kind, path: Path) -> None:
    """Record `path` as the newest of its kind."""
    durable.write_json(RECORD, durable.read_json(RECORD) | {kind: str(path)})


def recall(kind: Kind) -> Path | None:
    """The newest path of its kind, or None if nothing was recorded."""
    path = durable.read_json(RECORD).get(kind)
    return Path(path) if path else None
