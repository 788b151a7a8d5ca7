"""Reads settings from a TOML file. They override the defaults, and flags override them."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from homespun.errors import UserError, did_you_mean


def read_toml(path: Path, kind: type[Any]) -> dict[str, Any]:
    """The settings in a TOML file, for the config dataclass `kind`.

    Raises:
        UserError: the file cannot be read or is not TOML, a key is unknown, or `kind` refuses a value.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--config {path}: not valid TOML ({error})") from None
    known = [field.name for field in dataclasses.fields(kind) if field.name != "config"]
    for key in values:
        if key not in known:
            meant = did_you_mean(key, known, "homespun train --help lists all settings")
            raise UserError(f"{path}: unknown key '{key}': {meant}")
    try:
        kind(**values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return values
