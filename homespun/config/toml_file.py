"""Reads settings from a TOML file. They override the defaults, and flags override them."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from homespun.config.checked import meant_setting
from homespun.errors import UserError


def read_toml(path: Path, kind: type[Any]) -> dict[str, Any]:
    """The settings in a TOML file, for the config dataclass `kind`.

    Raises:
        UserError: the file cannot be read or is not TOML, a key is unknown, or `kind` refuses a value.
    """
    try:
        # Editors on Windows put a byte-order mark before the text.
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file") from None
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"--config {path}: not valid TOML ({error})") from None
    known = [field.name for field in dataclasses.fields(kind) if field.name != "config"]
    for key in values:
        if key == "config":
            raise UserError(f"{path}: a TOML file cannot name another one: remove the key config")
        if key not in known:
            meant = meant_setting(kind, key, "homespun train --help lists all settings")
            raise UserError(f"{path}: unknown key '{key}': {meant}")
    try:
        kind(**values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return values
