"""The folder of a tokenizer: `tokenizer.json`, `tokenizer_config.json` beside it, and a report.

A folder is written in one step, so it is always complete. An earlier tokenizer is kept under another name.
"""

import json
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.errors import UserError

SPECIFICATION = "tokenizer.json"
CONFIG = "tokenizer_config.json"
REPORT = "report.json"
"""States the hash of the tokenizer, its training text, its compression, and more."""


def check_folder(folder: Path) -> None:
    """Make sure that a tokenizer can be written to a folder, and that only an earlier tokenizer moves aside.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    folder = folder.resolve()
    if folder == Path.cwd() or folder in Path.cwd().parents:
        raise UserError(
            f"{folder}: a tokenizer needs a folder of its own; give another --output-dir"
        )
    try:
        is_free = not folder.exists() or not any(folder.iterdir())
        if is_free or (folder / SPECIFICATION).exists():
            return
    except OSError as error:
        raise UserError(
            f"{folder}: no folder for a tokenizer ({error.strerror or error})"
        ) from None
    raise UserError(f"{folder}: holds other files, and no tokenizer; give another --output-dir")


def write_folder(
    folder: Path, specification: str, config: dict[str, Any], report: dict[str, Any]
) -> Path | None:
    """Write a tokenizer's folder; an earlier tokenizer there moves to FOLDER.1 (.2, ...).

    Args:
        folder: the folder to write.
        specification: the content of `tokenizer.json`.
        config: the content of `tokenizer_config.json`, which the transformers library reads.
        report: the content of `report.json`, see `read_report`.

    Returns:
        The new place of the earlier tokenizer, if there was one.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    folder = folder.resolve()
    check_folder(folder)
    moved = None
    try:
        with durable.replacing_folder(folder) as temporary:
            durable.write(temporary / SPECIFICATION, specification.encode())
            durable.write(temporary / CONFIG, _as_json(config).encode())
            durable.write_json(temporary / REPORT, report)
            if (folder / SPECIFICATION).exists():
                moved = durable.set_aside(folder)
            temporary.rename(folder)
            durable.sync_folder(folder.parent)
    except OSError as error:
        raise UserError(
            f"{folder}: the tokenizer cannot be written ({error.strerror or error})"
        ) from None
    return moved


def read_specification(path: Path) -> tuple[str, Path]:
    """The `tokenizer.json` of a folder, or at a path, and the path of that file.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    file = path / SPECIFICATION if path.is_dir() else path
    try:
        return file.read_text(encoding="utf-8"), file
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no tokenizer here; `homespun tokenizer` trains one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable ({error})") from None


def read_report(path: Path) -> dict[str, Any]:
    """The `report.json` of a tokenizer; empty if there is none.

    Args:
        path: the folder of the tokenizer, or its `tokenizer.json`.

    Raises:
        UserError: the report is damaged or cannot be read.
    """
    if path.is_dir():
        file = path / REPORT
    elif path.name == SPECIFICATION:
        file = path.with_name(REPORT)
    else:
        return {}  # a report belongs to the `tokenizer.json` beside it
    try:
        return durable.read_json(file)
    except durable.DamagedRecord as error:
        raise UserError(
            f"{error}: train the tokenizer again, or delete this file to use {SPECIFICATION} "
            "without a check"
        ) from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def configured_eos(specification: Path) -> str | None:
    """The end-of-sequence token in the `tokenizer_config.json` beside a `tokenizer.json`.

    None if the config is missing or cannot be read.
    """
    try:
        config = json.loads(specification.with_name(CONFIG).read_text(encoding="utf-8"))
        token = config["eos_token"]
        name = token["content"] if isinstance(token, dict) else token
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
