"""The TOML file of a run in, the settings that stand in it out: the way between defaults and flags."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from homespun.errors import UserError, did_you_mean


def read_toml(path: Path, kind: type[Any]) -> dict[str, Any]:
    """The settings in a TOML file, for the config dataclass `kind`.

    Raises:
        UserError: the file cannot be read, is not TOML, or holds an unknown key or a value that `kind` refuses.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--config {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"--config {path}: not readable as TOML ({error})") from None
    known = [field.name for field in dataclasses.fields(kind) if field.name != "config"]
    for key in values:
        if key not in known:
            meant = did_you_mean(key, known, "homespun train --help lists what there is")
            raise UserError(f"{path}: unknown key '{key}': {meant}")
    try:
        kind(**values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return values
