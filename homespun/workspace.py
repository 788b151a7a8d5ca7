"""What this folder did last: the newest download and tokenizer, remembered by name.

The record is `.homespun.json` in the working directory. File times decide nothing: a copied or touched file must not
change which data a run reads.
"""

import json
import os
from pathlib import Path
from typing import Literal

RECORD = Path(".homespun.json")

Kind = Literal["data", "tokenizer"]


def remember(kind: Kind, path: Path) -> None:
    """Record `path` as the newest of its kind."""
    record = _read()
    record[kind] = str(path)
    temporary = RECORD.with_name(f"{RECORD.name}.{os.getpid()}")
    temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    temporary.replace(RECORD)


def recall(kind: Kind) -> Path | None:
    """The newest path of its kind, or None if nothing was recorded."""
    path = _read().get(kind)
    return Path(path) if path else None


def _read() -> dict[str, str]:
    try:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
